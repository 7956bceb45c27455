"""Inspect's messages -> the engine's plain chat messages."""

from collections.abc import Sequence

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
)
from inspect_ai.tool import ToolCall

from sda_engine.errors import MessageError


def to_engine_messages(messages: Sequence[ChatMessage]) -> list[dict[str, object]]:
    """The messages as the engine takes them; the given ones are not changed.

    Raises:
        MessageError: a message holds something that is not text.
    """
    return [_translate(message) for message in messages]


def _translate(message: ChatMessage) -> dict[str, object]:
    if isinstance(message, ChatMessageTool):
        given = {"tool_call_id": message.tool_call_id, "name": message.function}
        ids = {key: value for key, value in given.items() if value is not None}
        return {"role": "tool", "content": _result_of(message), **ids}
    translated: dict[str, object] = {"role": message.role, "content": _text_of(message)}
    if isinstance(message, ChatMessageAssistant) and message.tool_calls:
        translated["tool_calls"] = [_call(call) for call in message.tool_calls]
    return translated


def _call(call: ToolCall) -> dict[str, object]:
    return {
        "type": "function",
        "id": call.id,
        "function": {"name": call.function, "arguments": dict(call.arguments)},
    }


def _result_of(message: ChatMessageTool) -> str:
    """A tool's result; a failure says that it is one, since chat templates have no other place for that."""
    if message.error is None:
        return _text_of(message)
    text = message.error.message
    return text if text.lower().startswith("error") else f"Error: {text}"


def _text_of(message: ChatMessage) -> str:
    """The text of a message: its string, or its texts, one a line."""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(text for part in message.content if (text := _part_text(part, message)) is not None)


def _part_text(part: Content, message: ChatMessage) -> str | None:
    """The text of a part of a message; None for an earlier answer's thought, which chat templates leave out too."""
    if isinstance(part, ContentText):
        return part.text
    if isinstance(part, ContentReasoning) and isinstance(message, ChatMessageAssistant):
        return None
    raise MessageError(
        f"A {type(message).__name__} holds {type(part).__name__}, and this model reads text only. Describe images, "
        f"audio, video and documents in words, or run this task with another model."
    )
