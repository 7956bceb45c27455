"""EvaluatorReport: what a set of ratings tells about the evaluators that gave them. Ratings in, figures out."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import combinations
from operator import add

import numpy as np

from sda_engine.evaluation import measures
from sda_engine.evaluation.measures import RESAMPLES, Bin, Estimate, Values
from sda_engine.evaluation.rated_pairs import RatedPair
from sda_engine.evaluators.protocol import EvaluatorUsage


@dataclass(frozen=True)
class Rating:
    """One call of an evaluator.

    Attributes:
        value: the score, 0 < value <= 100; None where there was none.
        seconds: how long the call took.
        error: why there was no score.
        usage: what the call has cost, where the evaluator tells.
    """

    value: float | None
    seconds: float
    error: str | None = None
    usage: EvaluatorUsage | None = None


@dataclass(frozen=True)
class EvaluatorRatings:
    """All calls of one evaluator: `ratings[pair][repeat]`."""

    name: str
    ratings: Sequence[Sequence[Rating]]


@dataclass(frozen=True)
class Spread:
    """How much the repeats of a pair differ: their standard deviation (n - 1), over pairs with two scores or more."""

    median: float
    largest: float


@dataclass(frozen=True)
class Latency:
    """Seconds of a pair's first successful call; later ones may find its prompt stored."""

    median: float
    p95: float


@dataclass(frozen=True)
class LabelFigures:
    """Scores against labels.

    Attributes:
        pairs: labelled pairs with a score.
        acceptable: how many of them are acceptable.
        auc: probability that an acceptable response scores above another one; None where all labels are alike.
        prompt_auc: the same among responses to the same prompt; None where no prompt has both kinds.
        brier: mean squared distance of score / 100 and label.
        log_loss: mean of -log p of the label, nats, where p is score / 100.
        bins: the share of acceptable ones among responses that were rated alike.
    """

    pairs: int
    acceptable: int
    auc: Estimate | None
    prompt_auc: Estimate | None
    brier: float
    log_loss: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class PeopleFigures:
    """Scores against people's ratings.

    Attributes:
        pairs: pairs with both.
        spearman: rank correlation; None where one of the two is constant.
        mean_absolute_difference: in points of the score.
        bins: people's mean rating / 100 among responses that were rated alike.
    """

    pairs: int
    spearman: Estimate | None
    mean_absolute_difference: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class EvaluatorFigures:
    """One evaluator's figures. The score of a pair is the mean of its repeats; a figure without data is None.

    Attributes:
        name: the evaluator.
        pairs: pairs that it was given.
        rated: pairs with a score.
        calls: ratings that it was asked for.
        failures: those that gave no score.
        commonest_error: the error met most often among them.
        mean: of the pairs' scores.
        deviation: standard deviation (n - 1) of the pairs' scores.
        spread: of the repeats.
        latency: of a call.
        labels: against labels.
        people: against people's ratings.
        usage: what all calls together have cost, where the evaluator tells.
    """

    name: str
    pairs: int
    rated: int
    calls: int
    failures: int
    commonest_error: str | None
    mean: float | None
    deviation: float | None
    spread: Spread | None
    latency: Latency | None
    labels: LabelFigures | None
    people: PeopleFigures | None
    usage: EvaluatorUsage | None

    @property
    def failure_rate(self) -> float:
        """Share of calls that gave no score, 0..1."""
        return self.failures / self.calls if self.calls else 0.0

    def as_dict(self) -> dict[str, object]:
        """Plain JSON."""
        usage = None if self.usage is None else self.usage.model_dump()
        return {**asdict(self), "failure_rate": self.failure_rate, "usage": usage}


@dataclass(frozen=True)
class Agreement:
    """How far two evaluators say the same of the pairs that both have rated.

    Attributes:
        first, second: the evaluators.
        pairs: how many both have rated.
        kendall_tau: tau-b of the two rankings, -1..1; None where one of the two is constant.
        mean_absolute_difference: in points of the score; None where there is no such pair.
    """

    first: str
    second: str
    pairs: int
    kendall_tau: float | None
    mean_absolute_difference: float | None


@dataclass(frozen=True)
class EvaluatorReport:
    """What ratings of the same pairs tell about their evaluators."""

    evaluators: tuple[EvaluatorFigures, ...]
    agreements: tuple[Agreement, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "evaluators": [figures.as_dict() for figures in self.evaluators],
            "agreements": [asdict(agreement) for agreement in self.agreements],
        }


