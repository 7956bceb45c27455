"""What the engine gives back -> ChatResponse and CompletionResponse, whole and in streams."""

import json
from dataclasses import dataclass

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from sda_engine import Completion
from sda_engine.errors import IncompleteOutputError, InvalidOutputError
from sda_engine.results import Delta, GeneratedTokenLogprobs, Piece, TokenLogprob


@dataclass(frozen=True)
class Answer:
    """An answer, or as much of it as a stream has brought so far.

    Attributes:
        model: the model's name.
        so_far: text, reasoning and tool calls; the arguments of a call are JSON text, which may be incomplete.
        new: what is new in them; None outside streams.
        logprobs: the tokens so far, where log-probabilities were asked for.
        completion: the engine's result; None while a stream goes on.
    """

    model: str
    so_far: Delta
    new: Delta | None
    logprobs: tuple[GeneratedTokenLogprobs, ...] | None
    completion: Completion | None


def whole_answer(completion: Completion, model: str) -> Answer:
    """The answer to a request that was not streamed."""
    return Answer(model, Delta(completion.text, completion.reasoning), None, completion.logprobs, completion)


class GrowingAnswer:
    """Adds up the pieces of a stream."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._so_far = Delta()
        self._logprobs: tuple[GeneratedTokenLogprobs, ...] = ()

    def add(self, piece: Piece) -> Answer | None:
        """The answer up to this piece; None where the piece shows nothing new and is not the last one."""
        self._so_far += piece
        self._logprobs += piece.logprobs
        if not (piece.text or piece.reasoning or piece.tool_calls or piece.completion):
            return None
        return Answer(self._model, self._so_far, piece, self._logprobs or None, piece.completion)

    def so_far(self) -> Answer:
        """The answer as it is, with nothing new."""
        return Answer(self._model, self._so_far, Delta(), self._logprobs or None, None)


def chat_response(answer: Answer) -> ChatResponse:
    """An answer as LlamaIndex's chat methods give it.

    The message holds a ThinkingBlock where the model has thought, a TextBlock, and a ToolCallBlock for each call. In a
    stream a call that is being written has the JSON text of its arguments so far, and at the end their object.
    """
    thinking = {"thinking_delta": answer.new.reasoning} if answer.new is not None and answer.new.reasoning else {}
    calls = _call_blocks(answer)
    return ChatResponse(
        message=ChatMessage(
            role=MessageRole.ASSISTANT, blocks=_blocks(answer, calls), additional_kwargs=_calls_as_json(answer, calls)
        ),
        delta=_text_delta(answer),
        logprobs=_logprobs(answer),
        raw=_raw(answer),
        additional_kwargs={**_usage(answer), **thinking},
    )


def completion_response(answer: Answer) -> CompletionResponse:
    """An answer as LlamaIndex's completion methods give it."""
    return CompletionResponse(
        text=answer.so_far.text,
        delta=_text_delta(answer),
        logprobs=_logprobs(answer),
        raw=_raw(answer),
        additional_kwargs={**_usage(answer), **_calls_as_json(answer, _call_blocks(answer))},
    )


def refuse_cut_off(response: ChatResponse, wanted: str) -> None:
    """Raise if a response ended before it was whole.

    Raises:
        IncompleteOutputError: it did; its text is in the error.
    """
    raw = response.raw or {}
    if raw.get("finish_reason") not in (None, "stop", "tool_calls"):
        tokens = raw["usage"]["completion_tokens"]
        raise IncompleteOutputError(
            f"The answer was cut off after {tokens} tokens, before {wanted} was whole. Give it more room with "
            f"max_tokens, on the SDALLM or on the call, or shorten the prompt if the context window is full.",
            partial=response.message.content or "",
        )


def refuse_misfit(response: ChatResponse) -> None:
    """Raise if a response has a call that does not fit its tool's schema.

    Raises:
        InvalidOutputError: it has.
    """
    for call in response.message.additional_kwargs.get("invalid_tool_calls", ()):
        raise InvalidOutputError(f"{call['error']} Ask again.", text=call["text"])


def _text_delta(answer: Answer) -> str | None:
    return None if answer.new is None else answer.new.text


def _blocks(answer: Answer, calls: list[ToolCallBlock]) -> list[ContentBlock]:
    text, reasoning = answer.so_far.text, answer.so_far.reasoning
    blocks: list[ContentBlock] = [ThinkingBlock(content=reasoning)] if reasoning else []
    if text or not calls:
        blocks.append(TextBlock(text=text))
    return [*blocks, *calls]


def _call_blocks(answer: Answer) -> list[ToolCallBlock]:
    if answer.completion is None:
        return [
            ToolCallBlock(tool_call_id=call.id, tool_name=call.name or "", tool_kwargs=call.arguments)
            for call in answer.so_far.tool_calls
        ]
    return [
        ToolCallBlock(
            tool_call_id=call["id"], tool_name=call["function"]["name"], tool_kwargs=call["function"]["arguments"]
        )
        for call in answer.completion.tool_calls
    ]


def _calls_as_json(answer: Answer, calls: list[ToolCallBlock]) -> dict[str, object]:
    """The calls once more as OpenAI's API has them, where LlamaIndex's programs look; and one that was cut off."""
    kwargs: dict[str, object] = {}
    if calls:
        kwargs["tool_calls"] = [_openai_call(call) for call in calls]
    if answer.completion is not None and answer.completion.invalid_tool_calls:
        kwargs["invalid_tool_calls"] = [dict(call) for call in answer.completion.invalid_tool_calls]
    return kwargs


def _openai_call(call: ToolCallBlock) -> dict[str, object]:
    arguments = call.tool_kwargs
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call.tool_call_id, "type": "function", "function": {"name": call.tool_name, "arguments": text}}


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
        "cached_prompt_tokens": usage.cached_prompt_tokens,
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
    return LogProb(token=token.text, logprob=token.logprob, bytes=list(token.known_bytes or b""))
