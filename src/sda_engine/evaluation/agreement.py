"""How far two judges agree: on single pairs, and on the order of the arms. scikit-learn and scipy are imported late."""

from collections.abc import Mapping, Sequence

import numpy as np

from sda_engine.errors import ConfigError
from sda_engine.evaluation.extras import report_extra
from sda_engine.evaluation.measures import spearman
from sda_engine.evaluation.statistics import per_sample


def kappa(first: Sequence[str] | Sequence[int], second: Sequence[str] | Sequence[int]) -> float | None:
    """Cohen's kappa of two judges' verdicts on the same pairs: agreement beyond chance, 1 if whole, 0 if by chance.

    Args:
        first, second: each judge's verdicts or outcomes, in the same order, (pairs,).

    None where it is not defined: there is no pair, or both judges gave one and the same verdict throughout.

    Raises:
        ConfigError: the judges did not judge equally many pairs.
    """
    with report_extra():
        from sklearn.metrics import cohen_kappa_score
    if len(first) != len(second):
        raise ConfigError(
            f"One judge has {len(first)} verdicts and the other {len(second)}. Give both judges' on the same pairs."
        )
    if len({*first, *second}) < 2:
        return None
    return float(cohen_kappa_score(list(first), list(second)))


def rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Spearman's correlation, -1..1, of two judges' figures of the arms: would the other judge rank them alike?

    Args:
        first, second: each judge's figure of every arm, by the arm's name. Arms that one of them lacks do not count.

    None where fewer than three arms are left, or one judge has the same figure for all of them.

    Raises:
        ConfigError: a figure is not finite.
    """
    arms = [arm for arm in first if arm in second]
    if len(arms) < 3:
        return None
    one, other = (per_sample(np.array([figures[arm] for arm in arms]), arms) for figures in (first, second))
    estimate = spearman(one, other, arms, resamples=0)  # arms are no sample of anything: no interval
    return None if estimate is None else estimate.value
