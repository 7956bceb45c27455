"""One type of the census: is it built, does the engine run it, and are its answers those of the plain loop?"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedModel

from sda_engine import Alignment, Completion, Sampling, Steering, SteeringEngine
from sda_engine.errors import ContextLengthError, ModelLoadError
from sda_engine.testing import ScriptedEvaluator, tiny_tokenizer

from .models import draw_weights, tiny_model
from .questions import AMPLIFICATION, GAIN, QUESTIONS, LoopAnswer, Question, loop_answer
from .settings import Settings
from .types import Group

Verdict = Literal["exact", "different", "refused", "not built"]
VERDICTS: tuple[Verdict, ...] = ("exact", "different", "refused", "not built")
_LONG_INDEX = {"index_topk": 400}  # longer than all questions
_REPEATS = "with answers of one token, repeated"
TOLERANCE = 1e-4  # of the largest logit; what is wrong is wrong by a hundredth and more


@dataclass(frozen=True)
class Size:
    """How much is asked of a model.

    Attributes:
        alone: tokens of the answer that is asked for alone.
        together: tokens of each answer of those that are asked for at once.
        questions: how many are asked at once.
        seeds: of weights that are tried, until answers neither end at once nor repeat a token nor are close calls.
    """

    alone: int = 8
    together: int = 4
    questions: int = len(QUESTIONS)
    seeds: tuple[int, ...] = (3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Finding:
    """What the census found of a type.

    Attributes:
        reason: why it is refused, not built, or different.
        runner: what runs it, where it is not refused.
        error: how far log-probabilities of chosen tokens are off at most, as a fraction of the largest logit.
        distinct: different tokens in the answer that was asked for alone.
        seconds: that all of it took.
    """

    model_type: str
    group: Group
    verdict: Verdict
    reason: str = ""
    runner: str = ""
    error: float = 0.0
    distinct: int = 0
    seconds: float = 0.0


def examine(model_type: str, group: Group, size: Size = Size()) -> Finding:
    """Build a type and hold the engine on it against the loop. Whatever goes wrong is in the finding."""
    start = time.perf_counter()
    try:
        finding = _examine(model_type, group, size, {})
    except ContextLengthError:  # the engine takes texts that are shorter than what an indexer picks
        finding = _examine(model_type, group, size, _LONG_INDEX)
        if finding.verdict == "exact":
            finding = replace(finding, reason="for texts up to its index_topk")
    return replace(finding, seconds=time.perf_counter() - start)


def _examine(model_type: str, group: Group, size: Size, sizes: Settings) -> Finding:
    """
    Raises:
        ContextLengthError: the engine accepts the model for texts shorter than the questions.
    """
    try:
        model = tiny_model(model_type, group, sizes=sizes)
        _check_that_text_is_enough(model)
    except Exception as error:  # noqa: BLE001 - each type fails in its own way, and that is what is asked
        return Finding(model_type, group, "not built", _shown(error))
    try:
        return _compare(model, model_type, group, size)
    except ModelLoadError as error:
        return Finding(model_type, group, "refused", _refusal(error))
    except ContextLengthError:
        if sizes:
            return Finding(model_type, group, "different", "accepted for texts shorter than the questions")
        raise
    except Exception as error:  # noqa: BLE001 - what is accepted and then fails is no answer
        return Finding(model_type, group, "different", f"accepted, then fails: {_shown(error)}")


@torch.inference_mode()
def _check_that_text_is_enough(model: PreTrainedModel) -> None:
    logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]]), use_cache=False).logits
    if logits.shape[:2] != (1, 5):
        raise ValueError(f"five tokens of text give logits of the shape {tuple(logits.shape)}")


def _compare(model: PreTrainedModel, model_type: str, group: Group, size: Size) -> Finding:
    """
    Raises:
        ModelLoadError: the engine refuses the model.
    """
    for seed in size.seeds:
        draw_weights(model, seed)
        with SteeringEngine(model, tiny_tokenizer()) as engine:
            expected = _loop_answers(model, size)
            if not _tells_much(expected) and seed != size.seeds[-1]:
                continue
            alone, together = _engine_answers(engine, size)
            runner = str(engine.describe().get("runner", "flat"))
        break
    wrong = _wrong(alone, together, expected)
    questions = (QUESTIONS[0], *QUESTIONS[: size.questions])
    answers = zip(questions, (alone, *together), (expected[0], *expected), strict=True)
    error = max(_error(*answer) for answer in answers)
    if not wrong and error >= TOLERANCE:
        wrong = f"log-probabilities are off by {error:.0e} of the largest logit"
    distinct = len(set(alone.token_ids))
    verdict: Verdict = "different" if wrong else "exact"
    return Finding(model_type, group, verdict, wrong or _REPEATS * (distinct == 1), runner, error, distinct)


def _loop_answers(model: PreTrainedModel, size: Size) -> list[LoopAnswer]:
    """To each question; that to the first one is as long as it is when it is asked alone."""
    tokenizer, answers = tiny_tokenizer(), dict[Question, LoopAnswer]()
    for question in QUESTIONS[: size.questions]:
        if question not in answers:
            tokens = size.together if answers else size.alone
            answers[question] = loop_answer(model, question.prompts(tokenizer), question.strength, tokens)
    return [answers[question] for question in QUESTIONS[: size.questions]]


def _tells_much(expected: Sequence[LoopAnswer]) -> bool:
    first = expected[0].token_ids
    return len(set(first)) > len(first) // 2 > 1 and min(answer.margin for answer in expected) > TOLERANCE


def _engine_answers(engine: SteeringEngine, size: Size) -> tuple[Completion, list[Completion]]:
    """To the first question alone, then to all of them at once."""

    async def all_at_once() -> list[Completion]:
        asked = (_ask(engine, question, size.together) for question in QUESTIONS[: size.questions])
        return await asyncio.gather(*asked)

    return asyncio.run(_ask(engine, QUESTIONS[0], size.alone)), asyncio.run(all_at_once())


async def _ask(engine: SteeringEngine, question: Question, tokens: int) -> Completion:
    """By the published formulas, greedily."""
    if question.score is None:
        steering = Steering(policy="paper", gain=GAIN, amplification=AMPLIFICATION)
    else:
        steering = Steering(policy="paper", gain=GAIN, evaluator=ScriptedEvaluator([question.score]))
    return await engine.agenerate(
        [{"role": "user", "content": question.text}],
        Alignment(instruction=question.instruction, avoid=question.avoid),
        steering=steering,
        sampling=Sampling(temperature=0, max_new_tokens=tokens, logprobs=0),
    )


def _wrong(alone: Completion, together: Sequence[Completion], expected: Sequence[LoopAnswer]) -> str:
    """Which answers are not the loop's; empty where all are."""
    if alone.token_ids != expected[0].token_ids:
        return "its answer alone is another"
    differing = sum(
        answer.token_ids != loop.token_ids[: len(answer.token_ids)]
        for answer, loop in zip(together, expected, strict=True)
    )
    return f"{differing} of {len(together)} answers at once are others" if differing else ""


def _error(question: Question, answer: Completion, expected: LoopAnswer) -> float:
    """Of the log-probabilities as far as the tokens agree; errors of the rows add up as steering weighs them."""
    weighed = 1 + 2 * question.strength * (1 if question.avoid is None else 2)
    error = 0.0
    for place, told in enumerate(answer.logprobs or ()):
        if told.chosen.token_id != expected.token_ids[place]:
            break
        error = max(error, abs(told.chosen.logprob - expected.logprobs[place]))
    return error / (weighed * expected.largest)


def _refusal(error: ModelLoadError) -> str:
    """The reason within the engine's message."""
    return " ".join(str(error).partition(" have ")[2].partition(", and the engine cannot")[0].split()) or _shown(error)


def _shown(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if len(text) <= 160 else f"{type(error).__name__}: {text[:160]} ..."
