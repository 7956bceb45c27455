"""The scorer that measures an answer without a judge, and the side effects that every answer has."""

from typing import Any

from inspect_ai.model import get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState

from sda_engine import SteeringEngine
from sda_integrations.studies.answering import NOTED, engine_of
from sda_integrations.studies.checks import Answered, check_text
from sda_integrations.studies.tasks import TASKS

STUDIED = "studied"
"""The role of the study's own model, which tells how surprising an answer is, whoever gave it."""

_COSTS = ("seconds", "passes", "read_tokens", "held_tokens")


@scorer(name="sda_measures", metrics=[mean()])
def measured(task: str, *, alone: bool) -> Scorer:
    """Measure an answer of a task. The score is its first measure; all of them are in its metadata.

    Args:
        task: one of TASKS.
        alone: whether one request ran at a time, so that its costs are its own.
    """
    kind = TASKS[task]

    async def score(state: TaskState, target: Target) -> Score:
        output, noted = state.output, (state.output.metadata or {}).get(NOTED, {})
        answered = Answered(
            text=output.completion,
            calls=[
                {"function": {"name": call.function, "arguments": call.arguments}}
                for call in output.message.tool_calls or ()
            ],
            references=list(target),
            about=state.metadata,
        )
        values: dict[str, float] = dict(noted.get("measures", {}))
        if kind.form != "choice":
            values |= kind.check(answered)
        if kind.form == "text":
            values |= check_text(answered)
            if "hidden_tokens" not in noted:  # else steering had no part in the answer, which is a correction
                values |= _changed(output.metadata or {})
            if (engine := engine_of(get_model(role=STUDIED))) is not None and output.completion:
                values["surprise"] = await _surprise(engine, state.input_text, output.completion)
        if alone and kind.form != "choice":
            values |= _costs_of(output, noted)
        return Score(value=next(iter(values.values())), answer=output.completion, metadata={"measures": values})

    return score


async def _surprise(engine: SteeringEngine, question: str, text: str) -> float:
    """Log-perplexity of a text as a plain answer, nats a token."""
    scored = await engine.acontinuation_logprobs([{"role": "user", "content": question}], [text])
    return -float(scored[0]) / max(1, len(engine.encode(text)))


def _changed(metadata: dict[str, Any]) -> dict[str, float]:
    """Share of an answer's tokens that steering changed; nothing where its model does not tell."""
    tokens = metadata.get("sda", {}).get("tokens", [])
    return {"changed": sum(bool(token["changed"]) for token in tokens) / len(tokens)} if tokens else {}


def _costs_of(output: Any, noted: dict[str, Any]) -> dict[str, float]:
    told = (output.metadata or {}).get("sda", {})
    decoded = output.usage.output_tokens if output.usage else 0
    costs = {name: float(noted[name]) for name in _COSTS if name in noted}
    costs["tokens"] = float(decoded + noted.get("hidden_tokens", 0))
    costs["judge_calls"] = float(told.get("judge_calls", 0))
    return costs
