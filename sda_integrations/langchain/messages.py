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

    Raises:
        MessageError: a message is of a kind that is no part of a chat, or holds something that is not text.
    """
    return [_translate(message) for message in messages]


def _translate(message: BaseMessage) -> dict[str, object]:
    match message:
        case SystemMessage():
            return {"role": "system", "content": _text_of(message)}
        case HumanMessage():
            return {"role": "user", "content": _text_of(message)}
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
            return {"role": _role_of(message), "content": _text_of(message)}
        case _:
            raise MessageError(
                f"A {type(message).__name__} is no part of a chat that a model can read: give SystemMessage, "
                f"HumanMessage, AIMessage, ToolMessage or ChatMessage."
            )


def _translate_answer(message: AIMessage) -> dict[str, object]:
    answer: dict[str, object] = {"role": "assistant", "content": _text_of(message)}
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


def _result_of(message: ToolMessage) -> str:
    """A tool's result; a failure says that it is one, since chat templates have no other place for that."""
    text = _text_of(message)
    failed = message.status == "error" and not text.lower().startswith("error")
    return f"Error: {text}" if failed else text


def _role_of(message: ChatMessage) -> str:
    role = _CHAT_MESSAGE_ROLES.get(message.role)
    if role is None:
        raise MessageError(
            f"A ChatMessage cannot have the role {message.role!r}: it must be one of "
            f"{', '.join(_CHAT_MESSAGE_ROLES)}. For the result of a tool give a ToolMessage."
        )
    return role


def _text_of(message: BaseMessage) -> str:
    """The text of a message: its string, or its text blocks, one a line."""
    if isinstance(message.content, str):
        return message.content
    texts = [_block_text(block, message) for block in message.content]
    return "\n".join(text for text in texts if text is not None)


def _block_text(block: str | Mapping[str, object], message: BaseMessage) -> str | None:
    """The text of a content block; None where it holds something beside the answer."""
    if isinstance(block, str):
        return block
    kind = block.get("type")
    if kind in ("text", "text-plain") and isinstance(text := block.get("text"), str):
        return text
    if kind in _BESIDE_THE_ANSWER and isinstance(message, AIMessage):
        return None
    raise MessageError(
        f"A {type(message).__name__} holds a content block of type {kind!r}, and this model reads text only. "
        f'Give text blocks, {{"type": "text", "text": "..."}}: describe images, audio and files in words, '
        f"and send the result of a tool as a ToolMessage."
    )
