"""The engine's Completion and Pieces -> LangChain's messages and chunks."""

from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages import InvalidToolCall as LangChainInvalidToolCall
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from sda_engine.output import InvalidToolCall, ToolCall
from sda_engine.results import Completion, GeneratedTokenLogprobs, Piece, TokenLogprob, Usage

_FIRST_CALL = 2  # LangChain numbers text, reasoning and calls in one row when it joins chunks


def to_chat_result(completion: Completion, model_name: str) -> ChatResult:
    """A whole answer."""
    message = AIMessage(
        content=completion.text,
        tool_calls=[_tool_call(call) for call in completion.tool_calls],
        invalid_tool_calls=[_invalid_tool_call(call) for call in completion.invalid_tool_calls],
        additional_kwargs=_reasoning(completion.reasoning),
        usage_metadata=usage_metadata(completion.usage),
        response_metadata=_response_metadata(completion, model_name),
    )
    info = {"finish_reason": completion.finish_reason}
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])


def to_chunk(piece: Piece, model_name: str) -> ChatGenerationChunk:
    """One step of a stream; the last one carries what `to_chat_result` puts beside the text.

    Log-probabilities come whole with the last chunk: LangChain's event streams keep one value per metadata
    key.
    """
    if piece.completion is None:
        return ChatGenerationChunk(message=_chunk_message(piece))
    message = _chunk_message(
        piece,
        usage_metadata=usage_metadata(piece.completion.usage),
        response_metadata=_response_metadata(piece.completion, model_name),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message, generation_info={"finish_reason": piece.completion.finish_reason})


def _chunk_message(piece: Piece, **metadata: Any) -> AIMessageChunk:
    return AIMessageChunk(
        content=piece.text,
        tool_call_chunks=[
            *(
                tool_call_chunk(name=delta.name, args=delta.arguments, id=delta.id, index=_FIRST_CALL + delta.index)
                for delta in piece.tool_calls
            ),
            *(_spoiled(piece.completion) if piece.completion is not None else ()),
        ],
        additional_kwargs=_reasoning(piece.reasoning),
        **metadata,
    )


def _spoiled(completion: Completion) -> list[ToolCallChunk]:
    """The rest of calls that were cut off or do not fit, such that they stay invalid when chunks are added up.

    LangChain closes what is open in joined arguments, and an agent would run half a call.
    """
    return [
        tool_call_chunk(
            name=None,
            args=_mismatch(call["text"]) if call["name"] is not None else call["text"] + _mismatch(call["text"]),
            id=None if call["name"] is not None else call["id"],
            index=_FIRST_CALL + call["index"],
        )
        for call in completion.invalid_tool_calls
    ]


def _mismatch(text: str) -> str:
    """Brackets that cannot follow JSON which was cut off, after the end of a string that is open."""
    in_string = escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif in_string and char == "\\":
            escaped = True
        elif char == '"':
            in_string = not in_string
    return "\\" * escaped + '"' * in_string + "]}]}"


def _tool_call(call: ToolCall) -> LangChainToolCall:
    function = call["function"]
    return tool_call(name=function["name"], args=dict(function["arguments"]), id=call["id"])


def _invalid_tool_call(call: InvalidToolCall) -> LangChainInvalidToolCall:
    return invalid_tool_call(name=call["name"], args=call["text"], id=call["id"], error=call["error"])


def _reasoning(text: str) -> dict[str, Any]:
    """Where LangChain's content blocks look for the reasoning of any provider's model."""
    return {"reasoning_content": text} if text else {}


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Token counts in LangChain's terms.

    A base response and revisions that are not the answer are text that the model generated and the user does not see,
    as reasoning is: their tokens are part of `output_tokens`, and `output_token_details["base_response"]` and
    `["dropped"]` tell how many they are.
    `input_token_details["cache_read"]` tells how many prompt tokens an earlier request had computed.
    """
    counts = UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens + usage.base_response_tokens + usage.dropped_tokens,
        total_tokens=usage.total_tokens,
    )
    if usage.cached_prompt_tokens:
        counts["input_token_details"] = InputTokenDetails(cache_read=usage.cached_prompt_tokens)
    unseen = {"base_response": usage.base_response_tokens, "dropped": usage.dropped_tokens}
    if any(unseen.values()):
        # LangChain allows keys of a provider's own here, which a TypedDict cannot say
        details = {name: tokens for name, tokens in unseen.items() if tokens}
        counts["output_token_details"] = cast(OutputTokenDetails, details)
    return counts


def _response_metadata(completion: Completion, model_name: str) -> dict[str, object]:
    metadata: dict[str, object] = {
        "model_name": model_name,
        "model_provider": "sda",
        "finish_reason": completion.finish_reason,
        "sda": completion.sda_metadata(),
    }
    if completion.logprobs is not None:
        metadata["logprobs"] = {"content": [_token_logprobs(place) for place in completion.logprobs]}
    return metadata


def _token_logprobs(place: GeneratedTokenLogprobs) -> dict[str, object]:
    return {**_one_token(place.chosen), "top_logprobs": [_one_token(token) for token in place.top]}


def _one_token(token: TokenLogprob) -> dict[str, object]:
    known = token.known_bytes
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": None if known is None else list(known),
    }
