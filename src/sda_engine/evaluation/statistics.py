"""Arms, ways of answering, compared on the same samples: means, the paper's rate, paired differences and their tests.

Prompts are the independent observations, not samples: intervals draw whole groups (the samples of one prompt), and the
test turns whole groups. Seeds are fixed, so that the same figures give the same report. scipy is imported where it is
used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sda_engine.errors import ConfigError
from sda_engine.evaluation.extras import report_extra
from sda_engine.evaluation.measures import RESAMPLES, Estimate, Values, ratio, sums_by_group

FLIPS = 9999


@dataclass(frozen=True)
class PairedDifference:
    """How far an arm is above a baseline on the same samples.

    Attributes:
        value: the mean difference, in the unit of the figures; low and high are its 95% interval, None for one prompt.
        wins, losses, ties: samples where the arm's figure is above, below or at the baseline's.
        count: samples.
        p: probability, 0..1, of a mean difference as large, of either sign, were the two arms the same; not corrected
            for other tests. None where no sample differs.
    """

    value: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    ties: int
    count: int
    p: float | None


def per_sample(values: npt.ArrayLike, groups: Sequence[str]) -> Values:
    """The values as an array, (samples,), float64.

    Raises:
        ConfigError: there are none, more or fewer than groups, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(groups),) or not array.size:
        raise ConfigError(
            f"Figures of shape {array.shape} stand against the groups of {len(groups)} samples. "
            f"Give one figure and one group a sample, and one sample at least."
        )
    if not np.isfinite(array).all():
        place = int(np.argmin(np.isfinite(array)))
        raise ConfigError(
            f"The figure of sample {place} is {array[place]}, and must be finite. "
            f"Leave a sample that has no figure in one arm out of both."
        )
    return array


def per_outcome(outcomes: npt.ArrayLike, groups: Sequence[str]) -> Values:
    """The same of outcomes.

    Raises:
        ConfigError: as `per_sample`, and where one is not +1 (won), 0 (tie) or -1 (lost).
    """
    array = per_sample(outcomes, groups)
    if (strange := array[~np.isin(array, (-1, 0, 1))]).size:
        raise ConfigError(f"An outcome is {strange[0]:g}; it must be 1 (won), 0 (tie) or -1 (lost).")
    return array


def mean(values: npt.ArrayLike, groups: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate:
    """The mean over all samples, with its 95% interval.

    Args:
        values: one figure a sample, (samples,).
        groups: each sample's prompt, (samples,).
        resamples: how often the prompts are drawn for the interval.

    Raises:
        ConfigError: there is no sample, the lengths differ, or a figure is not finite.
    """
    array = per_sample(values, groups)
    estimate = ratio(array, np.ones_like(array), groups, resamples=resamples)
    assert estimate is not None, "there is a value"
    return estimate


def win_rate(outcomes: npt.ArrayLike, groups: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate:
    """The paper's rate, (wins - losses) / all, -1..1; ties count among all.

    Args:
        outcomes: 1 where the arm won, 0 for a tie, -1 where it lost, (samples,).
        groups: each sample's prompt, (samples,).
        resamples: how often the prompts are drawn for the interval.

    Raises:
        ConfigError: as `mean`, and where an outcome is none of the three.
    """
    return mean(per_outcome(outcomes, groups), groups, resamples=resamples)


def paired_difference(
    values: npt.ArrayLike,
    baseline: npt.ArrayLike,
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> PairedDifference:
    """The mean of an arm's figures minus a baseline's on the same samples, with an interval and a test.

    The test is a sign-flip permutation test of whole groups: were the arms the same, the difference on each prompt
    could as well have had the other sign. Against a baseline of zeros it tests a win rate.

    Args:
        values: the arm's figures, (samples,).
        baseline: the other arm's, in the same order, (samples,).
        groups: each sample's prompt, (samples,).
        resamples: how often the prompts are drawn for the interval.
        flips: how many choices of signs the test tries. Few prompts have no more of them (2 to the power of those that
            differ): all are tried, and p is exact. Else they are drawn at random, and p is 2 / (flips + 1) or more.

    Raises:
        ConfigError: there is no sample, the lengths differ, or a figure is not finite.
    """
    differences = per_sample(values, groups) - per_sample(baseline, groups)
    estimate = mean(differences, groups, resamples=resamples)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedDifference(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        wins=wins,
        losses=losses,
        ties=differences.size - wins - losses,
        count=differences.size,
        p=_flip_test(sums_by_group(differences, groups), flips) if wins or losses else None,
    )


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """p values of several tests after Holm's step-down correction, in the order given.

    The chance that one or more of the tests of arms that are the same falls below a level is then no larger than that
    level. None, where nothing was tested, stays None and does not count as a test.

    Raises:
        ConfigError: a p value is not in 0..1.
    """
    tested = [(p, place) for place, p in enumerate(p_values) if p is not None]
    if strange := [p for p, _ in tested if not 0 <= p <= 1]:
        raise ConfigError(f"A p value is {strange[0]}; it must be in 0..1, or None where nothing was tested.")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(sorted(tested)):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = largest
    return tuple(adjusted)


def _flip_test(sums: Values, flips: int) -> float:
    """p of the sum of all groups' sums if each could have the other sign, (groups,)."""
    with report_extra():
        from scipy.stats import permutation_test
    sums = sums[sums != 0]  # a flip of nothing changes nothing, and the fewer there are the sooner all can be tried
    if sums.size < 2:
        return 1.0  # one alone is as far from zero either way
    result = permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",  # of one column: signs
        vectorized=True,
        n_resamples=flips,
        batch=1000,  # flips in memory at a time
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)
