"""Which settings of steering follow an instruction on a user's own questions, and keep what must stay in answers."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from sda_engine.alignment import Alignment
from sda_engine.choosing import missing_values
from sda_engine.config import Sampling, Steering
from sda_engine.decoding import find_repetition
from sda_engine.engine import SteeringEngine
from sda_engine.errors import ConfigError
from sda_engine.evaluation.json_lines import read_json_lines
from sda_engine.evaluation.measures import Estimate, share
from sda_engine.evaluators.protocol import EvaluationRequest, Evaluator
from sda_engine.prompts import normalise_messages
from sda_engine.results import Completion
from sda_engine.settings import Settings

PLAIN, PROMPT = "plain", "in the prompt"
MOST_LOST = 0.03  # of the answers that keep their values in the prompt alone: what a recommended setting may lose
_TOGETHER = 8  # requests at once

_EXAMPLE = '{"question": "...", "keep": ["43 euros"]}'

Check = Callable[[EvaluationRequest], Awaitable[bool]]
"""Whether a response follows the instruction."""

# From what steers least to what steers most. The plain answer and the prompt alone are what the others are held against
TUNED: Mapping[str, Steering | None] = {
    PLAIN: None,
    PROMPT: Steering(policy="paper", gain=0.0),
    **{f"paper, strength {gain / 2:g}": Steering(policy="paper", gain=gain, amplification=0.5) for gain in (1, 2, 4)},
    **{
        f"budget {budget:g} nats, strength {gain / 2:g}": Steering(
            policy="budget", gain=gain, amplification=0.5, budget=budget
        )
        for gain in (2.0, 4.0)
        for budget in (6.0, 12.0, 24.0)
    },
    "budget at the end alone": Steering(policy="budget", gain=4.0, amplification=0.5, budget=0.0),
    **{
        f"revise, strength {gain / 2:g}": Steering(policy="revise", gain=gain, amplification=0.5)
        for gain in (1.0, 2.0, 4.0)
    },
}


class TuneCase(Settings):
    """A question, and what must stand in its answer.

    Attributes:
        messages: the chat.
        keep: texts that an answer has to hold as whole words, in any case; where there are none, nothing can be lost.
    """

    messages: tuple[dict[str, object], ...] = Field(min_length=1, description="a tuple of at least one message")
    keep: tuple[str, ...] = Field(default=(), description="a tuple of texts")


class CaseLine(Settings):
    """One line of a file of cases."""

    question: str | None = Field(default=None, min_length=1, description="a text of at least one character")
    messages: list[dict[str, object]] | None = Field(default=None, description="a list of chat messages")
    keep: list[str] = Field(default_factory=list, description="a list of texts that the answer has to hold")

    @model_validator(mode="after")
    def _has_one_prompt(self) -> Self:
        if (self.question is None) == (self.messages is None):
            raise ConfigError(
                'The prompt must be given as "question": a text, documents included, or as "messages": a list of chat '
                "messages; one of the two, and not both."
            )
        return self


def read_cases(path: Path, *, limit: int | None = None) -> list[TuneCase]:
    """The cases of a file, one JSON object a line: {"question": ..., "keep": [...]}, or "messages" for "question".

    Raises:
        ConfigError: the file cannot be read or holds no case, or a line is malformed: its number is told.
    """
    return read_json_lines(path, _case, what="question", example=_EXAMPLE, limit=limit)


def _case(record: Mapping[str, object]) -> TuneCase:
    line = CaseLine.of_values(record)
    messages = [{"role": "user", "content": line.question}] if line.messages is None else line.messages
    return TuneCase(messages=tuple(normalise_messages(messages)), keep=tuple(line.keep))


def matches(pattern: str) -> Check:
    """A check by a regular expression, searched for in any case.

    Raises:
        ConfigError: it is no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}. Mend it, or give words.") from error

    async def check(request: EvaluationRequest) -> bool:
        return compiled.search(request.response) is not None

    return check


def holds_words(words: Sequence[str]) -> Check:
    """A check that all of these words or phrases stand in a response, in any case."""

    async def check(request: EvaluationRequest) -> bool:
        return not missing_values(request.response, words)

    return check


