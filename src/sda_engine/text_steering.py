"""What steering means for texts that are given: which of the settings decide their distribution, and which cannot."""

from sda_engine.config import Steering
from sda_engine.decoding import TextSteering
from sda_engine.errors import ConfigError
from sda_engine.evaluators.fixed import FixedScore
from sda_engine.evaluators.protocol import evaluator_name
from sda_engine.request_settings import RequestSettings
from sda_engine.steering import Budget


def text_steering(settings: RequestSettings) -> TextSteering | None:
    """What decides the steered distribution of texts that count as the answer; None where there is no alignment.

    Args:
        settings: alignment and steering. "auto" means the policy of an answer that is seen growing.

    Raises:
        ConfigError: the policy is "revise", the score is not known before there is a response, or a curve of the user's
            gave no amplification.
    """
    if settings.alignment is None:
        return None
    steering = settings.steering
    if settings.policy == "revise":
        raise ConfigError(
            "Steering.policy='revise' gives texts no probability: it chooses among whole answers. Set policy='budget' "
            "(which 'auto' means here) or policy='paper' to score texts."
        )
    strength = steering.gain * _amplification(steering)
    return TextSteering(
        strength=strength,
        avoid_strength=strength if steering.avoid_strength is None else steering.avoid_strength,
        plausibility=steering.plausibility,
        budget=_budget(settings),
    )


def _amplification(steering: Steering) -> float:
    if steering.amplification is not None:
        return steering.amplification
    if isinstance(steering.evaluator, FixedScore):
        return steering.amplification_for(steering.evaluator.value)
    raise ConfigError(
        f"Steering.evaluator={evaluator_name(steering.evaluator)} cannot set the strength for texts that are given: "
        f"there is no base response that it could rate. Set amplification, a number from 0 to 1, or "
        f"evaluator=FixedScore(...), a score above 0 and at most 100."
    )


def _budget(settings: RequestSettings) -> Budget | None:
    steering = settings.steering
    if not steering.acts_in("text"):
        return Budget(opening=0.0)  # the base context decides alone
    return Budget(steering.budget, quiet_divergence=steering.quiet_divergence) if settings.policy == "budget" else None
