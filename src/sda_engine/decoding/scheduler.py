"""The worker thread that runs every forward pass of an engine, and the ways to wait for it.

Tasks come in from any thread and any event loop. They join the running batch in the order they came, as soon as there
is room; one that goes on with a request comes before those that are new. The thread starts with the first task, and
ends with the engine: nothing that a task does can end it before. Torch's inference mode and the rows never leave it. In
a forked process, which gets no copy of the thread, a new one starts with the first task there.
"""

import asyncio
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from sda_engine.decoding.runner import Runner
from sda_engine.decoding.running_batch import RunningBatch
from sda_engine.decoding.stats import EngineStats
from sda_engine.decoding.tasks import Event, Failed, Finished, Sink, Task
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import (
    CapacityError,
    ConfigError,
    EngineClosedError,
    QueueFullError,
    RequestTimeoutError,
    SDAError,
)
from sda_engine.forks import start_over_in_forks

_logger = logging.getLogger(__name__)

_serving: ContextVar[threading.Thread | None] = ContextVar("the worker thread that this code works for", default=None)


class Scheduler:
    """Runs tasks on a model in a thread of its own.

    Args:
        runner: runs the model.
        settings: how much runs at once, and how much may wait.
        cache_tokens: tokens whose keys and values may be held.

    Attributes:
        state_cost: what the state of a row counts as, where layers of the model carry one.
    """

    def __init__(self, runner: Runner, settings: EngineSettings, cache_tokens: int) -> None:
        self._worker = _Worker(runner, settings, cache_tokens)
        self._finalizer = weakref.finalize(self, self._worker.close)  # at collection, or at exit
        self.state_cost = runner.state_cost

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Around a request, whatever its tasks: it counts while it decodes, waits, and has others rate.

        Raises:
            QueueFullError: as many have been taken on as may.
        """
        process = self._worker.admit()
        try:
            yield
        finally:
            self._worker.dismiss(process)

    def stats(self) -> EngineStats:
        """What is going on now, and what was done so far."""
        return self._worker.stats()

    @property
    def alive(self) -> bool:
        """Whether a task would be worked on: not once it is closed, or where the thread has died or cannot be had."""
        return self._worker.alive

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            EngineClosedError: the engine has been closed, or its thread has died.
            ConfigError: the worker thread itself asks, which would wait for what it alone can do.
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
        process = os.getpid()
        task.connect(inbox.put)
        self.submit(task)
        event: Event | None = None
        try:
            while not isinstance(event, Finished):
                _check_process(process)
                try:
                    event = inbox.get(timeout=_remaining(deadline))
                except queue.Empty:
                    raise timed_out() from None
                yield _checked(event)
        finally:
            if not isinstance(event, Finished):
                task.cancel()

    async def aevents(self, task: Task, deadline: float | None = None) -> AsyncGenerator[Event, None]:
        """The same for an event loop. Cancelling the consumer cancels the task."""
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        process = os.getpid()
        task.connect(_loop_sink(task, inbox))
        self.submit(task)
        event: Event | None = None
        try:
            while not isinstance(event, Finished):
                _check_process(process)
                try:
                    async with asyncio.timeout(_remaining(deadline)):
                        event = await inbox.get()
                except TimeoutError:
                    raise timed_out() from None
                yield _checked(event)
        finally:
            if not isinstance(event, Finished):
                task.cancel()


class _Worker:
    """The thread and its queue; knows nothing of the Scheduler, so that a forgotten one can be collected."""

    def __init__(self, runner: Runner, settings: EngineSettings, cache_tokens: int) -> None:
        self._runner = runner
        self._settings = settings
        self._cache_tokens = cache_tokens
        self._closed = False
        self._model_is_lost = False
        self._begin()
        start_over_in_forks(self)

    def _begin(self) -> None:
        self._batch = RunningBatch(self._runner, self._settings, self._cache_tokens)
        self._waiting: deque[Task] = deque()
        self._changed = threading.Condition()  # guards the queue, and whether there is a thread and an end
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._admitted = 0  # requests

    def start_over(self) -> None:
        """In a forked process: what ran and waited is the other process's, and the thread is not there."""
        self._begin()
        self._model_is_lost = not self._runner.outlives_forks

    def admit(self) -> int:
        """Count one request more; returns what `dismiss` is to be given."""
        most = self._settings.max_requests
        with self._changed:
            if most is not None and self._admitted >= most:
                raise queue_full(most)
            self._admitted += 1
            return self._process

    def dismiss(self, process: int) -> None:
        """Count one request less, if it was taken on in this process."""
        with self._changed:
            self._admitted -= process == self._process

    def stats(self) -> EngineStats:
        return EngineStats(
            **vars(self._batch.stats),
            requests=self._admitted,
            waiting_tasks=len(self._waiting),
            cache_tokens=self._cache_tokens,
        )

    @property
    def alive(self) -> bool:
        return not (self._closed or self._model_is_lost or self._is_dead)

    @property
    def _is_dead(self) -> bool:
        """Whether there was a thread, and it has ended."""
        thread = self._thread
        return thread is not None and not thread.is_alive()

    def submit(self, task: Task) -> None:
        if self._is_calling():
            raise _calls_itself()
        if self._model_is_lost:
            raise _cannot_be_forked()
        if (tokens := sum(prompt.tokens for prompt in task.prompts)) > self._cache_tokens:
            raise _too_large(tokens, self._cache_tokens)
        with self._changed:
            if self._closed:
                raise _closed()
            if self._is_dead:
                raise _died()
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="sda-engine", daemon=True)
                thread.start()  # it waits for this block to end; where it cannot be started, the next task tries again
                self._thread = thread
            if task.continues:
                self._waiting.insert(sum(waiting.continues for waiting in self._waiting), task)
            else:
                self._waiting.append(task)
            self._changed.notify()

    def _is_calling(self) -> bool:
        """Whether this is the worker thread, or a thread or event loop that was given its context."""
        serving = _serving.get()
        return serving is not None and serving is self._thread

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for task in self._batch.tasks:
                task.cancel()
            self._changed.notify()
            thread = self._thread
        if thread is not None and not self._is_calling():
            thread.join()

    @torch.inference_mode()
    def _work(self) -> None:
        _serving.set(threading.current_thread())
        while not self._closed:
            try:
                while self._let_in():
                    self._batch.step()
            except BaseException as error:  # or else the engine would be dead, and nobody would know
                _logger.exception("The worker thread of an engine has failed all its requests, and goes on.")
                self._end_all(error)
        self._end_all(_closed())

    def _end_all(self, error: BaseException) -> None:
        with self._changed:
            tasks = [*self._batch.tasks, *self._waiting]
            self._waiting.clear()
        self._batch.fail(tasks, error)
        self._batch.clear()

    def _let_in(self) -> bool:
        """Let waiting tasks join while there is room. Where none runs, wait for one; False at the end."""
        with self._changed:
            while True:
                for task in [task for task in self._waiting if task.cancelled]:
                    self._waiting.remove(task)
                    self._batch.drop(task)
                while self._waiting and not self._closed and self._batch.make_room(self._waiting[0]):
                    self._batch.add(self._waiting.popleft())
                if self._batch.tasks or self._closed:
                    return bool(self._batch.tasks)
                self._changed.wait()


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


