"""The solvers that have answers judged: points for one, and the better of two, seen in both orders."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from inspect_ai.model import (
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import JSONSchema
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from sda_engine.alignment import PRESETS
from sda_engine.errors import EvaluationError
from sda_engine.evaluators import EvaluationRequest
from sda_engine.evaluators.preference import PREFERENCE_SCHEMA, Preference, make_comparing_prompt, parse_preference
from sda_engine.evaluators.verdict import RatingPrompt, make_rating_prompt, parse_verdict
from sda_integrations.inspect.evaluators import EvaluatorReader
from sda_integrations.studies.answering import NOTED, REQUEST_RETRIES, engine_of

T = TypeVar("T")

ATTEMPTS = 4  # at a verdict that can be read, and at an evaluator that can be reached
_MOST_WAIT = 40.0  # seconds between two of them; a breaker of ours opens for 30
_VERDICT_TOKENS = 128
# As VERDICT_SCHEMA, in bounds that a grammar holds a small model to
_POINTS_SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 120},
        "score": {"type": "integer", "minimum": 1, "maximum": 100},
    },
    "required": ["reason", "score"],
    "additionalProperties": False,
}


@solver(name="sda_points")
def rate_points(rubric: str, evaluator: str | None = None, evaluator_url: str | None = None) -> Solver:
    """Have an answer rated from 1 to 100 by a preset's rubric: by the task's model, or by an evaluator of ours.

    A reply that cannot be read is asked for again; after ATTEMPTS of them there is no verdict, and that is counted. A
    judge that cannot be reached is an error of the sample, which is tried again when the study is resumed.
    """
    reader = EvaluatorReader(evaluator_url)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        messages, answer = [{"role": "user", "content": state.input_text}], state.metadata["answer"]
        if evaluator is None:
            prompt = make_rating_prompt(EvaluationRequest(messages, answer, PRESETS[rubric]))
            verdict, served = await _ask(prompt, _POINTS_SCHEMA, parse_verdict)
            points = None if verdict is None else verdict.score
        else:
            judge, engine = reader.read("evaluator", evaluator), engine_of(get_model())
            assert judge is not None, "a text was given"
            assert engine is not None, "the study's own model stands behind evaluators"
            score = await _retried(lambda: engine.arate(messages, answer, PRESETS[rubric], judge))
            points, served = score.value, score.evaluator
        return _noted(state, {"points": points, "served": served})

    return solve


@solver(name="sda_pairs")
def compare(rubric: str) -> Solver:
    """Have the task's model say which of two answers is better by a preset's rubric, in both orders.

    Answers that are the same are a tie that nobody is asked for.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        answer, other = state.metadata["answer"], state.metadata["other"]
        if answer == other:
            return _noted(state, {"verdicts": ["tie", "tie"], "asked": False})
        messages = [{"role": "user", "content": state.input_text}]
        orders = ((answer, other), (other, answer))
        prompts = [make_comparing_prompt(messages, *order, PRESETS[rubric]) for order in orders]
        replies: list[tuple[Preference | None, str]] = await asyncio.gather(
            *(_ask(prompt, dict(PREFERENCE_SCHEMA), parse_preference) for prompt in prompts)
        )
        return _noted(state, {"verdicts": [reply for reply, _ in replies], "asked": True, "served": replies[0][1]})

    return solve


@scorer(name="sda_verdict", metrics=[mean()])
def verdict() -> Scorer:
    """What a judge said: points, or 1, 0 or -1 for the better, none or the worse of two as the first order shows it."""

    async def score(state: TaskState, target: Target) -> Score:
        noted = (state.output.metadata or {})[NOTED]
        if "points" in noted:
            value = math.nan if noted["points"] is None else float(noted["points"])
        else:
            first = noted["verdicts"][0]
            value = math.nan if first is None else float({"first": 1, "tie": 0, "second": -1}[first])
        return Score(value=value, answer=state.output.completion)

    return score


async def _ask(prompt: RatingPrompt, schema: dict[str, Any], parse: Callable[[str], T]) -> tuple[T | None, str]:
    """The task's model's verdict, None where none could be read, and the name by which its server calls the model."""
    config = GenerateConfig(
        temperature=0.0,
        max_retries=REQUEST_RETRIES,
        max_tokens=_VERDICT_TOKENS,
        response_schema=ResponseSchema(name="verdict", json_schema=JSONSchema.model_validate(schema), strict=True),
    )
    for _ in range(ATTEMPTS):
        output = await get_model().generate(
            [ChatMessageSystem(content=prompt.system), ChatMessageUser(content=prompt.user)], config=config
        )
        try:
            return parse(output.completion.strip()), output.model
        except EvaluationError:
            config.temperature = 0.6  # what was unreadable at 0 would be so again
    return None, output.model


async def _retried(rate: Callable[[], Awaitable[T]]) -> T:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(EvaluationError),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=5, max=_MOST_WAIT),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            return await rate()
    raise AssertionError("the last attempt raises")


def _noted(state: TaskState, noted: dict[str, Any]) -> TaskState:
    state.output = ModelOutput.from_content(str(get_model()), json.dumps(noted))
    state.output.metadata = {NOTED: noted}
    state.messages.append(state.output.message)
    return state
