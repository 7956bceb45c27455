"""LangChain's call keywords for tools and structured output -> the engine's Output."""

from collections.abc import Mapping
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools.base import create_schema_from_function
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from sda_engine import Output
from sda_engine.adapting import at_its_root, is_recursive, read_output
from sda_engine.errors import ConfigError
from sda_engine.output import resolve_tool


def make_output(call: Mapping[str, Any]) -> Output:
    """The form of the answer that a call asks for; free text where it says nothing of it.

    Args:
        call: keywords of the call; only OUTPUT_KEYWORDS are looked at.

    Raises:
        ConfigError: a tool, a choice or a format cannot be read.
        ConstraintError: a schema is too large.
    """
    return read_output(call, to_tool=lambda tool: resolve_tool(to_tool(tool)), to_json_schema=to_json_schema)


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
    own = _own_schema(tool)
    if is_recursive(own):  # LangChain writes definitions out, and nothing where one comes to itself
        kept = {key: value for key, value in at_its_root(own).items() if key not in ("title", "description")}
        converted["function"]["parameters"] = kept
    return converted


def _own_schema(tool: Any) -> Mapping[str, Any]:
    """The JSON schema that LangChain makes a tool's parameters of; {} where it has another source."""
    if isinstance(tool, BaseTool):
        tool = tool.tool_call_schema
    elif not isinstance(tool, (type, Mapping)) and callable(tool):
        tool = create_schema_from_function(
            tool.__name__,
            tool,
            filter_args=(),
            parse_docstring=True,
            error_on_invalid_docstring=False,
            include_injected=False,
        )
    if isinstance(tool, type) and hasattr(tool, "model_json_schema"):
        schema: dict[str, Any] = tool.model_json_schema()
        return schema
    return tool if isinstance(tool, Mapping) and "properties" in tool else {}


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