def _check_process(process: int) -> None:
    if os.getpid() != process:
        raise SDAError(
            "This request was made before the process was forked, and is answered in the process that made it. Make it "
            "anew in this one."
        )


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def timed_out() -> RequestTimeoutError:
    """The error of a request whose deadline passed."""
    return RequestTimeoutError(
        "The request did not finish within its timeout, waiting time in the queue included. Allow more seconds "
        "(timeout=...), ask for fewer tokens (max_new_tokens), or send fewer requests at a time."
    )


def _closed() -> EngineClosedError:
    return EngineClosedError("The engine has been closed. Load a new one with SteeringEngine.load(...).")


def _died() -> EngineClosedError:
    return EngineClosedError(
        "The worker thread of the engine has died of an error that kept it from failing its requests; the log has it. "
        "Close the engine and load a new one."
    )


def _calls_itself() -> ConfigError:
    return ConfigError(
        "The engine was asked by its own worker thread: by a temperature schedule, a hook or other code that runs "
        "while a token is chosen. It would wait for itself for ever. Ask before the request is made, or ask another "
        "engine."
    )


def _cannot_be_forked() -> SDAError:
    return SDAError(
        "This process was forked from one that had put the model on an accelerator, where a forked process cannot use "
        "it. Load the engine after the fork, start processes by multiprocessing's 'spawn', or load it with "
        "device='cpu'."
    )


def queue_full(most: int) -> QueueFullError:
    """The error of a request that an engine takes on no more."""
    return QueueFullError(
        f"This engine has taken on {most} requests already. Try again later, send fewer at a time, allow more with "
        f"EngineSettings(max_requests=...), or have requests wait with EngineSettings(max_requests=None)."
    )


def _too_large(tokens: int, most: int) -> CapacityError:
    return CapacityError(
        f"The request may come to hold {tokens} tokens in its rows, its prompts and max_new_tokens counted once per "
        f"row, and this engine may hold {most}. Ask for fewer new tokens, shorten the messages, or allow more with "
        f"EngineSettings(cache_tokens=...) if the memory is there."
    )
