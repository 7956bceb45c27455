"""LangChain messages -> the engine's plain chat messages."""

from collections.abc import Mapping, Sequence

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from sda_engine.contents import Content, Part, joined, plain_text
from sda_engine.errors import MessageError

_CHAT_MESSAGE_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
}

# What an earlier answer may hold beside its text: calls, which AIMessage.tool_calls repeats in one format for
# all providers, and reasoning, which chat templates leave out of earlier turns too.
_BESIDE_THE_ANSWER = frozenset(
    {
        "function_call",
        "input_json_delta",
        "invalid_tool_call",
        "reasoning",
        "reasoning_content",
        "redacted_thinking",
        "thinking",
        "tool_call",
        "tool_call_chunk",
        "tool_use",
    }
)


def to_engine_messages(messages: Sequence[BaseMessage]) -> list[dict[str, object]]:
    """The messages as the engine takes them; the given ones are not changed.

    Pictures go through as they come: the engine reads them, once it knows that the model can.

    Raises:
        MessageError: a message is of a kind that is no part of a chat, or holds neither text nor pictures.
    """
    return [_translate(message) for message in messages]


def _translate(message: BaseMessage) -> dict[str, object]:
    match message:
        case SystemMessage():
            return {"role": "system", "content": _content_of(message)}
        case HumanMessage():
            return {"role": "user", "content": _content_of(message)}
        case AIMessage():
            return _translate_answer(message)
        case ToolMessage():
            name = {"name": message.name} if message.name is not None else {}
            return {
                "role": "tool",
                "content": _result_of(message),
                "tool_call_id": message.tool_call_id,
                **name,
            }
        case ChatMessage():
            return {"role": _role_of(message), "content": _content_of(message)}
        case _:
            raise MessageError(
                f"A {type(message).__name__} is no part of a chat that a model can read: give SystemMessage, "
                f"HumanMessage, AIMessage, ToolMessage or ChatMessage."
            )


def _translate_answer(message: AIMessage) -> dict[str, object]:
    answer: dict[str, object] = {"role": "assistant", "content": _content_of(message)}
    if message.tool_calls:
        answer["tool_calls"] = [
            {
                "type": "function",
                "id": call["id"],
                "function": {"name": call["name"], "arguments": dict(call["args"])},
            }
            for call in message.tool_calls
        ]
    return answer


def _result_of(message: ToolMessage) -> Content:
    """A tool's result; a failure says that it is one, since chat templates have no other place for that."""
    content = _content_of(message)
    failed = message.status == "error" and not plain_text(content).lower().startswith("error")
    return joined(["Error: ", content], "") if failed else content


def _role_of(message: ChatMessage) -> str:
    role = _CHAT_MESSAGE_ROLES.get(message.role)
    if role is None:
        raise MessageError(
            f"A ChatMessage cannot have the role {message.role!r}: it must be one of "
            f"{', '.join(_CHAT_MESSAGE_ROLES)}. For the result of a tool give a ToolMessage."
        )
    return role


def _content_of(message: BaseMessage) -> Content:
    """What a message says: its string, or its texts, one a line; a list of parts where there are pictures too."""
    if isinstance(message.content, str):
        return message.content
    parts = [part for block in message.content if (part := _part_of(block, message)) is not None]
    if any(part["type"] == "image" for part in parts):
        return parts
    return "\n".join(str(part["text"]) for part in parts)


def _part_of(block: str | Mapping[str, object], message: BaseMessage) -> Part | None:
    """A content block as the engine takes it; None where it holds something beside the answer."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    kind = block.get("type")
    if kind in ("text", "text-plain") and isinstance(text := block.get("text"), str):
        return {"type": "text", "text": text}
    if kind in _BESIDE_THE_ANSWER and isinstance(message, AIMessage):
        return None
    if kind in ("image", "image_url") and (url := _picture_url(block)) is not None:
        return {"type": "image", "image": url}
    raise MessageError(
        f"A {type(message).__name__} holds a content block of type {kind!r} that this model cannot read. Give text "
        f'blocks, {{"type": "text", "text": "..."}}, and to a model that reads pictures blocks such as '
        f'{{"type": "image", "base64": "...", "mime_type": "image/png"}}: put audio and files in words, and send the '
        f"result of a tool as a ToolMessage."
    )


def _picture_url(block: Mapping[str, object]) -> str | None:
    """The address of a picture, which is a data URL where its bytes stand in the block; None where it has neither.

    The bytes may stand in LangChain's blocks of today and of before version 1, in OpenAI's and in Anthropic's.
    """
    inner = block.get("image_url", block.get("source", block))
    if isinstance(inner, str):
        return inner
    if not isinstance(inner, Mapping):
        return None
    data = next((given for key in ("base64", "data") if isinstance(given := inner.get(key), str)), None)
    if data is not None:
        kind = inner.get("mime_type") or inner.get("media_type") or "image/png"  # the bytes tell which it is
        return f"data:{kind};base64,{data}"
    url = inner.get("url")
    return url if isinstance(url, str) else None
