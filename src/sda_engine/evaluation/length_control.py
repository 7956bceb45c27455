"""What is left of a win rate once the length of the answers is accounted for.

Judges, people among them, like longer answers. The idea is that of the length-controlled AlpacaEval
(https://arxiv.org/abs/2404.04475): model the chance of winning with the difference in length as a covariate, and ask
what it is where there is none. Theirs has terms for the model and for the instruction; this one has an intercept and a
slope a comparison. scipy is imported where it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sda_engine.evaluation.extras import report_extra
from sda_engine.evaluation.measures import RESAMPLES, Estimate, Values, bootstrapped
from sda_engine.evaluation.statistics import per_outcome, per_sample, win_rate

RIDGE = 0.1  # a normal prior of the slope, 3 log-odds wide: with 200 samples it moves a slope of 1 by less than 0.01


@dataclass(frozen=True)
class LengthControlled:
    """A win rate between answers of the same length.

    Attributes:
        rate: on the scale of (wins - losses) / all, -1..1.
        length_effect: by how much the log-odds of winning grow from an answer as long as the baseline's to a much
            longer one; above 0, longer answers win. 0 where lengths do not vary.
    """

    rate: Estimate
    length_effect: float


def length_controlled_rate(
    outcomes: npt.ArrayLike,
    length_differences: npt.ArrayLike,
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
) -> LengthControlled:
    """The rate that an arm would have if its answers were as long as the baseline's: 2 P(win | no difference) - 1.

    P is a logistic regression of winning on an intercept and tanh(difference / standard deviation of the differences):
    a very long answer counts as a long one, and no difference is 0. A tie is half a win and half a loss. A light ridge
    on the slope (`RIDGE` / 2 * slope ** 2 beside the sum of the log losses) keeps it finite where length alone tells
    the winner; the intercept is free. Where all outcomes are alike, so is the rate. Where lengths do not vary, there is
    nothing to control for, and the rate is the plain win rate. Where nearly all of an arm's answers are longer, the
    rate is an extrapolation, which its interval shows.

    Args:
        outcomes: 1 where the arm won, 0 for a tie, -1 where it lost, (samples,).
        length_differences: the arm's length minus the baseline's, in tokens, words or characters, (samples,).
        groups: each sample's prompt, (samples,).
        resamples: how often the prompts are drawn for the interval.

    Raises:
        ConfigError: there is no sample, the lengths differ, an outcome is none of the three, or a difference is not
            finite.
    """
    won = per_outcome(outcomes, groups)
    differences = per_sample(length_differences, groups)
    if np.ptp(differences) == 0:
        return LengthControlled(win_rate(won, groups, resamples=resamples), 0.0)
    longer = np.tanh(differences / differences.std())
    rate = bootstrapped(lambda *rows: _fitted(*rows)[0], won, longer, groups, resamples)
    assert rate is not None, "every fit has a rate"
    return LengthControlled(rate, _fitted(won, longer)[1])


def _fitted(outcomes: Values, longer: Values) -> tuple[float, float]:
    """The rate where `longer` is 0, and the slope."""
    with report_extra():
        from scipy.optimize import minimize
        from scipy.special import expit
    if np.ptp(outcomes) == 0 and outcomes[0] != 0:
        return float(outcomes[0]), 0.0  # the intercept would go on for ever
    wins = (outcomes + 1) / 2

    def loss(weights: Values) -> tuple[float, Values]:
        intercept, slope = weights
        log_odds = intercept + slope * longer  # (samples,)
        residuals = expit(log_odds) - wins
        value = (np.logaddexp(0, log_odds) - wins * log_odds).sum() + RIDGE / 2 * slope**2
        return float(value), np.array([residuals.sum(), residuals @ longer + RIDGE * slope])

    intercept, slope = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", options={"ftol": 1e-12}).x.tolist()
    return float(np.tanh(intercept / 2)), slope  # 2 expit(x) - 1 = tanh(x / 2)
