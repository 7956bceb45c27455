"""What the engine gives back -> ChatResponse and CompletionResponse, whole and in streams."""

from dataclasses import dataclass

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
)

from sda_engine import Completion
from sda_engine.completion import GeneratedTokenLogprobs, Piece, TokenLogprob


@dataclass(frozen=True)
class Answer:
    """An answer, or as much of it as a stream has brought so far.

    Attributes:
        model: the model's name.
        text: the text so far.
        delta: what is new in it; None outside streams.
        logprobs: the tokens so far, where log-probabilities were asked for.
        completion: the engine's result; None while a stream goes on.
    """

    model: str
    text: str
    delta: str | None
    logprobs: tuple[GeneratedTokenLogprobs, ...] | None
    completion: Completion | None


def whole_answer(completion: Completion, model: str) -> Answer:
    """The answer to a request that was not streamed."""
    return Answer(model, completion.text, None, completion.logprobs, completion)


class GrowingAnswer:
    """Adds up the pieces of a stream."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text = ""
        self._logprobs: tuple[GeneratedTokenLogprobs, ...] = ()

    def add(self, piece: Piece) -> Answer | None:
        """The answer up to this piece; None where the piece shows nothing new and is not the last one."""
        self._text += piece.text
        self._logprobs += piece.logprobs
        if not piece.text and piece.completion is None:
            return None
        return Answer(self._model, self._text, piece.text, self._logprobs or None, piece.completion)


def chat_response(answer: Answer) -> ChatResponse:
    """An answer as LlamaIndex's chat methods give it."""
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=answer.text),
        delta=answer.delta,
        logprobs=_logprobs(answer),
        raw=_raw(answer),
        additional_kwargs=_usage(answer),
    )


def completion_response(answer: Answer) -> CompletionResponse:
    """An answer as LlamaIndex's completion methods give it."""
    return CompletionResponse(
        text=answer.text,
        delta=answer.delta,
        logprobs=_logprobs(answer),
        raw=_raw(answer),
        additional_kwargs=_usage(answer),
    )


def _raw(answer: Answer) -> dict[str, object] | None:
    """Plain JSON: LlamaIndex copies it into events. Its usage is where token counters look."""
    if answer.completion is None:
        return None
    return {
        "model": answer.model,
        "finish_reason": answer.completion.finish_reason,
        "usage": _usage(answer),
        "sda": answer.completion.sda_metadata(),
    }


def _usage(answer: Answer) -> dict[str, int]:
    if answer.completion is None:
        return {}
    usage = answer.completion.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _logprobs(answer: Answer) -> list[list[LogProb]] | None:
    """Per token the chosen one first, then the other likely ones, best first."""
    if answer.logprobs is None:
        return None
    return [
        [
            _logprob(place.chosen),
            *(_logprob(other) for other in place.top if other.token_id != place.chosen.token_id),
        ]
        for place in answer.logprobs
    ]


def _logprob(token: TokenLogprob) -> LogProb:
    # A part of a character decodes to the replacement character, and its own bytes are not known here
    known = "\N{REPLACEMENT CHARACTER}" not in token.text
    return LogProb(token=token.text, logprob=token.logprob, bytes=list(token.text.encode()) if known else [])
