"""A steering engine without a model: it plays a fixed answer and records what it was asked."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any

import pytest
from langchain_core.runnables import Runnable

from sda_engine import Alignment, Completion, Output, Piece, Sampling, Steering, SteeringEngine, Trace, Usage
from sda_engine.evaluators import Score
from sda_engine.output.tools import ToolCall
from sda_engine.prompts import Message
from sda_engine.results.completion import GeneratedTokenLogprobs, TokenLogprob, ToolCallDelta
from sda_engine.results.trace import TraceToken
from sda_engine.testing import tiny_engine

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
    output: Output
    timeout: float | None
    template_kwargs: Mapping[str, object]
    adapter: str | None
    cache_salt: str | None = None


def called(name: str, *several: dict[str, object], **arguments: object) -> Completion:
    """An answer that calls one tool, once or with several arguments."""
    calls = tuple(
        ToolCall(type="function", id=f"call-{place}", function={"name": name, "arguments": each})
        for place, each in enumerate(several or (arguments,), start=1)
    )
    return replace(PLAYED, text="", finish_reason="tool_calls", tool_calls=calls, logprobs=None)


def _pieces_of(completion: Completion) -> list[Piece]:
    """What a stream gives of a completion: reasoning and each call's arguments in two halves, the text in PIECES."""
    texts = PIECES if completion.text == PLAYED.text else (completion.text,)
    middle = len(completion.reasoning) // 2
    pieces = [Piece(reasoning=half) for half in (completion.reasoning[:middle], completion.reasoning[middle:])]
    pieces += [Piece(text) for text in texts]
    for index, call in enumerate(completion.tool_calls):
        arguments = json.dumps(call["function"]["arguments"])
        middle = len(arguments) // 2
        first = ToolCallDelta(index, call["id"], call["function"]["name"], arguments[:middle])
        pieces += [
            Piece(tool_calls=(first,)),
            Piece(tool_calls=(ToolCallDelta(index, None, None, arguments[middle:]),)),
        ]
    return [*pieces, Piece(completion=completion)]


@dataclass(eq=False)
class FakeEngine(SteeringEngine):
    """Plays PLAYED in PIECES, or raises `error`. `closed` counts the streams that were closed early.

    `script` holds completions to play first, one for each request.
    """

    model_name: str = "fake-model"
    completion: Completion = PLAYED
    script: list[Completion] = field(default_factory=list)
    error: Exception | None = None
    calls: list[Call] = field(default_factory=list)
    closed: int = 0

    @property
    def name(self) -> str:
        return self.model_name

    @property
    def context_window(self) -> int:
        return 100

    @property
    def thinks(self) -> bool:
        return False

    @property
    def reads_pictures(self) -> bool:
        return False

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

    def count_prompt_tokens(
        self,
        messages: Sequence[Message],
        *,
        output: Output = Output(),  # noqa: B008
        template_kwargs: Mapping[str, object] = MappingProxyType({}),
    ) -> int:
        texts = [str(message["content"]) for message in messages]
        return sum(len(text.split()) for text in texts) + 10 * len(output.callable_tools)

    def _answer(self, method, messages, alignment, settings) -> Completion:
        self.calls.append(Call(method, messages, alignment, **settings))
        if self.error is not None:
            raise self.error
        completion = self.script.pop(0) if self.script else self.completion
        wanted = settings["sampling"].logprobs is not None
        return completion if wanted else replace(completion, logprobs=None)

    def _pieces(self, completion: Completion) -> Generator[Piece]:
        try:
            yield from _pieces_of(completion)
        except GeneratorExit:
            self.closed += 1
            raise

    async def _apieces(self, completion: Completion) -> AsyncGenerator[Piece]:
        try:
            for piece in _pieces_of(completion):
                yield piece
        except GeneratorExit:
            self.closed += 1
            raise


async def ask(route: str, model: Runnable[Any, Any], question: Any = "Hi", /, **keywords: Any) -> Any:
    """The answer by one of the four routes; the chunks of a stream are added up."""
    if route == "invoke":
        return model.invoke(question, **keywords)
    if route == "ainvoke":
        return await model.ainvoke(question, **keywords)
    if route == "stream":
        return reduce(add, model.stream(question, **keywords))
    return reduce(add, [chunk async for chunk in model.astream(question, **keywords)])


@pytest.fixture(name="ask")
def ask_by_route() -> Callable[..., Awaitable[Any]]:
    return ask


@pytest.fixture(scope="session")
def tiny() -> Iterator[SteeringEngine]:
    with tiny_engine() as engine:
        yield engine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def make_engine() -> Callable[..., FakeEngine]:
    return FakeEngine


@pytest.fixture
def make_call() -> Callable[..., Completion]:
    return called


@pytest.fixture
def played() -> Completion:
    return PLAYED