def scores_at_least(evaluator: Evaluator, least: float) -> Check:
    """A check by an evaluator's score.

    Raises:
        ConfigError: the evaluator looks at no response, or at log-probabilities that a finished answer has not.
    """
    if not evaluator.needs_response or getattr(evaluator, "needs_logprobs", False):
        raise ConfigError("This evaluator cannot tell whether a finished answer follows: give a judge or a pattern.")

    async def check(request: EvaluationRequest) -> bool:
        score = await evaluator.aevaluate(request)
        return score.value is not None and score.value >= least

    return check


@dataclass(frozen=True)
class TunedArm:
    """What became of one setting.

    Attributes:
        steering: the setting; None for the plain answer.
        kept, follows, both, degenerate: shares of the answers, with intervals over the questions: those that hold what
            must stay, that follow, that do both, and that are empty or repeat themselves.
        seconds: of one answer, several at once.
    """

    name: str
    steering: Steering | None
    kept: Estimate
    follows: Estimate
    both: Estimate
    degenerate: Estimate
    seconds: float


@dataclass(frozen=True)
class Tuner:
    """Tries settings of steering on questions, one setting after the other.

    Attributes:
        engine: answers.
        cases: the questions.
        alignment: what to steer by.
        check: whether an answer follows it.
        sampling: how tokens are drawn.
        on_answer: called after every answer.
    """

    engine: SteeringEngine
    cases: Sequence[TuneCase]
    alignment: Alignment
    check: Check
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0, max_new_tokens=96))
    on_answer: Callable[[], None] = lambda: None

    async def all(self, arms: Mapping[str, Steering | None] = TUNED) -> list[TunedArm]:
        """What becomes of each of the settings, which are given by name."""
        return [await self.one(name, steering) for name, steering in arms.items()]

    async def one(self, name: str, steering: Steering | None) -> TunedArm:
        """What becomes of one setting; None is the plain answer."""
        room = asyncio.Semaphore(_TOGETHER)

        async def answer(case: TuneCase) -> tuple[Completion, bool]:
            async with room:
                done = await self._ask(case, steering)
            followed = await self.check(EvaluationRequest(case.messages, done.text, self.alignment))
            self.on_answer()
            return done, followed

        start = time.perf_counter()
        answers = await asyncio.gather(*(answer(case) for case in self.cases))
        seconds = (time.perf_counter() - start) / len(self.cases)
        kept = [not missing_values(done.text, case.keep) for case, (done, _) in zip(self.cases, answers, strict=True)]
        follows = [followed for _, followed in answers]
        groups = [str(place) for place in range(len(self.cases))]
        return TunedArm(
            name=name,
            steering=steering,
            kept=share(kept, groups),
            follows=share(follows, groups),
            both=share([one and other for one, other in zip(kept, follows, strict=True)], groups),
            degenerate=share([is_degenerate(done) for done, _ in answers], groups),
            seconds=seconds,
        )

    async def _ask(self, case: TuneCase, steering: Steering | None) -> Completion:
        if steering is None:
            return await self.engine.agenerate(case.messages, sampling=self.sampling)
        return await self.engine.agenerate(case.messages, self.alignment, steering=steering, sampling=self.sampling)


def recommend(arms: Sequence[TunedArm]) -> TunedArm | None:
    """The setting with the most answers that follow and keep what must stay, of those that lose hardly any.

    That is, at most MOST_LOST fewer than with the instruction in the prompt alone. Of equals, the fastest; None where
    no setting does better than that prompt.
    """
    prompt = next(arm for arm in arms if arm.name == PROMPT)
    fit = [arm for arm in arms if arm.steering is not None and arm.kept.value >= prompt.kept.value - MOST_LOST]
    best = max(fit, key=lambda arm: (arm.both.value, -arm.seconds))
    return best if best.both.value > prompt.both.value else None


def is_degenerate(done: Completion) -> bool:
    """Whether an answer is empty or repeats itself."""
    return not done.text.strip() or find_repetition(done.token_ids) is not None
