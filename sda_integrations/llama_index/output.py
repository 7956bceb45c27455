"""LlamaIndex's tools and output classes -> the engine's Output."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.program import function_program
from llama_index.core.tools import BaseTool, FunctionTool
from pydantic import BaseModel

from sda_engine import Output
from sda_engine.adapting import at_its_root, read_output
from sda_engine.errors import ConfigError
from sda_engine.output import Tool, resolve_tool

_PARAMETERS = ("type", "properties", "required", "definitions", "$defs")  # what LlamaIndex keeps of a class's schema


def make_output(call: Mapping[str, Any]) -> Output:
    """The form of the answer that a call asks for; free text where it says nothing of it.

    Args:
        call: keywords of the call; only sda_engine.adapting.output.OUTPUT_KEYWORDS are looked at.

    Raises:
        ConfigError: a tool, a choice or a format cannot be read.
        ConstraintError: a schema is too large.
    """
    return read_output(call, to_tool=to_tool, to_json_schema=to_json_schema)


def to_tool(tool: Any) -> Tool:
    """The engine's form of a LlamaIndex tool, or of whatever else the engine takes for one.

    Raises:
        ConfigError: it is none.
        ConstraintError: the schema of its arguments is too large.
    """
    if not isinstance(tool, BaseTool):
        return resolve_tool(tool)
    function = tool.metadata.to_openai_tool(skip_length_check=True)["function"]
    own = tool.metadata.fn_schema.model_json_schema() if tool.metadata.fn_schema is not None else {}
    if "$ref" in own:  # a class that refers to itself, of which LlamaIndex keeps nothing but its definitions
        parameters = {key: value for key, value in at_its_root(own).items() if key in _PARAMETERS}
        function = {**function, "parameters": parameters}
    # LlamaIndex writes other names than it looks calls up by, where a name has signs that OpenAI forbids
    return resolve_tool({**function, "name": tool.metadata.get_name()})


def to_json_schema(schema: Any) -> Mapping[str, object]:
    """The JSON schema of a pydantic model; a JSON schema stays as it is.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(schema, Mapping):
        return schema
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    raise ConfigError(f"An output class cannot be {schema!r}: it must be a pydantic model, or a JSON schema as a dict.")


def is_answer_itself(tool: BaseTool) -> bool:
    """Whether a tool is how one of LlamaIndex's programs asks for an object, so that it has to be called."""
    return isinstance(tool, FunctionTool) and tool.real_fn.__module__ == function_program.__name__
