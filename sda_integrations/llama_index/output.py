"""LlamaIndex's tools and output classes -> the engine's Output."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.program import function_program
from llama_index.core.tools import BaseTool, FunctionTool

from sda_engine import Output
from sda_engine.adapting import at_its_root, is_pydantic_model, is_python_type, read_output, type_name, type_schema
from sda_engine.errors import ConfigError
from sda_engine.output import Tool, resolve_tool
from sda_engine.settings import shown

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
    """The JSON schema of a pydantic model or another type; a JSON schema stays as it is.

    Raises:
        ConfigError: it is none of them.
    """
    if isinstance(schema, Mapping):
        return schema
    if is_python_type(schema):
        return type_schema(schema)
    raise ConfigError(f"An output class cannot be {schema!r}: it must be a pydantic model, or a JSON schema as a dict.")


def object_schema(output_cls: Any) -> Mapping[str, object]:
    """The JSON schema of a class whose objects are to be predicted.

    Raises:
        ConfigError: it is no pydantic model, which LlamaIndex's events and partial objects ask for.
    """
    if is_pydantic_model(output_cls):
        return type_schema(output_cls)
    if is_python_type(output_cls):
        name = type_name(output_cls)
        raise ConfigError(
            f"output_cls cannot be {name}: it must be a pydantic model, that is a class of pydantic.BaseModel. For a "
            f"dataclass, an Enum or a list give pydantic.RootModel[{name}], whose object holds it as `.root`."
        )
    raise ConfigError(f"output_cls cannot be {shown(output_cls)}: it must be a pydantic model, the class itself.")


def is_answer_itself(tool: BaseTool) -> bool:
    """Whether a tool is how one of LlamaIndex's programs asks for an object, so that it has to be called."""
    return isinstance(tool, FunctionTool) and tool.real_fn.__module__ == function_program.__name__
