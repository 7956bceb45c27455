"""The worker thread that runs every forward pass of an engine, and the ways to wait for it.

Tasks come in from any thread and any event loop, and begin in the order they came. Those that run take turns, one step
each; what comes while as many run as may waits until one of them ends. The thread starts with the first task, and ends
with the engine. Torch's inference mode and the caches never leave the thread.
"""

import asyncio
import queue
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator

import torch

from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.tasks import Event, Failed, Finished, Sink, Task
from sda_engine.errors import EngineClosedError, RequestTimeoutError, SDAError

_ENDED = object()
_MOST_AT_ONCE = 4  # tasks that take turns; each keeps its caches in memory


class Scheduler:
    """Runs tasks on a model in a thread of its own."""

    def __init__(self, runner: ModelRunner) -> None:
        self._worker = _Worker(runner)
        self._finalizer = weakref.finalize(self, self._worker.close)  # at collection, or at exit

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            EngineClosedError: the engine has been closed.
        """
        self._worker.submit(task)

    def close(self) -> None:
        """Cancel what runs, refuse what waits, and end the thread."""
        self._finalizer()

    def events(self, task: Task, deadline: float | None = None) -> Generator[Event, None, None]:
        """Run a task and yield its events; the last one is Finished. Closing the iterator cancels the task.

        Args:
            task: a new task.
            deadline: time.monotonic() seconds; None waits for ever.

        Raises:
            RequestTimeoutError: the deadline passed.
            SDAError: whatever the task failed with.
        """
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        task.connect(inbox.put)
        self.submit(task)
        try:
            while True:
                try:
                    event = inbox.get(timeout=_remaining(deadline))
                except queue.Empty:
                    raise _timed_out() from None
                yield _checked(event)
                if isinstance(event, Finished):
                    return
        finally:
            task.cancel()

    async def aevents(self, task: Task, deadline: float | None = None) -> AsyncGenerator[Event, None]:
        """The same for an event loop. Cancelling the consumer cancels the task."""
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        task.connect(_loop_sink(task, inbox))
        self.submit(task)
        try:
            while True:
                try:
                    async with asyncio.timeout(_remaining(deadline)):
                        event = await inbox.get()
                except TimeoutError:
                    raise _timed_out() from None
                yield _checked(event)
                if isinstance(event, Finished):
                    return
        finally:
            task.cancel()


class _Worker:
    """The thread and its inbox; knows nothing of the Scheduler, so that a forgotten one can be collected."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._running: dict[Task, Iterator[None]] = {}
        self._closed = False

    def submit(self, task: Task) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sda-engine", daemon=True)
                self._thread.start()
            self._inbox.put(task)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for task in self._running:
                task.cancel()
            self._inbox.put(None)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @torch.inference_mode()
    def _work(self) -> None:
        while not self._closed or self._running:
            self._let_in()
            for task in list(self._running):
                if next(self._running[task], _ENDED) is _ENDED:
                    with self._lock:
                        del self._running[task]
                del task  # its caches, while the thread waits for the next one
        while (waiting := self._inbox.get()) is not None:
            waiting.emit(Failed(_closed()))

    def _let_in(self) -> None:
        """Let waiting tasks run while there is room. Where none runs, wait for one."""
        while len(self._running) < _MOST_AT_ONCE:
            try:
                task = self._inbox.get(block=not self._running)
            except queue.Empty:
                return
            if task is None:
                self._inbox.put(None)
                return
            with self._lock:
                if not self._closed:
                    self._running[task] = self._run(task)
            if task not in self._running:
                task.emit(Failed(_closed()))

    def _run(self, task: Task) -> Iterator[None]:
        """Run a task, with a pause after each step. Its last event is Finished or Failed."""
        try:
            if not task.cancelled:
                task.begin(self._runner)
                yield
            while not task.cancelled and not task.step(self._runner):
                yield
            task.finish()
            task.emit(Finished())
        except Exception as error:  # noqa: BLE001 - whatever happens here belongs to the consumer, not to the thread
            task.emit(Failed(error))


def _loop_sink(task: Task, inbox: asyncio.Queue[Event]) -> Sink:
    loop = asyncio.get_running_loop()

    def put(event: Event) -> None:
        try:
            loop.call_soon_threadsafe(inbox.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody will read on
            task.cancel()

    return put


def _checked(event: Event) -> Event:
    if isinstance(event, Failed):
        if isinstance(event.error, SDAError):
            raise event.error
        raise SDAError(f"Decoding failed: {type(event.error).__name__}: {event.error}") from event.error
    return event


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _timed_out() -> RequestTimeoutError:
    return RequestTimeoutError(
        "The request did not finish within its timeout, waiting time in the queue included. Allow more seconds "
        "(timeout=...), ask for fewer tokens (max_new_tokens), or send fewer requests at a time."
    )


def _closed() -> EngineClosedError:
    return EngineClosedError("The engine has been closed. Load a new one with SteeringEngine.load(...).")
