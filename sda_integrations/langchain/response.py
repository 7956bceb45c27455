"""The engine's Completion and Pieces -> LangChain's messages and chunks."""

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import OutputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from sda_engine.completion import Completion, GeneratedTokenLogprobs, Piece, TokenLogprob, Usage


def to_chat_result(completion: Completion, model_name: str) -> ChatResult:
    """A whole answer."""
    message = AIMessage(
        content=completion.text,
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
        return ChatGenerationChunk(message=AIMessageChunk(content=piece.text))
    message = AIMessageChunk(
        content=piece.text,
        usage_metadata=usage_metadata(piece.completion.usage),
        response_metadata=_response_metadata(piece.completion, model_name),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message, generation_info={"finish_reason": piece.completion.finish_reason})


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Token counts in LangChain's terms.

    A base response is text that the model generated and the user does not see, as reasoning is: its tokens
    are part of `output_tokens`, and `output_token_details["base_response"]` tells how many they are.
    """
    counts = UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens + usage.base_response_tokens,
        total_tokens=usage.total_tokens,
    )
    if usage.base_response_tokens:
        # LangChain allows keys of a provider's own here, which a TypedDict cannot say
        counts["output_token_details"] = OutputTokenDetails(
            base_response=usage.base_response_tokens  # type: ignore[typeddict-unknown-key]
        )
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
    # A token that is only part of a character decodes to U+FFFD: its bytes are unknown here
    known = "\N{REPLACEMENT CHARACTER}" not in token.text
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()) if known else None,
    }
