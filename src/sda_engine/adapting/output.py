"""The keywords by which frameworks ask for the form of an answer: tools, tool_choice, response_format and the like."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sda_engine.errors import ConfigError
from sda_engine.output import Constraint, Output, Tool

OUTPUT_KEYWORDS = (
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "constraint", "schema_in_prompt", "strict",
)  # fmt: skip
"""Keywords of a call that decide the form of its answer."""

_CHOICES: Mapping[object, str] = MappingProxyType(
    {
        None: "auto",
        "auto": "auto",
        "none": "none",
        False: "none",
        "any": "required",
        "required": "required",
        True: "required",
    }
)


def read_output(
    call: Mapping[str, Any],
    *,
    to_tool: Callable[[Any], Tool],
    to_json_schema: Callable[[Any], Mapping[str, object]],
) -> Output:
    """The form of the answer that a call asks for; free text where it says nothing of it.

    Args:
        call: keywords of the call; only OUTPUT_KEYWORDS are looked at, and None says nothing.
        to_tool: reads what the framework takes for a tool. Of several tools with one name the last one counts.
        to_json_schema: reads what the framework takes for a schema.

    Raises:
        ConfigError: a tool, a choice or a format cannot be read.
        ConstraintError: a schema is too large.
    """
    given = {name: call[name] for name in OUTPUT_KEYWORDS if call.get(name) is not None}
    if "constraint" in given and "response_format" in given:
        raise ConfigError("constraint and response_format both say what the text must look like: give one of the two.")
    tools = given.get("tools", [])
    if not isinstance(tools, (list, tuple)):
        raise ConfigError(f"tools cannot be {tools!r}: they must be a list.")
    by_name = {tool.name: tool for tool in map(to_tool, tools)}
    settings = {name: given[name] for name in ("parallel_tool_calls", "schema_in_prompt", "strict") if name in given}
    settings.setdefault("strict", _asks_for_strictness(given.get("response_format"), tools))
    return Output(
        tools=tuple(by_name.values()),
        tool_choice=read_tool_choice(given.get("tool_choice")),
        constraint=given.get("constraint", _constraint(given.get("response_format"), to_json_schema)),
        **settings,
    )


def read_tool_choice(choice: object) -> str:
    """The engine's tool_choice for any of the spellings of OpenAI's and Anthropic's models.

    Raises:
        ConfigError: the choice cannot be read.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        choice = name if name is not None else choice.get("type")
    if choice is None or isinstance(choice, (str, bool)):
        return _CHOICES.get(choice, str(choice))
    raise ConfigError(f"tool_choice cannot be {choice!r}: it must be 'auto', 'none', 'any' or the name of a tool.")


def _asks_for_strictness(response_format: object, tools: Iterable[object]) -> bool:
    """Whether a format or a tool in OpenAI's form says `strict`."""
    inner = response_format.get("json_schema") if isinstance(response_format, Mapping) else None
    functions = (tool.get("function", tool) for tool in tools if isinstance(tool, Mapping))
    return any(isinstance(given, Mapping) and given.get("strict") is True for given in (inner, *functions))


def _constraint(response_format: object, to_json_schema: Callable[[Any], Mapping[str, object]]) -> Constraint | None:
    if response_format is None or isinstance(response_format, Constraint):
        return response_format
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return Constraint.json_schema({"type": "object"})
        inner = response_format.get("json_schema")
        if kind == "json_schema" and isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
            return Constraint.json_schema(inner["schema"])
        if kind == "json_schema":
            raise ConfigError(
                f"response_format cannot be {dict(response_format)!r}: it must be "
                f"{{'type': 'json_schema', 'json_schema': {{'name': ..., 'schema': {{...}}}}}}."
            )
    return Constraint.json_schema(to_json_schema(response_format))
