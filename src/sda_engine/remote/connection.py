"""The way to a server: one event loop in a thread of its own, and one pool of connections that lives in it.

All requests run in that loop, whoever makes them: threads, and event loops of which a process may see several one after
the other, which a pool of connections would not outlive. There each can be given up at once, wherever it is, be it
because its time is over, its reader is gone, or the engine is closed.
"""

import asyncio
import hashlib
import os
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx2
import openai
from pydantic import SecretStr

from sda_engine.errors import ServerError
from sda_engine.forks import make_lock, start_over_in_forks
from sda_engine.remote.failures import KEY_VARIABLE
from sda_engine.servers import NO_KEY, check_key, open_client
from sda_engine.threads import DaemonExecutor, start_thread

_MAX_REPLY_BYTES = 256 * 1024 * 1024  # an answer of 100,000 tokens with its trace
_TIMEOUT = httpx2.Timeout(None, connect=10.0)  # seconds; a request as a whole has a deadline

_Result = TypeVar("_Result")
Work = Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, _Result]]
"""What is to be done with a client, in the loop that the client lives in."""


class Connection:
    """A server and what authorises there. Nothing is opened before the first request.

    Everybody who names the same server with the same key shares one, see `connect`. It ends when nobody has it any
    more, and a forked process opens its own.

    Attributes:
        url: the API's root.
        key: what authorises.
    """

    def __init__(self, url: str, key: SecretStr) -> None:
        self.url, self.key = url, key
        self._lock = make_lock()
        self._home: _Home | None = None
        self._homes_before_forks: list[_Home] = []  # of which nothing runs here, and nothing may be tidied up
        start_over_in_forks(self)

    def start_over(self) -> None:
        """In a forked process: the thread is not there, and what is open is the other process's."""
        if self._home is not None:
            self._end.detach()
            self._homes_before_forks.append(self._home)
            self._home = None

    @property
    def is_open(self) -> bool:
        """Whether anything was begun, so that there is a thread."""
        return self._home is not None

    def start(self, work: Work[_Result]) -> "Future[_Result]":
        """Begin something. Cancelling the future cancels it."""
        with self._lock:
            if self._home is None:
                self._home = _Home(self.url, self.key)
                self._end = weakref.finalize(self, self._home.end)
            return asyncio.run_coroutine_threadsafe(self._home.run(work), self._home.loop)

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"


class _Home:
    """A thread, its loop, and the client in it; knows nothing of the Connection, so that a forgotten one ends."""

    def __init__(self, url: str, key: SecretStr) -> None:
        self.loop = asyncio.new_event_loop()
        self._url, self._key = url, key
        self._client: openai.AsyncOpenAI | None = None
        self._over = asyncio.Event()
        start_thread(self._live, "sda-remote")

    async def run(self, work: Work[_Result]) -> _Result:
        if self._client is None:  # made in this thread, since loading certificates takes a loop's time
            self._client = open_client(
                self._url, self._key, most_bytes=_MAX_REPLY_BYTES, refuse=ServerError, timeout=_TIMEOUT
            )
        return await work(self._client)

    def end(self) -> None:
        """Have the thread end, from any thread and without a lock: garbage may be collected anywhere."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._over.set)

    def _live(self) -> None:
        self.loop.set_default_executor(DaemonExecutor())  # it looks up names of hosts, for which nobody shall wait
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._stay())

    async def _stay(self) -> None:
        await self._over.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.close()


_connections: "weakref.WeakValueDictionary[str, Connection]" = weakref.WeakValueDictionary()
_connecting = make_lock()
_SALT = os.urandom(16)


def connect(url: str, key: SecretStr) -> Connection:
    """The connection to a server with a key: the one that there is, if somebody has one."""
    digest = hashlib.blake2b(key.get_secret_value().encode(), key=_SALT).hexdigest()  # which does not tell the key
    name = f"{url} {digest}"
    with _connecting:
        connection = _connections.get(name)
        if connection is None:
            connection = _connections[name] = Connection(url, key)
        return connection


def read_key(owner: str, api_key: str | SecretStr | None) -> SecretStr:
    """The key that was given, else the one in SDA_API_KEY, else a placeholder.

    Args:
        owner: what was given the key, for the error.
        api_key: the key; None for the environment's.

    Raises:
        ConfigError: it does not fit into an HTTP header.
    """
    if api_key is not None:
        return check_key(f"{owner}.api_key", api_key)
    return check_key(f"The environment variable {KEY_VARIABLE}", os.environ.get(KEY_VARIABLE) or NO_KEY)
