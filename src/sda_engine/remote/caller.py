"""How threads and event loops wait for what runs in a connection's loop, and give it up."""

import asyncio
import os
import queue
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import openai

from sda_engine.errors import EngineClosedError, SDAError
from sda_engine.remote.connection import Connection, Work
from sda_engine.results import Piece

_PATIENCE = 5.0  # seconds that closing waits for requests to have ended

_Result = TypeVar("_Result")
_Put = Callable[[Piece | None], None]


class Answering(Protocol):
    """A request for an answer in pieces."""

    @property
    def text(self) -> str:
        """What has come of it."""
        ...

    async def pieces(self, client: openai.AsyncOpenAI, put: Callable[[Piece], None]) -> None:
        """Hand out the pieces; the last one has the Completion."""
        ...


class Caller:
    """Makes the requests of one engine, for whoever asks, until it is closed.

    Attributes:
        closed: whether it is.
    """

    def __init__(self, connection: Connection) -> None:
        self.closed = False
        self._connection: Connection | None = connection
        self._running: set[asyncio.Task[Any]] = set()  # changed in the connection's loop alone

    def wait(self, work: Work[_Result]) -> _Result:
        """What comes of something, for a thread."""
        future = self._start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # by Ctrl-C, say, after which nobody waits for it
            raise

    async def wait_in_loop(self, work: Work[_Result]) -> _Result:
        """The same for an event loop. Cancelling the task gives it up."""
        return await asyncio.wrap_future(self._start(work))

    def pieces(self, answering: Answering) -> Generator[Piece, None, None]:
        """The pieces of an answer, for a thread. Closing the generator gives it up."""
        inbox: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        process = os.getpid()
        future = self._start(lambda client: answering.pieces(client, inbox.put), answering)
        future.add_done_callback(lambda _: inbox.put(None))
        piece: Piece | None = None
        try:
            while (piece := inbox.get()) is not None:
                yield piece
                if piece.completion is not None:
                    return
                _check_process(process)
            future.result()
        finally:
            _give_up_unless_whole(future, piece)

    async def pieces_in_loop(self, answering: Answering) -> AsyncGenerator[Piece, None]:
        """The same for an event loop. Closing the generator or cancelling the task gives it up."""
        inbox: asyncio.Queue[Piece | None] = asyncio.Queue()
        put = _loop_sink(inbox)
        process = os.getpid()
        future = self._start(lambda client: answering.pieces(client, put), answering)
        future.add_done_callback(lambda _: put(None))
        piece: Piece | None = None
        try:
            while (piece := await inbox.get()) is not None:
                yield piece
                if piece.completion is not None:
                    return
                _check_process(process)
            future.result()
        finally:
            _give_up_unless_whole(future, piece)

    def close(self) -> None:
        """Give up all requests, and refuse those to come."""
        self.closed = True
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            with suppress(TimeoutError):  # which end all the same
                connection.start(self._give_all_up).result(_PATIENCE)

    def _start(self, work: Work[_Result], answering: Answering | None = None) -> "Future[_Result]":
        connection = self._connection
        if connection is None:
            raise _closed("")
        return connection.start(lambda client: self._run(work(client), answering))

    async def _run(self, work: Coroutine[Any, Any, _Result], answering: Answering | None) -> _Result:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if self.closed:
                raise _closed("" if answering is None else answering.text) from None
            raise
        finally:
            self._running.discard(task)

    async def _give_all_up(self, _: openai.AsyncOpenAI) -> None:
        here = asyncio.get_running_loop()
        tasks = [task for task in self._running if task.get_loop() is here]  # others were begun before a fork
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _loop_sink(inbox: asyncio.Queue[Piece | None]) -> _Put:
    loop = asyncio.get_running_loop()

    def put(piece: Piece | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            loop.call_soon_threadsafe(inbox.put_nowait, piece)

    return put


def _give_up_unless_whole(future: "Future[None]", last: Piece | None) -> None:
    if last is None or last.completion is None:
        future.cancel()


def _check_process(process: int) -> None:
    if os.getpid() != process:
        raise SDAError(
            "This request was made before the process was forked, and is answered in the process that made it. Make it "
            "anew in this one."
        )


def _closed(partial: str) -> EngineClosedError:
    return EngineClosedError("The engine has been closed. Make a new one with RemoteEngine(...).", partial=partial)
