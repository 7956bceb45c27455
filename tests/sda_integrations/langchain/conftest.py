"""A steering engine without a model: it plays a fixed answer and records what it was asked."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from sda_engine import Alignment, Completion, Piece, Sampling, Steering, SteeringEngine, Trace, Usage
from sda_engine.completion import GeneratedTokenLogprobs, TokenLogprob
from sda_engine.evaluators import Score
from sda_engine.prompts import Message
from sda_engine.trace import TraceToken

PIECES = ("The ", "", "earth ", "is round.")


def _logprobs(token_id: int, text: str) -> GeneratedTokenLogprobs:
    chosen = TokenLogprob(token_id, text, -0.1)
    return GeneratedTokenLogprobs(chosen=chosen, top=(chosen, TokenLogprob(9, "?", -2.0)))


PLAYED = Completion(
    text="".join(PIECES),
    token_ids=(1, 2, 3),
    finish_reason="stop",
    usage=Usage(prompt_tokens=7, completion_tokens=4),
    trace=Trace(
        tokens=(TraceToken(token_id=1, text="The", divergence=0.25, temperature=0.5, logprob=-0.1),),
        alignment="honesty",
        strength=0.9,
    ),
    score=Score(value=50.0, evaluator="FixedScore(50)"),
    amplification=0.45,
    logprobs=(_logprobs(1, "The"), _logprobs(2, " earth"), _logprobs(3, "\N{REPLACEMENT CHARACTER}")),
)


@dataclass
class Call:
    """What one request asked for."""

    method: str
    messages: Sequence[Message]
    alignment: Alignment | str | None
    steering: Steering
    sampling: Sampling
    timeout: float | None


@dataclass(eq=False)
class FakeEngine(SteeringEngine):
    """Plays PLAYED in PIECES, or raises `error`. `closed` counts the streams that were closed early."""

    model_name: str = "fake-model"
    completion: Completion = PLAYED
    error: Exception | None = None
    calls: list[Call] = field(default_factory=list)
    closed: int = 0

    @property
    def name(self) -> str:
        return self.model_name

    def describe(self) -> dict[str, object]:
        return {"model": self.model_name, "revision": None, "device": "cpu", "dtype": "float32"}

    def generate(self, messages, alignment=None, **settings) -> Completion:
        return self._answer("generate", messages, alignment, settings)

    async def agenerate(self, messages, alignment=None, **settings) -> Completion:
        return self._answer("agenerate", messages, alignment, settings)

    def stream(self, messages, alignment=None, **settings) -> Generator[Piece]:
        return self._pieces(self._answer("stream", messages, alignment, settings))

    def astream(self, messages, alignment=None, **settings) -> AsyncGenerator[Piece]:
        return self._apieces(self._answer("astream", messages, alignment, settings))

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(str(message["content"]).split()) for message in messages)

    def _answer(self, method, messages, alignment, settings) -> Completion:
        self.calls.append(Call(method, messages, alignment, **settings))
        if self.error is not None:
            raise self.error
        wanted = settings["sampling"].logprobs is not None
        return self.completion if wanted else replace(self.completion, logprobs=None)

    def _pieces(self, completion: Completion) -> Generator[Piece]:
        try:
            for text in PIECES:
                yield Piece(text)
            yield Piece("", completion=completion)
        except GeneratorExit:
            self.closed += 1
            raise

    async def _apieces(self, completion: Completion) -> AsyncGenerator[Piece]:
        try:
            for text in PIECES:
                yield Piece(text)
            yield Piece("", completion=completion)
        except GeneratorExit:
            self.closed += 1
            raise


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def make_engine() -> Callable[..., FakeEngine]:
    return FakeEngine


@pytest.fixture
def played() -> Completion:
    return PLAYED
