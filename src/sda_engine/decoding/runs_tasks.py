"""What runs the tasks of an engine: the scheduler of a model in this process, or something else in its place."""

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager
from typing import Protocol

from sda_engine.decoding.states import StateCost
from sda_engine.decoding.stats import EngineStats
from sda_engine.decoding.tasks import Event, Task


class RunsTasks(Protocol):
    """What runs the tasks of requests; Scheduler says what each part means."""

    @property
    def state_cost(self) -> StateCost:
        """What the state of a row counts as."""

    @property
    def alive(self) -> bool:
        """Whether a task would be worked on."""

    def admitted(self) -> AbstractContextManager[None]:
        """Around a request."""

    def events(self, task: Task, deadline: float | None = None) -> Generator[Event, None, None]:
        """Run a task and yield its events."""

    def aevents(self, task: Task, deadline: float | None = None) -> AsyncGenerator[Event, None]:
        """The same for an event loop."""

    def stats(self) -> EngineStats:
        """What is going on."""

    def close(self) -> None:
        """End all work."""
