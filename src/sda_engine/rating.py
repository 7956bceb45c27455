"""What becomes of a rating: the score, or a failure of the evaluator turned into what the user chose."""

from dataclasses import dataclass

from sda_engine.config import Steering
from sda_engine.errors import EvaluationError
from sda_engine.evaluators.protocol import Evaluator, Score, evaluator_name

_FALLBACK_SCORE = 50.0


@dataclass
class Verdict:
    """Where the caller of an evaluator puts what it returned."""

    score: Score | None = None


def fallback_score(steering: Steering, error: Exception, base_response: str | None) -> Score:
    """The score that stands in for one that an evaluator failed to give.

    Raises:
        EvaluationError: Steering.on_evaluator_error is "raise".
    """
    evaluator, choice = steering.evaluator, steering.on_evaluator_error
    if choice == "raise":
        raise no_score(evaluator, error, base_response) from error
    value = _FALLBACK_SCORE if choice == "fixed" else None
    reason = f"{type(error).__name__}: {error}"
    return Score(value=value, evaluator=evaluator_name(evaluator), reason=reason, fallback=choice)


def no_score(evaluator: Evaluator, error: Exception, base_response: str | None) -> EvaluationError:
    """What a user is told who wants no score to stand in."""
    reason = str(error) if isinstance(error, EvaluationError) else f"{type(error).__name__}: {error}"
    return EvaluationError(
        f"{evaluator_name(evaluator)} gave no score: {reason} To go on without one, set "
        f"Steering(on_evaluator_error='instruct_only') or 'fixed'.",
        base_response=base_response,
    )
