"""Have evaluators rate pairs, repeatedly, and note every score, failure and second."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sda_engine.engine import SteeringEngine
from sda_engine.errors import ConfigError
from sda_engine.evaluation.evaluator_report import EvaluatorRatings, EvaluatorReport, Rating, make_report
from sda_engine.evaluation.rated_pairs import RatedPair
from sda_engine.evaluators.protocol import Evaluator, Score

OnRating = Callable[[], object]


@dataclass(frozen=True)
class NamedEvaluator:
    """An evaluator to be checked.

    Attributes:
        name: how the report calls it.
        evaluator: who rates.
        concurrency: how many ratings to ask for at a time. What computes on this machine is best asked for one, so
            that a call's seconds are its own.

    Raises:
        ConfigError: concurrency is below 1.
    """

    name: str
    evaluator: Evaluator
    concurrency: int = 1

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigError(f"NamedEvaluator.concurrency cannot be {self.concurrency!r}: it must be at least 1.")


def check_evaluators(
    engine: SteeringEngine,
    pairs: Sequence[RatedPair],
    evaluators: Sequence[NamedEvaluator],
    *,
    repeats: int = 3,
    on_rating: OnRating | None = None,
) -> EvaluatorReport:
    """Have each evaluator rate each pair `repeats` times, one evaluator after the other, and report.

    Args:
        engine: the model whose responses are rated, for evaluators that ask it.
        pairs: what is rated.
        evaluators: who rates; each has a name of its own.
        repeats: at least 1; the spread of the repeats takes 2.
        on_rating: called after each rating, to show progress.

    Raises:
        ConfigError: there is nothing to rate or nobody who rates, names repeat, or repeats is below 1.
        ImportError: the report calls for the extra "report", and it is missing.
    """
    return asyncio.run(acheck_evaluators(engine, pairs, evaluators, repeats=repeats, on_rating=on_rating))


async def acheck_evaluators(
    engine: SteeringEngine,
    pairs: Sequence[RatedPair],
    evaluators: Sequence[NamedEvaluator],
    *,
    repeats: int = 3,
    on_rating: OnRating | None = None,
) -> EvaluatorReport:
    """`check_evaluators` for an event loop."""
    _check(pairs, evaluators, repeats)
    rated = [await arate_pairs(engine, pairs, one, repeats=repeats, on_rating=on_rating) for one in evaluators]
    return await asyncio.to_thread(make_report, pairs, rated)  # a thousand resamples take a second


async def arate_pairs(
    engine: SteeringEngine,
    pairs: Sequence[RatedPair],
    named: NamedEvaluator,
    *,
    repeats: int = 3,
    on_rating: OnRating | None = None,
) -> EvaluatorRatings:
    """All ratings of one evaluator. A failure is noted and stops nothing."""
    ratings: list[list[Rating]] = [[] for _ in pairs]
    places = (place for _ in range(repeats) for place in range(len(pairs)))  # shared by the workers

    async def work() -> None:
        for place in places:
            ratings[place].append(await _rate(engine, pairs[place], named.evaluator))
            if on_rating is not None:
                on_rating()

    async with asyncio.TaskGroup() as group:
        for _ in range(named.concurrency):
            group.create_task(work())
    return EvaluatorRatings(named.name, ratings)


async def _rate(engine: SteeringEngine, pair: RatedPair, evaluator: Evaluator) -> Rating:
    start = time.perf_counter()
    try:
        score = await engine.arate(pair.messages, pair.response, pair.alignment, evaluator)
    except Exception as error:  # noqa: BLE001 - an evaluator is a user's code: whatever it raises is its failure
        return Rating(None, time.perf_counter() - start, f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - start
    if not isinstance(score, Score) or score.value is None:
        return Rating(None, seconds, f"The evaluator returned {score!r} in place of a Score.")
    return Rating(score.value, seconds, usage=score.usage)


def _check(pairs: Sequence[RatedPair], evaluators: Sequence[NamedEvaluator], repeats: int) -> None:
    if not pairs or not evaluators:
        raise ConfigError("A check of evaluators needs at least one pair and one evaluator.")
    names = [named.name for named in evaluators]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError(f"The evaluator {repeated[0]!r} is named twice: each one needs a name of its own.")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"repeats cannot be {repeats!r}: it must be a whole number of at least 1. The default is 3.")
