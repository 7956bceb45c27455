"""Whether calls of tools and JSON answers are valid, and whether their values are the right ones."""

import json
from collections.abc import Mapping, Sequence

from sda_engine.errors import ConfigError
from sda_engine.output import resolve_tool
from sda_engine.output.fit import check_meaning, misfit


def valid_call(tool_calls: Sequence[Mapping[str, object]], tools: Sequence[object]) -> bool:
    """Whether there is a call, and each names one of the tools and has arguments that fit the tool's JSON schema.

    Args:
        tool_calls: calls in the chat format, {"function": {"name": ..., "arguments": ...}}, as `Completion.tool_calls`
            has them; arguments may be a dict or, as in OpenAI's API, JSON text.
        tools: what may be called, in any form that the engine takes.

    Raises:
        ConfigError: a tool describes none.
        ConstraintError: a tool's schema is none, or too large.
    """
    schemas = {tool.name: tool.parameters for tool in map(resolve_tool, tools)}
    for schema in schemas.values():
        check_meaning(schema)
    return bool(tool_calls) and all(_fits(_function_of(call), schemas) for call in tool_calls)


def call_arguments(tool_calls: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The arguments of the first call; none where there is no call or they are no JSON object."""
    found = _arguments_of(_function_of(tool_calls[0])) if tool_calls else None
    return {} if found is None else found


def valid_json(text: str, schema: Mapping[str, object]) -> bool:
    """Whether a whole text is one JSON value that fits a schema; fences and words around it are not allowed.

    Raises:
        ConstraintError: the schema is none.
    """
    check_meaning(schema)
    try:
        value = _parsed(text)
    except (ValueError, RecursionError):
        return False
    return misfit(schema, value) is None


def json_values(text: str) -> dict[str, object]:
    """The properties of a JSON object, for `argument_accuracy`; none where a text is no such object."""
    try:
        value = _parsed(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def argument_accuracy(given: Mapping[str, object], wanted: Mapping[str, object]) -> float:
    """Share of the wanted arguments that were given with the right value, 0..1; further ones make no difference.

    Texts are compared in any case and without white space at their ends, numbers by value (4 is 4.0, and not "4"),
    lists item by item.

    Raises:
        ConfigError: nothing is wanted.
    """
    if not wanted:
        raise ConfigError("The wanted arguments cannot be empty: give one or more, as in {'guests': 4}.")
    return sum(name in given and _same(given[name], value) for name, value in wanted.items()) / len(wanted)


def _function_of(call: Mapping[str, object]) -> Mapping[str, object]:
    function = call.get("function")
    return function if isinstance(function, Mapping) else {}


def _arguments_of(function: Mapping[str, object]) -> dict[str, object] | None:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = _parsed(arguments)
        except (ValueError, RecursionError):
            return None
    return dict(arguments) if isinstance(arguments, Mapping) else None


def _fits(function: Mapping[str, object], schemas: Mapping[str, Mapping[str, object]]) -> bool:
    name, arguments = function.get("name"), _arguments_of(function)
    return (
        isinstance(name, str)
        and name in schemas
        and arguments is not None
        and misfit({"type": "object", **schemas[name]}, arguments) is None
    )


def _parsed(text: str) -> object:
    """The value of a JSON text, by the standard: NaN and infinity are none."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _same(given: object, wanted: object) -> bool:
    if isinstance(given, str) and isinstance(wanted, str):
        return given.strip().casefold() == wanted.strip().casefold()
    if isinstance(given, list) and isinstance(wanted, list):
        return len(given) == len(wanted) and all(map(_same, given, wanted))
    return isinstance(given, bool) == isinstance(wanted, bool) and given == wanted  # True is 1 to Python
