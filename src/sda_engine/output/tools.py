"""Tools that a model may call: from whatever describes them to one form, and what the model is told of them."""

import inspect
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from pydantic import BaseModel, Field, TypeAdapter, field_validator

from sda_engine.errors import ConfigError
from sda_engine.output.constraints import Constraint
from sda_engine.output.schema_gate import check_schema
from sda_engine.settings import Settings

_NAME = r"^[\w.-]{1,128}$"
_NO_ARGUMENTS: dict[str, object] = {"type": "object", "properties": {}}


class FunctionCall(TypedDict):
    """What a tool call asks for: a tool's name and its arguments."""

    name: str
    arguments: dict[str, object]


class ToolCall(TypedDict):
    """One call of a tool, in the chat format of transformers: it can go back into the messages as it is."""

    type: str
    id: str
    function: FunctionCall


class InvalidToolCall(TypedDict):
    """A call that was cut off by the token limit, or whose arguments do not fit their schema.

    Attributes:
        index: which call of the answer it is, from 0.
        text: its JSON as far as it got.
        error: what is wrong with it.
    """

    index: int
    id: str
    name: str | None
    text: str
    error: str


class Tool(Settings):
    """One tool.

    Attributes:
        name: what the model calls it.
        description: when and what for to call it.
        parameters: JSON schema of the arguments; an object.
    """

    name: str = Field(pattern=_NAME, description="1 to 128 letters, digits, '_', '-' or '.'")
    description: str = Field(default="", description="a text")
    parameters: dict[str, object] = Field(
        default_factory=lambda: dict(_NO_ARGUMENTS), description="a JSON schema of type object"
    )

    @field_validator("parameters")
    @classmethod
    def _is_an_object_schema(cls, parameters: dict[str, object]) -> dict[str, object]:
        if parameters.get("type", "object") != "object":
            raise ValueError("arguments are an object")
        check_schema(parameters, as_it_is=False)
        return parameters

    @property
    def arguments(self) -> Constraint:
        """What the arguments of a call must look like."""
        return Constraint.json_schema({"type": "object", **self.parameters})

    def as_function(self) -> dict[str, object]:
        """The tool in the format of chat templates and of OpenAI's API."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.parameters},
        }


def resolve_tool(tool: object) -> Tool:
    """The Tool that a user's value means.

    Args:
        tool: a Tool; a dict in OpenAI's format, with or without {"type": "function", "function": ...} around it;
            a pydantic model, whose fields are the arguments; or a function, by its signature and docstring. LangChain
            and LlamaIndex convert tools of their own: `convert_to_openai_tool(tool)` and
            `tool.metadata.to_openai_tool()`.

    Raises:
        ConfigError: the value describes no tool.
        ConstraintError: the schema of its arguments is too large.
    """
    if isinstance(tool, Tool):
        return tool
    if isinstance(tool, Mapping):
        return _from_mapping(tool)
    if isinstance(tool, type) and issubclass(tool, BaseModel):
        schema = tool.model_json_schema()
        description = schema.pop("description", "")
        return Tool(name=tool.__name__, description=description, parameters=schema)
    if inspect.isroutine(tool):
        return _from_function(tool)
    raise ConfigError(
        f"A tool cannot be an object of type {type(tool).__name__}: it must be a dict with name, description and "
        f"parameters, a pydantic model, a function, or a Tool."
    )


def tool_prompt(tools: Sequence[Tool], begin: str, end: str) -> str:
    """What the system turn says about tools where the chat template says nothing: one JSON line per tool."""
    lines = [json.dumps(tool.as_function()["function"], ensure_ascii=False) for tool in tools]
    example = f'{begin}{{"name": "the tool\'s name", "arguments": {{"argument": "value"}}}}{end}'
    return "\n".join(
        [
            "You have tools. When a tool can help with the request, call it by writing exactly this:",
            example,
            "Its result comes back in <tool_response></tool_response>; use it for your answer. The tools are:",
            *lines,
        ]
    )


def new_call_id() -> str:
    """An id that no other call has: nine characters, since some chat templates take no others."""
    return uuid.uuid4().hex[:9]


def _from_mapping(tool: Mapping[object, object]) -> Tool:
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping) or "name" not in inner:
        raise ConfigError(
            f"A tool cannot be {dict(tool)!r}: a dict must have a name, as in {{'name': 'add', 'description': 'Adds "
            f"two numbers.', 'parameters': {{'type': 'object', 'properties': {{...}}}}}}."
        )
    parameters = inner.get("parameters", inner.get("input_schema"))
    return Tool(
        name=inner["name"],
        description=inner.get("description") or "",
        parameters=dict(_NO_ARGUMENTS) if parameters is None else parameters,
    )


def _from_function(function: Callable[..., object]) -> Tool:
    try:
        schema = TypeAdapter[object](function).json_schema()  # type: ignore[arg-type]  # a function is a type to pydantic
    except Exception as error:
        raise ConfigError(
            f"The function {function.__name__!r} cannot be a tool: {error} Annotate its parameters with plain types."
        ) from error
    schema.pop("title", None)
    description = re.sub(r"\s*\n\s*", " ", inspect.getdoc(function) or "")
    return Tool(name=function.__name__, description=description, parameters=schema)
