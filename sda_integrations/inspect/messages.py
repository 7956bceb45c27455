"""Inspect's messages -> the engine's plain chat messages."""

from collections.abc import Sequence
from pathlib import Path

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentReasoning,
    ContentText,
)
from inspect_ai.tool import ToolCall

from sda_engine.contents import Content as EngineContent
from sda_engine.contents import Part
from sda_engine.errors import MessageError


def to_engine_messages(messages: Sequence[ChatMessage]) -> list[dict[str, object]]:
    """The messages as the engine takes them; the given ones are not changed.

    Raises:
        MessageError: a message holds something that is neither text nor a picture.
    """
    return [_translate(message) for message in messages]


def _translate(message: ChatMessage) -> dict[str, object]:
    if isinstance(message, ChatMessageTool):
        given = {"tool_call_id": message.tool_call_id, "name": message.function}
        ids = {key: value for key, value in given.items() if value is not None}
        return {"role": "tool", "content": _result_of(message), **ids}
    translated: dict[str, object] = {"role": message.role, "content": _content_of(message)}
    if isinstance(message, ChatMessageAssistant) and message.tool_calls:
        translated["tool_calls"] = [_call(call) for call in message.tool_calls]
    return translated


def _call(call: ToolCall) -> dict[str, object]:
    return {
        "type": "function",
        "id": call.id,
        "function": {"name": call.function, "arguments": dict(call.arguments)},
    }


def _result_of(message: ChatMessageTool) -> EngineContent:
    """A tool's result; a failure says that it is one, since chat templates have no other place for that."""
    if message.error is None:
        return _content_of(message)
    text = message.error.message
    return text if text.lower().startswith("error") else f"Error: {text}"


def _content_of(message: ChatMessage) -> EngineContent:
    """What a message says: its string, or its texts, one a line; a list of parts where there are pictures too."""
    if isinstance(message.content, str):
        return message.content
    parts = [part for given in message.content if (part := _part_of(given, message)) is not None]
    if any(part["type"] == "image" for part in parts):
        return parts
    return "\n".join(str(part["text"]) for part in parts)


def _part_of(part: Content, message: ChatMessage) -> Part | None:
    """A part as the engine takes it; None for an earlier answer's thought, which chat templates leave out too."""
    if isinstance(part, ContentText):
        return {"type": "text", "text": part.text}
    if isinstance(part, ContentImage):
        is_url = part.image.lower().startswith(("data:", "http:", "https:"))
        # A task may name files of its own, and what a tool brings may not
        is_file = isinstance(message, ChatMessageUser) and not is_url
        return {"type": "image", "image": Path(part.image) if is_file else part.image}
    if isinstance(part, ContentReasoning) and isinstance(message, ChatMessageAssistant):
        return None
    raise MessageError(
        f"A {type(message).__name__} holds {type(part).__name__}, and this model reads text, and pictures if it is a "
        f"vision-language model. Put audio, video and documents in words, or run this task with another model."
    )
