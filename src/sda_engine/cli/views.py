"""Figures of an answer as short texts, alike in all commands."""

from sda_engine import Completion


def describe_score(completion: Completion) -> str:
    """The score and who gave it, or the fallback that was taken; "none" where nobody rated."""
    score = completion.score
    if score is None:
        return "none"
    if score.fallback is not None:
        return f"missing, fallback {score.fallback} ({score.evaluator})"
    return f"{score.value:.1f} ({score.evaluator})"


def describe_choice(completion: Completion) -> str:
    """Which of the revisions is the answer, or that none is."""
    count = len(completion.attempts)
    for place, attempt in enumerate(completion.attempts, start=1):
        if attempt.chosen:
            return f"revision {place} of {count}"
    lost = sum(attempt.lost is not None for attempt in completion.attempts)
    return f"the base response: of {count} revisions {lost} lost what must stay, and none scored better"


def describe_figures(completion: Completion) -> str:
    """What steering did to an answer, one figure per line."""
    usage = completion.usage
    lines = [f"{usage.completion_tokens} tokens, finish: {completion.finish_reason}"]
    if completion.attempts:
        lines.append(describe_choice(completion))
    if completion.amplification is None:
        return "\n".join([*lines, "not steered"])
    return "\n".join(
        [
            *lines,
            f"score: {describe_score(completion)}",
            f"amplification: {completion.amplification:.3f}",
            f"strength: {completion.trace.strength:.3f}",
            f"mean divergence: {completion.trace.mean_divergence:.4f} nats",
        ]
    )
