"""EnsembleEvaluator: several evaluators rate a response at the same time, and their scores become one."""

import asyncio
import contextvars
import functools
import math
import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from types import MappingProxyType
from typing import Literal, NamedTuple

from sda_engine.errors import ConfigError, EvaluationError, SDAError
from sda_engine.evaluators.protocol import (
    EvaluationRequest,
    Evaluator,
    Score,
    evaluator_identity,
    evaluator_name,
    needs_logprobs,
    needs_model,
)
from sda_engine.settings import check_argument, shown
from sda_engine.threads import start_thread

Combination = Literal["mean", "median", "min"]

_COMBINATIONS: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {"mean": statistics.fmean, "median": statistics.median, "min": min}
)
_check = functools.partial(check_argument, "EnsembleEvaluator")


class EnsembleEvaluator:
    """Asks several evaluators at the same time and combines their scores, so that the slowest decides the time.

    A member that raises an Exception, or returns no Score with a value, is left out, and the result tells so in
    `Score.failures`. What is no Exception (KeyboardInterrupt, a cancelled task) passes through: `aevaluate` then
    cancels the other members, while threads cannot be cancelled, so `evaluate` leaves those that run to end by
    themselves. Members need limits of their own, as OpenAIEvaluator has.

    Args:
        members: evaluators, at least two; ensembles may be among them.
        combine: "median" (robust against one member that errs), "mean", or "min" (the strictest member decides).
        min_members: how many scores there have to be, from 1 to the number of members.
        max_disagreement: the largest standard deviation of the scores, in points, at which there is a score; a
            single score disagrees with none. None means that any is good enough.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        members: Iterable[Evaluator],
        *,
        combine: Combination = "median",
        min_members: int = 1,
        max_disagreement: float | None = None,
    ) -> None:
        self.members = _checked_members(members)
        _check("combine", combine, combine in list(_COMBINATIONS), f"one of {', '.join(_COMBINATIONS)}")
        whole = isinstance(min_members, int) and not isinstance(min_members, bool)
        legal = whole and 1 <= min_members <= len(self.members)
        _check("min_members", min_members, legal, f"a whole number from 1 to {len(self.members)}, the members given")
        points = isinstance(max_disagreement, (int, float)) and not isinstance(max_disagreement, bool)
        legal = max_disagreement is None or (points and 0 <= max_disagreement < math.inf)
        _check("max_disagreement", max_disagreement, legal, "a number of points of at least 0, or None")
        self.combine = combine
        self.min_members = min_members
        self.max_disagreement = None if max_disagreement is None else float(max_disagreement)

    @property
    def needs_response(self) -> bool:
        """Whether any member needs a base response."""
        return any(member.needs_response for member in self.members)

    @property
    def needs_logprobs(self) -> bool:
        """Whether any member wants the log-probabilities of the base response."""
        return any(needs_logprobs(member) for member in self.members)

    @property
    def needs_model(self) -> bool:
        """Whether any member asks the model that gave the base response."""
        return any(needs_model(member) for member in self.members)

    @property
    def name(self) -> str:
        """Everything that changes a score: how results and cache keys call this evaluator."""
        members = ", ".join(evaluator_identity(member) for member in self.members)
        limit = "" if self.max_disagreement is None else f", max_disagreement={self.max_disagreement!r}"
        return f"EnsembleEvaluator([{members}], combine={self.combine!r}, min_members={self.min_members}{limit})"

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request with all members, a thread each.

        Raises:
            EvaluationError: too few members gave a score, or they disagree too much; it carries the base response.
        """
        # Each thread gets a copy of the caller's context, so that tracing in a member finds its parent
        rate = [functools.partial(contextvars.copy_context().run, _rate, member, request) for member in self.members]
        runs = [start_thread(work, "sda-ensemble") for work in rate]
        wait(runs, return_when=FIRST_EXCEPTION)  # _rate lets only BaseExceptions through
        for run in runs:
            if run.done() and (interruption := run.exception()) is not None:
                raise interruption
        return self._combined([run.result() for run in runs], request)

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request with all members, a task each (asyncio).

        Raises:
            EvaluationError: too few members gave a score, or they disagree too much; it carries the base response.
        """
        tasks = [asyncio.ensure_future(_arate(member, request)) for member in self.members]
        try:
            ratings = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return self._combined(ratings, request)

    def _combined(self, ratings: "Sequence[_Rating]", request: EvaluationRequest) -> Score:
        scores = [rating.score for rating in ratings if rating.score is not None]
        values = tuple(score.value for score in scores if score.value is not None)
        failed = [rating for rating in ratings if rating.error is not None]
        if len(values) < self.min_members:
            raise self._too_few(len(values), failed, request)
        combined = Score(
            value=_COMBINATIONS[self.combine](values),
            evaluator=self.name,
            samples=values,
            usage=functools.reduce(operator.add, usages) if (usages := [s.usage for s in scores if s.usage]) else None,
            members=tuple(scores),
            failures=tuple(rating.failure for rating in failed),
        )
        said = self._said(ratings, combined)
        limit = self.max_disagreement
        if limit is not None and combined.disagreement is not None and combined.disagreement > limit:
            raise EvaluationError(
                f"The members of an EnsembleEvaluator disagree by more than max_disagreement={limit:g} points: {said}. "
                f"Raise max_disagreement, leave out the member that errs, or choose what to do without a score by "
                f"Steering.on_evaluator_error.",
                base_response=request.response,
            )
        return combined.replace(reason=said)

    def _said(self, ratings: "Sequence[_Rating]", combined: Score) -> str:
        """Which member said what, in one line."""
        said = [f"{r.name} {'failed' if r.score is None else f'{r.score.value:g}'}" for r in ratings]
        spread = combined.disagreement
        disagreement = "no disagreement to tell" if spread is None else f"disagreement {spread:.3g} points"
        return " ".join(f"{', '.join(said)}; {self.combine} {combined.value:g}, {disagreement}".split())

    def _too_few(self, count: int, failed: "Sequence[_Rating]", request: EvaluationRequest) -> EvaluationError:
        error = EvaluationError(
            f"{count} of {len(self.members)} members of an EnsembleEvaluator gave a score, and min_members="
            f"{self.min_members} needs {self.min_members}. Failed: {'; '.join(rating.failure for rating in failed)} "
            f"- Mend or leave out the members that failed, or lower min_members.",
            base_response=request.response,
        )
        error.__cause__ = ExceptionGroup("members of an EnsembleEvaluator", [r.error for r in failed if r.error])
        return error


class _Rating(NamedTuple):
    """What came of asking one member: a score with a value, or an error."""

    name: str
    score: Score | None = None
    error: Exception | None = None

    @property
    def failure(self) -> str:
        """The member's own words, and the kind of error where they may not speak for themselves."""
        kind = "" if isinstance(self.error, SDAError) else f"{type(self.error).__name__}: "
        return f"{self.name}: {kind}{self.error}"


