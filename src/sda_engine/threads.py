"""Threads that nobody has to wait for: an interpreter that ends, after Ctrl-C say, leaves them behind.

Those of a ThreadPoolExecutor are waited for at the end of the process, whatever they wait for themselves.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


def start_thread(work: Callable[[], _Result], name: str) -> "Future[_Result]":
    """Call a function in a daemon thread of its own.

    Returns:
        What comes of it. Cancelling has no effect: a thread cannot be stopped.
    """
    future: Future[_Result] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=_fulfil, args=(future, work), name=name, daemon=True).start()
    return future


@contextmanager
def event_loop_in_thread(name: str) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop (asyncio) that runs in a daemon thread for the length of the block.

    However the block is left, what still runs in the loop is cancelled, and not waited for.
    """
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def live() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        loop.set_default_executor(DaemonExecutor())
        started.put((loop, end))
        await end.wait()  # `asyncio.run` cancels all other tasks after this one

    start_thread(lambda: asyncio.run(live()), name)
    loop, end = started.get()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(end.set)


class DaemonExecutor(ThreadPoolExecutor):
    """For an event loop, which takes no executor of another type: a daemon thread per call.

    It is there for the names of hosts, which a thread looks up that cannot be cancelled.
    """

    def submit(
        self, fn: Callable[_Arguments, _Result], /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> "Future[_Result]":
        """Call a function in a thread of its own."""
        return start_thread(partial(fn, *args, **kwargs), "sda-helper")


def _fulfil(future: "Future[_Result]", work: Callable[[], _Result]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits for the result is the one to tell
        future.set_exception(error)
    else:
        future.set_result(result)
