"""A steering engine without a model, and one way to call all eight methods of an LLM."""

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass

from llama_index.core.llms import ChatMessage

from sda_engine import Completion, Output, Piece, Sampling, Steering, SteeringEngine, Trace, Usage

METHODS = (
    "complete",
    "chat",
    "stream_complete",
    "stream_chat",
    "acomplete",
    "achat",
    "astream_complete",
    "astream_chat",
)
STREAMING = tuple(method for method in METHODS if "stream" in method)


@dataclass(frozen=True)
class Call:
    """What one request asked for."""

    messages: list
    alignment: object
    steering: Steering
    sampling: Sampling
    timeout: float | None


class ScriptedEngine(SteeringEngine):
    """Answers with the texts of a script, one after the other, word by word; the last one repeats.

    An exception in the script is raised, after the first word where it stands in a tuple (word, exception).
    """

    def __init__(self, *script):
        self.script = script
        self.calls = []
        self.closed_early = 0

    name = "scripted"
    context_window = 4096

    @property
    def asked(self):
        """The last call."""
        return self.calls[-1]

    def encode(self, text):
        return [len(word) for word in text.split()]

    def stream(self, messages, alignment=None, **settings):
        return self._play(self._next(self._call(messages, alignment, **settings)))

    def astream(self, messages, alignment=None, **settings):
        return self._aplay(self._next(self._call(messages, alignment, **settings)))

    def _call(self, messages, alignment, *, steering, sampling, output, timeout):
        assert output == Output(), "SDALLM asks for free text"
        return Call(messages, alignment, steering, sampling, timeout)

    def _next(self, call):
        answer = self.script[min(len(self.calls), len(self.script) - 1)]
        self.calls.append(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _play(self, answer) -> Generator[Piece, None, None]:
        try:
            yield from _pieces(answer)
        except GeneratorExit:
            self.closed_early += 1
            raise

    async def _aplay(self, answer) -> AsyncGenerator[Piece, None]:
        try:
            for piece in _pieces(answer):
                yield piece
        except GeneratorExit:
            self.closed_early += 1
            raise


def _pieces(answer):
    if isinstance(answer, tuple):
        yield Piece(answer[0])
        raise answer[1]
    words = answer.split(" ")
    yield Piece("")
    yield Piece(words[0])
    for word in words[1:]:
        yield Piece(f" {word}")
    completion = Completion(
        text=answer,
        token_ids=tuple(range(len(words))),
        finish_reason="stop",
        usage=Usage(prompt_tokens=7, completion_tokens=len(words), base_response_tokens=5),
        trace=Trace(tokens=(), alignment="honesty", strength=0.9),
    )
    yield Piece("", completion=completion)


async def ask(llm, method, text="Who wrote Faust?", **keywords):
    """All responses of one call of any of the eight methods."""
    given = [ChatMessage(role="user", content=text)] if "chat" in method else text
    result = getattr(llm, method)(given, **keywords)
    if method.startswith("a"):
        result = await result
    if method in STREAMING:
        return [response async for response in result] if method.startswith("a") else list(result)
    return [result]


def text_of(response):
    """The text of a chat or completion response."""
    return response.message.content if hasattr(response, "message") else response.text
