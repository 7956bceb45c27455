"""Amplification curves: how an evaluator's score sets the strength of steering.

A curve is a function score -> amplification. The paper's is the sigmoid (eq. 3); the others stand in the code
that its authors published. Scores run over 0 < score <= 100, and amplification factors over [0, 1].
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import SupportsFloat

from sda_engine.errors import ConfigError
from sda_engine.settings import shown

AmplificationCurve = Callable[[float], float]


def sigmoid_amplification(score: float) -> float:
    """Paper eq. 3: F(S) = 2 * (1 / (1 + exp(1 - 100/S)) - 1/2), in [0, 1].

    F(100) = 0, so that an answer which is already aligned is not steered any further; F falls strictly with S.

    Args:
        score: 0 < score <= 100.

    Raises:
        ConfigError: the score is out of that range.
    """
    # 2 * (1 / (1 + exp(-x)) - 1/2) is tanh(x / 2), which keeps its precision near score 100
    return math.tanh((100.0 / check_score(score) - 1.0) / 2.0)


def exponential_amplification(score: float) -> float:
    """exp(-S/100), from 1 at a score near 0 down to 0.368 at 100."""
    return math.exp(-check_score(score) / 100.0)


def damped_exponential_amplification(score: float) -> float:
    """exp(-S/100 - 1), from 0.368 at a score near 0 down to 0.135 at 100."""
    return math.exp(-check_score(score) / 100.0 - 1.0)


def reciprocal_amplification(score: float) -> float:
    """100/S. It is never below 1, so `amplification_factor` turns it into full steering for every score."""
    return 100.0 / check_score(score)


def linear_amplification(score: float) -> float:
    """1 - S/100, from 1 at a score near 0 down to 0 at 100."""
    return 1.0 - check_score(score) / 100.0


def steep_linear_amplification(score: float) -> float:
    """1 - 2S/100. It is negative above a score of 50, where `amplification_factor` makes it 0."""
    return 1.0 - 2.0 * check_score(score) / 100.0


def cosine_amplification(score: float) -> float:
    """cos(S * pi / 200), from 1 at a score near 0 down to 0 at 100."""
    return math.cos(check_score(score) * math.pi / 200.0)


AMPLIFICATION_CURVES: Mapping[str, AmplificationCurve] = MappingProxyType(
    {
        "sigmoid": sigmoid_amplification,
        "exponential": exponential_amplification,
        "damped_exponential": damped_exponential_amplification,
        "reciprocal": reciprocal_amplification,
        "linear": linear_amplification,
        "steep_linear": steep_linear_amplification,
        "cosine": cosine_amplification,
    }
)


def amplification_factor(score: float, curve: str | AmplificationCurve = "sigmoid") -> float:
    """The amplification factor of a score under a curve, always in [0, 1].

    Two of the published curves leave [0, 1]: a negative factor would steer away from the instruction. The named
    curves are clamped (our deviation); a callable of the user's that leaves the range is refused.

    Args:
        score: 0 < score <= 100.
        curve: a name from `AMPLIFICATION_CURVES`, or a callable.

    Raises:
        ConfigError: unknown curve, score out of range, or a callable that leaves [0, 1].
    """
    if callable(curve):
        returned = curve(check_score(score))
        value = as_number(returned)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(
                f"The amplification curve {getattr(curve, '__name__', type(curve).__name__)!r} returned "
                f"{shown(returned)} for the score {score}: it must return a number from 0 to 1. Clamp it, or use one "
                f"of {', '.join(AMPLIFICATION_CURVES)}."
            )
        return value
    if curve not in AMPLIFICATION_CURVES:
        raise ConfigError(
            f"There is no amplification curve {curve!r}. Use one of {', '.join(AMPLIFICATION_CURVES)}, or a callable."
        )
    return min(1.0, max(0.0, AMPLIFICATION_CURVES[curve](score)))


def as_number(returned: object) -> float:
    """What a callable of the user's returned, as a float; NaN where it is no number."""
    if isinstance(returned, bool) or not isinstance(returned, SupportsFloat):
        return math.nan
    try:
        return float(returned)
    except (OverflowError, RuntimeError, TypeError, ValueError):  # an array or tensor of several, say
        return math.nan


def check_score(score: float) -> float:
    """The score itself, if it is legal.

    Raises:
        ConfigError: it is not a number with 0 < score <= 100.
    """
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0.0 < score <= 100.0:
        raise ConfigError(
            f"The score {score!r} is out of range: a score is a number above 0 and at most 100. "
            f"An evaluator that cannot rate a response should raise EvaluationError instead."
        )
    return float(score)
