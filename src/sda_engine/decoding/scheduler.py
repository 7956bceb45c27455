"""The worker thread that runs every forward pass of an engine, and the ways to wait for it.

Tasks come in from any thread and any event loop. They join the running batch in the order they came, as soon as there
is room; one that goes on with a request comes before those that are new. The thread starts with the first task, and
ends with the engine. Torch's inference mode and the rows never leave the thread.
"""

import asyncio
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Generator

import torch

from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.running_batch import RunningBatch
from sda_engine.decoding.tasks import Event, Failed, Finished, Sink, Task
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import CapacityError, EngineClosedError, QueueFullError, RequestTimeoutError, SDAError

_MEMORY_POLL = 0.02  # seconds, while everything that could run waits for the memory of requests between two tasks


class Scheduler:
    """Runs tasks on a model in a thread of its own.

    Args:
        runner: runs the model.
        settings: how much runs at once, and how much may wait.
        cache_tokens: tokens whose keys and values may be held.
    """

    def __init__(self, runner: ModelRunner, settings: EngineSettings, cache_tokens: int) -> None:
        self._worker = _Worker(runner, settings, cache_tokens)
        self._finalizer = weakref.finalize(self, self._worker.close)  # at collection, or at exit

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            EngineClosedError: the engine has been closed.
            QueueFullError: as many wait as may.
            CapacityError: the task alone needs more memory than there may be.
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
        event: Event | None = None
        try:
            while not isinstance(event, Finished):
                try:
                    event = inbox.get(timeout=_remaining(deadline))
                except queue.Empty:
                    raise _timed_out() from None
                yield _checked(event)
        finally:
            if not isinstance(event, Finished):
                task.cancel()

    async def aevents(self, task: Task, deadline: float | None = None) -> AsyncGenerator[Event, None]:
        """The same for an event loop. Cancelling the consumer cancels the task."""
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        task.connect(_loop_sink(task, inbox))
        self.submit(task)
        event: Event | None = None
        try:
            while not isinstance(event, Finished):
                try:
                    async with asyncio.timeout(_remaining(deadline)):
                        event = await inbox.get()
                except TimeoutError:
                    raise _timed_out() from None
                yield _checked(event)
        finally:
            if not isinstance(event, Finished):
                task.cancel()


class _Worker:
    """The thread and its queue; knows nothing of the Scheduler, so that a forgotten one can be collected."""

    def __init__(self, runner: ModelRunner, settings: EngineSettings, cache_tokens: int) -> None:
        self._settings = settings
        self._cache_tokens = cache_tokens
        self._batch = RunningBatch(runner, settings, cache_tokens)
        self._waiting: deque[Task] = deque()
        self._changed = threading.Condition()  # guards the queue and what is below
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, task: Task) -> None:
        if task.prompt.tokens > self._cache_tokens:
            raise _too_large(task.prompt.tokens, self._cache_tokens)
        with self._changed:
            if self._closed:
                raise _closed()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sda-engine", daemon=True)
                self._thread.start()
            if task.continues:
                self._waiting.insert(sum(waiting.continues for waiting in self._waiting), task)
            elif self._requests() >= self._settings.max_requests:
                raise _queue_full(self._settings.max_requests)
            else:
                self._waiting.append(task)
            self._changed.notify()

    def _requests(self) -> int:
        return sum(not task.cancelled for task in (*self._batch.tasks, *self._waiting))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for task in self._batch.tasks:
                task.cancel()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._let_in():
                self._batch.step()
        finally:  # also where a user's callable ended the thread
            with self._changed:
                self._closed = True
                left = [*self._batch.tasks, *self._waiting]
                self._waiting.clear()
            for task in left:
                task.let_go()
                task.end(Failed(_closed()))
            self._batch.clear()

    def _let_in(self) -> bool:
        """Let waiting tasks join while there is room. Where none runs, wait for one; False at the end."""
        with self._changed:
            while True:
                for task in [task for task in self._waiting if task.cancelled]:
                    self._waiting.remove(task)
                    self._batch.drop(task)
                while self._waiting and not self._closed and self._batch.has_room(self._waiting[0]):
                    self._batch.add(self._waiting.popleft())
                if self._batch.tasks or self._closed:
                    return bool(self._batch.tasks)
                self._changed.wait(_MEMORY_POLL if self._waiting else None)


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


def _queue_full(most: int) -> QueueFullError:
    return QueueFullError(
        f"This engine has taken on {most} requests already. Try again later, send fewer at a time, or allow more with "
        f"EngineSettings(max_requests=...)."
    )


def _too_large(tokens: int, most: int) -> CapacityError:
    return CapacityError(
        f"The request may come to hold {tokens} tokens in its rows, its prompts and max_new_tokens counted once per "
        f"row, and this engine may hold {most}. Ask for fewer new tokens, shorten the messages, or allow more with "
        f"EngineSettings(cache_tokens=...) if the memory is there."
    )
