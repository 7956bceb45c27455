"""LlamaIndex ChatMessages -> the engine's messages: plain dicts in the chat format of transformers."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NotRequired, TypedDict

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from sda_engine.contents import Content, Part
from sda_engine.errors import MessageError
from sda_engine.models import merge_leading_system

PlainMessage = dict[str, object]


class PlainFunction(TypedDict):
    """What a call asks for."""

    name: object
    arguments: object


class PlainToolCall(TypedDict):
    """A tool call in the chat format of transformers."""

    id: NotRequired[object]
    type: str
    function: PlainFunction


_ROLES: Mapping[MessageRole, str] = MappingProxyType(
    {
        MessageRole.SYSTEM: "system",
        MessageRole.DEVELOPER: "system",
        MessageRole.USER: "user",
        MessageRole.ASSISTANT: "assistant",
        MessageRole.CHATBOT: "assistant",
        MessageRole.MODEL: "assistant",
        MessageRole.TOOL: "tool",
        MessageRole.FUNCTION: "tool",
    }
)


def plain_messages(messages: Sequence[ChatMessage]) -> list[PlainMessage]:
    """The messages as plain dicts; the given ones are not changed.

    Several system messages at the start become one, as in the prompt, so that evaluators and traces see it too:
    LlamaIndex puts an LLM's system prompt before the system message that a prompt template brings along.

    Raises:
        MessageError: a message holds audio, video or a document, or an image that is none.
    """
    return [dict(turn) for turn in merge_leading_system([_plain_message(message) for message in messages])]


def user_message(text: str) -> PlainMessage:
    """A user turn."""
    return {"role": "user", "content": text}


def system_message(text: str) -> PlainMessage:
    """A system turn."""
    return {"role": "system", "content": text}


def _plain_message(message: ChatMessage) -> PlainMessage:
    if not isinstance(message, ChatMessage):
        raise MessageError(f"A message cannot be {message!r}: it must be a ChatMessage(role=..., content=...).")
    role = _ROLES[message.role]
    plain: PlainMessage = {"role": role, "content": _content(message.blocks, message.role)}
    if role == "assistant" and (calls := tool_calls(message)):
        plain["tool_calls"] = calls
    if role == "tool":
        plain |= {key: message.additional_kwargs[key] for key in ("tool_call_id", "name") if _has(message, key)}
    return plain


def _has(message: ChatMessage, key: str) -> bool:
    return message.additional_kwargs.get(key) is not None


def _content(blocks: Sequence[ContentBlock], role: MessageRole) -> Content:
    """What some blocks say: their texts, one per line as in ChatMessage.content, or parts where there are pictures."""
    parts = _parts(blocks, role)
    if any(part["type"] == "image" for part in parts):
        return parts
    return "\n".join(str(part["text"]) for part in parts)


def _parts(blocks: Sequence[ContentBlock], role: MessageRole) -> list[Part]:
    """The texts and pictures of some blocks, in their order.

    Thinking is dropped: chat templates leave past reasoning out of the prompt. So are cache points, which
    only remote providers understand. Tool calls go elsewhere.
    """
    parts: list[Part] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            parts.append({"type": "text", "text": block.text})
        elif isinstance(block, CitableBlock):
            parts += _parts(block.content, role)
        elif isinstance(block, CitationBlock):
            parts += _parts([block.cited_content], role)
        elif isinstance(block, ImageBlock):
            parts.append({"type": "image", "image": _picture(block, role)})
        elif not isinstance(block, ThinkingBlock | CachePoint | ToolCallBlock):
            raise MessageError(
                f"A {role.value} message holds a block of type {type(block).__name__}, and this model reads text, and "
                f"pictures if it is a vision-language model. Give its content as a TextBlock, in words, or leave it "
                f"out."
            )
    return parts


def _picture(block: ImageBlock, role: MessageRole) -> object:
    """What a picture is to be read from. LlamaIndex's own `resolve_image` would fetch an address."""
    if isinstance(block.image, bytes):
        try:
            return base64.b64decode(block.image, validate=True)  # as the block keeps bytes
        except binascii.Error:
            return block.image
    if block.image is not None:
        block.image.seek(0)
        return block.image.read()
    source = block.path if block.path is not None else block.url
    if source is None:
        raise MessageError(f"A {role.value} message holds an empty ImageBlock: give it an image or a path.")
    return source if source is block.path else str(source)


def tool_calls(message: ChatMessage) -> list[PlainToolCall]:
    """The calls of an assistant turn: its ToolCallBlocks, else the older additional_kwargs["tool_calls"].

    Arguments that are no JSON object, as of a call that is still being written, stay the text that they are.

    Raises:
        MessageError: what should be a call is none.
    """
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if blocks:
        return [_tool_call(block.tool_call_id, block.tool_name, block.tool_kwargs) for block in blocks]
    calls = []
    for call in message.additional_kwargs.get("tool_calls") or ():
        given = call.model_dump() if isinstance(call, BaseModel) else call
        if not (isinstance(given, Mapping) and isinstance(function := given.get("function"), Mapping)):
            raise MessageError(
                f"A tool call cannot be {call!r}: use a ToolCallBlock, or a dict such as "
                f'{{"id": "...", "type": "function", "function": {{"name": "...", "arguments": {{...}}}}}}.'
            )
        calls.append(_tool_call(given.get("id"), function.get("name"), function.get("arguments", {})))
    return calls


def _tool_call(call_id: object, name: object, arguments: object) -> PlainToolCall:
    call: PlainToolCall = {"type": "function", "function": {"name": name, "arguments": _decoded(arguments)}}
    return call if call_id is None else {"id": call_id, **call}


def _decoded(arguments: object) -> object:
    """Arguments as the object that chat templates expect; text that is no JSON object stays as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        decoded = json.loads(arguments)
    except (ValueError, RecursionError):  # no JSON, or numbers and nesting that Python does not read
        return arguments
    return decoded if isinstance(decoded, dict) else arguments
