"""CircuitBreaker: a judge that keeps failing is left alone for a while, so that requests do not all wait for it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Self

from sda_engine.errors import EvaluationError
from sda_engine.forks import make_lock

logger = logging.getLogger(__name__)

FAILURES_TO_OPEN = 5
SECONDS_BETWEEN_PROBES = 30.0


class CircuitBreaker:
    """Counts failures in a row. Five open it: from then on one call in 30 seconds goes through, until one succeeds.

    It may be used from many threads and event loops. A copy is the object itself, so copies of an evaluator share what
    they know of their judge; a pickle holds a fresh one.

    Args:
        name: whom it guards, for errors and the log.
        clock: seconds, never going back.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = make_lock()
        self._failures = 0
        self._next_probe = 0.0  # on the clock, once it is open

    @property
    def state(self) -> Literal["closed", "open"]:
        """ "closed" while calls go through, "open" while all but the probes are refused."""
        return "open" if self._failures >= FAILURES_TO_OPEN else "closed"

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    @property
    def seconds_to_probe(self) -> float:
        """Seconds until the next call goes through; 0 while it is closed."""
        return max(0.0, self._next_probe - self._clock()) if self.state == "open" else 0.0

    @contextmanager
    def guard(self) -> Iterator[bool]:
        """Around a call: lets it through or refuses it, and takes note of how it ends.

        Only an EvaluationError counts as a failure; a call that is cancelled tells nothing. It yields whether the call
        is a probe.

        Raises:
            EvaluationError: the breaker is open, and it is too early for a probe.
        """
        probing = self._admit()
        try:
            yield probing
        except EvaluationError:
            self._note_failure()
            raise
        self._note_success()

    def _admit(self) -> bool:
        with self._lock:
            if self.state == "closed":
                return False
            wait = self._next_probe - self._clock()
            if wait > 0:
                raise EvaluationError(
                    f"{self._name} has failed {self._failures} times in a row, so it is left alone: the next call goes "
                    f"through in {wait:.0f} s. Set Steering(on_evaluator_error=...) to answer meanwhile, or mend the "
                    f"judge."
                )
            self._next_probe = self._clock() + SECONDS_BETWEEN_PROBES
            return True

    def _note_failure(self) -> None:
        with self._lock:
            self._failures += 1
            opened = self._failures == FAILURES_TO_OPEN
            if opened:
                self._next_probe = self._clock() + SECONDS_BETWEEN_PROBES
        if opened:
            logger.warning("%s has failed %d times in a row and is left alone for now.", self._name, FAILURES_TO_OPEN)

    def _note_success(self) -> None:
        with self._lock:
            was_open = self.state == "open"
            self._failures = 0
        if was_open:
            logger.warning("%s rates again.", self._name)

    def __repr__(self) -> str:
        return f"CircuitBreaker({self.state}, failures={self._failures})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self._name,)
