"""LangChain's call keywords for tools and structured output -> the engine's Output."""

from collections.abc import Mapping
from typing import Any

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from sda_engine import Constraint, Output
from sda_engine.errors import ConfigError
from sda_engine.tools import resolve_tool

OUTPUT_KEYWORDS = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "constraint", "schema_in_prompt")
"""Keywords of a call that decide the form of its answer."""

_CHOICES: Mapping[object, str] = {
    None: "auto",
    "auto": "auto",
    "none": "none",
    False: "none",
    "any": "required",
    "required": "required",
    True: "required",
}


def make_output(call: Mapping[str, Any]) -> Output:
    """The form of the answer that a call asks for; free text where it says nothing of it.

    Args:
        call: keywords of the call; only OUTPUT_KEYWORDS are looked at.

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
    by_name = {tool["function"]["name"]: tool for tool in map(to_tool, tools)}
    settings = {name: given[name] for name in ("parallel_tool_calls", "schema_in_prompt") if name in given}
    return Output(
        tools=tuple(map(resolve_tool, by_name.values())),
        tool_choice=read_tool_choice(given.get("tool_choice")),
        constraint=given.get("constraint", _constraint(given.get("response_format"))),
        **settings,
    )


def to_tool(tool: Any) -> dict[str, Any]:
    """A tool in OpenAI's format, from whatever LangChain takes for one.

    Raises:
        ConfigError: it is none.
    """
    try:
        converted = convert_to_openai_tool(tool)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"A tool cannot be an object of type {type(tool).__name__}: {error} Give a function, a pydantic model, a "
            f"BaseTool, or a dict with name, description and parameters."
        ) from error
    if "function" not in converted:
        raise ConfigError(
            f"A tool cannot be {tool!r}, which runs at another provider's: give a function, or describe one."
        )
    return converted


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


def to_json_schema(schema: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic model, a TypedDict or a dict; a JSON schema stays as it is.

    Raises:
        ConfigError: the schema cannot be read.
    """
    if isinstance(schema, Mapping) and "parameters" not in schema and "function" not in schema:
        return dict(schema)
    if isinstance(schema, type) and is_basemodel_subclass(schema) and hasattr(schema, "model_json_schema"):
        plain: dict[str, Any] = schema.model_json_schema()
        return plain
    try:
        return convert_to_json_schema(schema)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The schema of structured output cannot be an object of type {type(schema).__name__}: {error} Give a "
            f"pydantic model, a TypedDict or a JSON schema."
        ) from error


def _constraint(response_format: object) -> Constraint | None:
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
