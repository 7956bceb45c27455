"""How good ratings are: discrimination, rank correlation, calibration and agreement, as pure functions of arrays.

Intervals are 95% percentile intervals of a bootstrap that draws whole groups (pairs on the same prompt), since the
responses to one prompt are no independent observations. scikit-learn and scipy are imported where they are used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sda_engine.evaluation.extras import report_extra

Values = npt.NDArray[np.float64]
Statistic = Callable[[Values, Values], float | None]

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; `low` and `high` are None where there is one group only."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """Pairs whose scores lie in one tenth of the scale.

    Attributes:
        low, high: the ends of the bin, as shares of the scale, 0..1.
        count: pairs in it.
        rated: their mean score / 100.
        outcome: what people said: the share of acceptable ones, or the mean of their ratings / 100.
    """

    low: float
    high: float
    count: int
    rated: float
    outcome: float


def share(values: Sequence[float], groups: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate:
    """The mean of values from 0 to 1, of yes and no above all; there is at least one."""
    array = np.asarray(values, dtype=np.float64)
    estimate = ratio(array, np.ones_like(array), groups, resamples=resamples)
    assert estimate is not None, "there is a value"
    return estimate


def ratio(parts: Values, wholes: Values, groups: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate | None:
    """Sum of the parts by the sum of the wholes, all of them positive; None where there are none."""
    sums = sums_by_group(parts, groups), sums_by_group(wholes, groups)
    return bootstrapped(_ratio, *sums, [str(place) for place in range(len(sums[0]))], resamples)


def bootstrapped(
    statistic: Statistic, first: Values, second: Values, groups: Sequence[str], resamples: int
) -> Estimate | None:
    """A statistic of two columns with its 95% percentile interval, from samples of whole groups with the same seed.

    Args:
        statistic: takes the rows drawn of both columns; None where these do not define it.
        first, second: the columns, (samples,).
        groups: which samples belong together, (samples,).
        resamples: how often the groups are drawn, with replacement.

    None where the statistic of all samples is; draws that do not define it are passed over.
    """
    value = statistic(first, second)
    if value is None:
        return None
    members = _rows_of(groups)
    if len(members) < 2:
        return Estimate(value, None, None)
    every_row = np.concatenate(members)
    generator = np.random.default_rng(0)  # the same ratings give the same report
    drawn = []
    for _ in range(resamples):
        picked = generator.integers(len(members), size=len(members))
        if len(every_row) == len(members):  # one row a group is the usual case, and this is several times as fast
            rows = every_row[picked]
        else:
            rows = np.concatenate([members[group] for group in picked])
        if (again := statistic(first[rows], second[rows])) is not None:
            drawn.append(again)
    if not drawn:
        return Estimate(value, None, None)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return Estimate(value, low, high)


def sums_by_group(values: Values, groups: Sequence[str]) -> Values:
    """One sum a group, (groups,), in the order in which they come first."""
    places: dict[str, int] = {}
    members = np.array([places.setdefault(group, len(places)) for group in groups], dtype=np.int64)
    return np.asarray(np.bincount(members, weights=values), dtype=np.float64)


def auc(scores: Values, labels: Values, groups: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate | None:
    """Probability that an acceptable response (label 1) scores above one that is not (label 0); a tie counts half.

    None where all labels are alike.
    """
    return bootstrapped(_auc, scores, labels, groups, resamples)


def prompt_auc(scores: Values, labels: Values, groups: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate | None:
    """The same among responses to the same prompt: how hard or how long the prompts are plays no part.

    Each couple of an acceptable response and another one counts alike. None where no prompt has such a couple.
    """
    tallies = []
    for rows in _rows_of(groups):
        good, bad = scores[rows][labels[rows] == 1], scores[rows][labels[rows] == 0]
        difference = good[:, None] - bad[None, :]  # (good, bad)
        if difference.size:
            tallies.append(((difference > 0).sum() + 0.5 * (difference == 0).sum(), difference.size))
    won, couples = np.array(tallies, dtype=np.float64).reshape(-1, 2).T
    return bootstrapped(_ratio, won, couples, [str(place) for place in range(len(tallies))], resamples)


def spearman(first: Values, second: Values, groups: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate | None:
    """Spearman's rank correlation. None where one of the two is constant."""
    return bootstrapped(_spearman, first, second, groups, resamples)


def kendall_tau(first: Values, second: Values) -> float | None:
    """Kendall's tau-b: the share of couples ranked alike minus the share ranked contrariwise, ties allowed for.

    None where one of the two is constant.
    """
    with report_extra():
        from scipy.stats import kendalltau
    if _is_constant(first) or _is_constant(second):
        return None
    return float(kendalltau(first, second).statistic)


def brier_score(probabilities: Values, labels: Values) -> float:
    """Mean squared distance between the probability of "acceptable" and the label: 0 is best, always 0.5 gives 0.25."""
    with report_extra():
        from sklearn.metrics import brier_score_loss
    return float(brier_score_loss(labels, probabilities, pos_label=1))


def log_loss(probabilities: Values, labels: Values) -> float:
    """Mean of -log p of the label, nats: 0 is best, always 0.5 gives 0.693."""
    with report_extra():
        from sklearn.metrics import log_loss as sklearn_log_loss
    return float(sklearn_log_loss(labels, probabilities, labels=[0, 1]))


def binned(rated: Values, outcomes: Values, *, bins: int = 10) -> tuple[Bin, ...]:
    """What people said of responses that were rated alike, in bins of equal width; empty bins are left out.

    Args:
        rated: scores / 100, 0..1.
        outcomes: labels, 0 or 1, or people's ratings / 100.
        bins: how many there are between 0 and 1.
    """
    places = np.minimum((rated * bins).astype(int), bins - 1)  # 1.0 belongs to the last one
    return tuple(
        Bin(
            low=place / bins,
            high=(place + 1) / bins,
            count=int((places == place).sum()),
            rated=float(rated[places == place].mean()),
            outcome=float(outcomes[places == place].mean()),
        )
        for place in np.unique(places).tolist()
    )


def _auc(scores: Values, labels: Values) -> float | None:
    with report_extra():
        from sklearn.metrics import roc_auc_score
    return None if _is_constant(labels) else float(roc_auc_score(labels, scores))


def _spearman(first: Values, second: Values) -> float | None:
    with report_extra():
        from scipy.stats import spearmanr
    if _is_constant(first) or _is_constant(second):
        return None
    return float(spearmanr(first, second).statistic)


def _ratio(parts: Values, wholes: Values) -> float | None:
    return float(parts.sum() / wholes.sum()) if wholes.size else None


def _rows_of(groups: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """The places of each group's members."""
    rows: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        rows.setdefault(group, []).append(place)
    return [np.array(places) for places in rows.values()]


def _is_constant(values: Values) -> bool:
    return bool((values == values[:1]).all())
