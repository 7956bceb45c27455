"""The chat that a request holds, for the engine."""

import json
from collections.abc import Sequence

from pydantic_core import from_json

from sda_engine.errors import MessageError
from sda_engine.wire.requests import ChatMessage

Message = dict[str, object]


def read_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The chat for the engine.

    Raises:
        MessageError: a turn holds nothing, or the arguments of an earlier call are no JSON object.
    """
    return [_read_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def _read_message(message: ChatMessage, where: str) -> Message:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if content is None and not message.tool_calls:
        raise MessageError(f"{where} has no content: give it a text.")
    parts = content if content is None or isinstance(content, str) else [part.model_dump() for part in content]
    read: Message = {"role": role, "content": parts or ""}
    kept = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content,
    }
    read |= {name: value for name, value in kept.items() if value is not None}
    if message.tool_calls:
        read["tool_calls"] = [
            {
                "type": "function",
                **({} if call.id is None else {"id": call.id}),
                "function": {
                    "name": call.function.name,
                    "arguments": _read_arguments(call.function.arguments, f"{where}.tool_calls[{place}]"),
                },
            }
            for place, call in enumerate(message.tool_calls)
        ]
    return read


def _read_arguments(text: str, where: str) -> dict[str, object]:
    try:
        arguments = from_json(text or "{}", allow_inf_nan=False)
        json.dumps(arguments, allow_nan=False)  # in which 1e999 is an infinity
    except ValueError as error:
        raise MessageError(
            f"{where} has arguments that are no JSON: {error}. Send the text that the answer had, or '{{}}'."
        ) from error
    if not isinstance(arguments, dict):
        raise MessageError(
            f"{where} has arguments that are no JSON object: send the text that the answer had, or '{{}}'."
        )
    return arguments
