"""How long each stage of a request takes, told from its evaluators, which stand between the stages.

Every request has a stopwatch and wrappers of its own, so requests that run at once do not mix.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sda_engine.alignment import Alignment
from sda_engine.config import Steering
from sda_engine.evaluators import ContrastiveEvaluator, EvaluationRequest, Evaluator, Score
from sda_engine.evaluators.protocol import evaluator_name, needs_logprobs, needs_model
from sda_engine.results import Completion
from sda_integrations.inspect.retries import told_apart


@dataclass(frozen=True)
class Stages:
    """Seconds of a request, by stage; together they are the whole.

    Attributes:
        base_response: until the evaluator is asked; 0 where no base response was decoded. None where one was and
            nobody was asked to rate it, so that its time is part of `answer`.
        judge: at evaluators, all ratings together.
        answer: the rest: what steering decoded.
        judge_calls: calls of a judge, or ratings where an evaluator does not tell its calls. Evaluators that need no
            response, or that read nothing but the engine's own log-probabilities, ask nobody.
    """

    base_response: float | None
    judge: float
    answer: float
    judge_calls: int


class Stopwatch:
    """Measures one request, from its construction on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first_rating: float | None = None
        self._judge = 0.0
        self._calls = 0

    def watch(self, steering: Steering, alignment: Alignment | None) -> Steering:
        """The same steering, with evaluators that are watched."""
        evaluator, chooser = steering.evaluator, steering.chooser
        if alignment is None or steering.amplification is not None or steering.idle_for(alignment):
            return steering  # nobody rates, or the engine has to warn of what was given in vain
        if isinstance(chooser, ContrastiveEvaluator):
            # The engine knows by its class that 50 is the middle of its scores
            return steering if chooser is evaluator else steering.replace(evaluator=_Watched(evaluator, self))
        watched = _Watched(evaluator, self)
        if chooser is None:
            return steering.replace(evaluator=watched)
        # The engine asks one that is both only once about the base response
        both = chooser is evaluator
        return steering.replace(evaluator=watched, chooser=watched if both else _Watched(chooser, self))

    @contextmanager
    def rating(self, evaluator: Evaluator) -> Iterator[list[Score]]:
        """Around one rating, which goes into the list."""
        began = time.perf_counter()
        if self._first_rating is None:
            self._first_rating = began
        scores: list[Score] = []
        try:
            yield scores
        finally:
            self._judge += time.perf_counter() - began
            if evaluator.needs_response and not needs_logprobs(evaluator):
                usage = scores[0].usage if scores else None
                self._calls += 1 if usage is None else usage.calls

    def stages(self, completion: Completion) -> Stages:
        """The stages of the request, which has just ended with this completion."""
        whole = time.perf_counter() - self._began
        base: float | None = 0.0
        if completion.base_response is not None:
            base = None if self._first_rating is None else self._first_rating - self._began
        return Stages(base, self._judge, whole - self._judge - (base or 0.0), self._calls)


class _Watched:
    """An evaluator that tells a stopwatch of its ratings."""

    def __init__(self, evaluator: Evaluator, stopwatch: Stopwatch) -> None:
        self._evaluator, self._stopwatch = evaluator, stopwatch

    @property
    def name(self) -> str:
        """That of the evaluator itself, by which results call it."""
        return evaluator_name(self._evaluator)

    @property
    def needs_response(self) -> bool:
        """What the evaluator itself needs."""
        return self._evaluator.needs_response

    @property
    def needs_logprobs(self) -> bool:
        """What the evaluator itself needs."""
        return needs_logprobs(self._evaluator)

    @property
    def needs_model(self) -> bool:
        """What the evaluator itself needs."""
        return needs_model(self._evaluator)

    def evaluate(self, request: EvaluationRequest) -> Score:
        """The evaluator's own rating."""
        with self._stopwatch.rating(self._evaluator) as scores, told_apart(self._evaluator):
            scores.append(self._evaluator.evaluate(request))
            return scores[0]

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The evaluator's own rating."""
        with self._stopwatch.rating(self._evaluator) as scores, told_apart(self._evaluator):
            scores.append(await self._evaluator.aevaluate(request))
            return scores[0]