def _rate(member: Evaluator, request: EvaluationRequest) -> _Rating:
    try:
        return _read(member, member.evaluate(request))
    except Exception as error:  # noqa: BLE001 - the other members may still give a score; the result tells the error
        return _Rating(evaluator_name(member), error=error)


async def _arate(member: Evaluator, request: EvaluationRequest) -> _Rating:
    try:
        return _read(member, await member.aevaluate(request))
    except Exception as error:  # noqa: BLE001 - the other members may still give a score; the result tells the error
        return _Rating(evaluator_name(member), error=error)


def _read(member: Evaluator, score: object) -> _Rating:
    if not isinstance(score, Score):
        raise EvaluationError(f"It returned {shown(score)} in place of a Score.")
    if score.value is None:
        raise EvaluationError("It returned a Score without a value.")
    return _Rating(evaluator_name(member), score)


def _checked_members(members: object) -> tuple[Evaluator, ...]:
    given = tuple(members) if isinstance(members, Iterable) else ()
    wrong = [member for member in given if isinstance(member, type) or not isinstance(member, Evaluator)]
    if wrong:
        raise ConfigError(
            f"A member of EnsembleEvaluator cannot be {shown(wrong[0])}: it must be an evaluator, an object with "
            f"needs_response, evaluate and aevaluate, e.g. FixedScore(50)."
        )
    if len(given) < 2:
        raise ConfigError(
            f"EnsembleEvaluator.members cannot be {len(given)} evaluators: give a list of at least two, or use a "
            f"single evaluator as it is."
        )
    return given
