"""What an engine makes of a rating, be it in this process or a client: what is shown, and what a score means."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sda_engine.config import Steering
from sda_engine.errors import EvaluationError
from sda_engine.evaluators.protocol import Evaluator, Score, evaluator_name
from sda_engine.output import ToolCall

_FALLBACK_SCORE = 50.0


@dataclass
class Verdict:
    """Where the caller of an evaluator puts what it returned, and finds what counts in its place."""

    score: Score | None = None


@contextmanager
def rating(steering: Steering, base_response: str | None) -> Iterator[Verdict]:
    """Around the call of the evaluator: its failure becomes what the user chose.

    Raises:
        EvaluationError: the evaluator failed, and Steering.on_evaluator_error is "raise".
    """
    verdict = Verdict()
    try:
        yield verdict
        if not isinstance(verdict.score, Score) or verdict.score.value is None:
            raise EvaluationError(f"The evaluator returned {verdict.score!r} in place of a Score.")
    except Exception as error:  # noqa: BLE001 - an evaluator is a user's code: whatever it raises is its failure
        verdict.score = fallback_score(steering, error, base_response)


def rated_text(text: str, tool_calls: Sequence[ToolCall]) -> str:
    """What an evaluator reads of a base response: its text, and its tool calls as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in tool_calls]
    return "\n".join([text, *calls] if text else calls)


def accepts(steering: Steering, score: Score | None) -> bool:
    """Whether a base response with this score is the answer; a fallback is no score."""
    wanted = steering.accept_score
    if wanted is None or score is None or score.fallback is not None:
        return False
    return score.value is not None and score.value >= wanted


def amplification_of(steering: Steering, score: Score) -> float:
    """The amplification factor that a score means, in [0, 1]; 0 where there is none.

    Raises:
        ConfigError: a curve of the user's gave no amplification.
    """
    return 0.0 if score.value is None else steering.amplification_for(score.value)


def why_unrated(tokens: int, *, thought: bool, window_is_full: bool, can_skip_thought: bool) -> str:
    """What is wrong with a base response that was cut off before it said anything, and the remedy.

    Args:
        tokens: that it has.
        thought: whether they are one.
        window_is_full: whether the context window cut it off, and not max_new_tokens.
        can_skip_thought: whether the chat template has a variable for that.
    """
    what = "a thought" if thought else "the beginning of an answer"
    remedies = ["a shorter prompt" if window_is_full else f"max_new_tokens (max_tokens) above {tokens}"]
    if thought:
        remedies.append(f"max_reasoning_tokens well below {tokens}")
    if can_skip_thought:
        remedies.append('template_kwargs={"enable_thinking": False}')
    return (
        f"{what} filled all {tokens} tokens of the base response, so there is no answer to rate. Use "
        f"{' or '.join(remedies)}."
    )


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