def make_report(
    pairs: Sequence[RatedPair], rated: Sequence[EvaluatorRatings], *, resamples: int = RESAMPLES
) -> EvaluatorReport:
    """The figures of each evaluator, and the agreement of each two.

    Args:
        pairs: what was rated.
        rated: the calls of each evaluator, in the order of the pairs.
        resamples: of the bootstrap behind each interval.

    Raises:
        ImportError: labels, people's ratings or a second evaluator call for the extra "report", and it is missing.
    """
    scores = {of_one.name: pair_scores(of_one) for of_one in rated}
    return EvaluatorReport(
        evaluators=tuple(_figures(pairs, of_one, scores[of_one.name], resamples) for of_one in rated),
        agreements=tuple(_agreement(first, second, scores) for first, second in combinations(scores, 2)),
    )


def pair_scores(rated: EvaluatorRatings) -> Values:
    """(pairs,): the mean of each pair's repeats; NaN where all of them failed."""
    given = [_values(ratings) for ratings in rated.ratings]
    return np.array([statistics.fmean(values) if values else np.nan for values in given])


def _figures(pairs: Sequence[RatedPair], rated: EvaluatorRatings, scores: Values, resamples: int) -> EvaluatorFigures:
    calls = [rating for ratings in rated.ratings for rating in ratings]
    failed = Counter(rating.error or "no score" for rating in calls if rating.value is None)
    usages = [rating.usage for rating in calls if rating.usage is not None]
    known = scores[~np.isnan(scores)]
    return EvaluatorFigures(
        name=rated.name,
        pairs=len(pairs),
        rated=len(known),
        calls=len(calls),
        failures=failed.total(),
        commonest_error=failed.most_common(1)[0][0] if failed else None,
        mean=float(known.mean()) if known.size else None,
        deviation=float(known.std(ddof=1)) if known.size > 1 else None,
        spread=_spread(rated),
        latency=_latency(rated),
        labels=_against_labels(pairs, scores, resamples),
        people=_against_people(pairs, scores, resamples),
        usage=reduce(add, usages) if usages else None,
    )


def _spread(rated: EvaluatorRatings) -> Spread | None:
    repeats = [values for ratings in rated.ratings if len(values := _values(ratings)) > 1]
    deviations = [statistics.stdev(values) for values in repeats]
    return Spread(statistics.median(deviations), max(deviations)) if deviations else None


def _latency(rated: EvaluatorRatings) -> Latency | None:
    seconds = [
        next((rating.seconds for rating in ratings if rating.value is not None), None) for ratings in rated.ratings
    ]
    known = [value for value in seconds if value is not None]
    return Latency(statistics.median(known), float(np.percentile(known, 95))) if known else None


def _against_labels(pairs: Sequence[RatedPair], scores: Values, resamples: int) -> LabelFigures | None:
    rows = [row for row, pair in enumerate(pairs) if pair.label is not None and not np.isnan(scores[row])]
    if not rows:
        return None
    labels, prompts = np.array([float(pairs[row].label or 0) for row in rows]), [pairs[row].prompt for row in rows]
    rated = scores[rows]
    return LabelFigures(
        pairs=len(rows),
        acceptable=int(labels.sum()),
        auc=measures.auc(rated, labels, prompts, resamples=resamples),
        prompt_auc=measures.prompt_auc(rated, labels, prompts, resamples=resamples),
        brier=measures.brier_score(rated / 100, labels),
        log_loss=measures.log_loss(rated / 100, labels),
        bins=measures.binned(rated / 100, labels),
    )


def _against_people(pairs: Sequence[RatedPair], scores: Values, resamples: int) -> PeopleFigures | None:
    rows = [row for row, pair in enumerate(pairs) if pair.score is not None and not np.isnan(scores[row])]
    if not rows:
        return None
    people, prompts = np.array([float(pairs[row].score or 0) for row in rows]), [pairs[row].prompt for row in rows]
    rated = scores[rows]
    return PeopleFigures(
        pairs=len(rows),
        spearman=measures.spearman(rated, people, prompts, resamples=resamples),
        mean_absolute_difference=float(np.abs(rated - people).mean()),
        bins=measures.binned(rated / 100, people / 100),
    )


def _agreement(first: str, second: str, scores: dict[str, Values]) -> Agreement:
    both = ~np.isnan(scores[first]) & ~np.isnan(scores[second])
    one, other = scores[first][both], scores[second][both]
    return Agreement(
        first,
        second,
        pairs=int(both.sum()),
        kendall_tau=measures.kendall_tau(one, other),
        mean_absolute_difference=float(np.abs(one - other).mean()) if one.size else None,
    )


def _values(ratings: Sequence[Rating]) -> list[float]:
    return [rating.value for rating in ratings if rating.value is not None]
