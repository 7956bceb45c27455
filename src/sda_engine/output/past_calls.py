"""The arguments of calls in earlier turns as plain JSON, whatever Python objects an application has put there."""

import json
from collections.abc import Mapping, Sequence

from pydantic_core import to_jsonable_python

from sda_engine.errors import MessageError
from sda_engine.settings import shown


def jsonable_calls(calls: object, where: str) -> object:
    """The tool calls of a message with arguments that are JSON; the given ones are not changed.

    A date, a Decimal, a set, bytes, an Enum, a dataclass or a pydantic object becomes what pydantic makes of it. What
    is no list of calls is left for the prompt to refuse.

    Args:
        calls: the message's `tool_calls`.
        where: the message's place, for errors.

    Raises:
        MessageError: a value has no natural form in JSON; the message names its place.
    """
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return calls
    return [_jsonable_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(calls)]


def _jsonable_call(call: object, where: str) -> object:
    if not isinstance(call, Mapping):
        return call
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "function": _jsonable_call(function, f"{where}.function")}
    if "arguments" not in call:
        return call
    arguments, where = call["arguments"], f"{where}.arguments"
    if not isinstance(arguments, Mapping):
        return {**call, "arguments": _jsonable(arguments, where)}
    values = {name: _jsonable(value, f"{where}[{name!r}]") for name, value in arguments.items()}
    return {**call, "arguments": values}


def _jsonable(value: object, where: str) -> object:
    try:
        found = to_jsonable_python(value)
        json.dumps(found)  # which an integer of thousands of digits passes only here
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(
            f"{where} cannot be {shown(value)}, which has no form in JSON: {error}. Give texts, numbers, lists and "
            f"dicts, or what pydantic can turn into them."
        ) from error
    return found
