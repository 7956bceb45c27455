"""The form that a request asks for: tools, and what the text must look like."""

from collections.abc import Mapping

from sda_engine.errors import ConfigError
from sda_engine.output import TOOL_CHOICES, Constraint, Output, Tool
from sda_engine.wire.fields import within
from sda_engine.wire.requests import (
    FormFields,
    Function,
    NamedSchema,
    NamedTool,
    ResponseFormat,
    TokenizeRequest,
)
from sda_engine.wire.sda_field import SDAField


def read_tokenize_output(request: TokenizeRequest) -> Output:
    """The form of the answer that a counted prompt tells of; errors as for a chat."""
    told = request.sda
    sda = None if told is None else SDAField(schema_in_prompt=told.schema_in_prompt, strict=told.strict)
    return read_output(request, sda)


def read_output(request: FormFields, sda: SDAField | None) -> Output:
    """The form of the answer that a request asks for.

    Raises:
        ConfigError, ConstraintError: it cannot be had; `field` of the first tells where it is asked for.
    """
    said = sda or SDAField()
    tools = tuple(_read_tool(tool.function, place) for place, tool in enumerate(request.tools or ()))
    constraint = _read_constraint(request.response_format, said)
    named = {"parallel_tool_calls": request.parallel_tool_calls, "schema_in_prompt": said.schema_in_prompt}
    with within("", {"constraint": "response_format", "schema_in_prompt": "sda.schema_in_prompt"}):
        return Output(
            tools=tools,
            tool_choice=_read_tool_choice(request.tool_choice),
            constraint=constraint,
            strict=_is_strict(request) if said.strict is None else said.strict,
            **{name: value for name, value in named.items() if value is not None},
        )


def form_field(output: Output) -> str:
    """Which field of a request asks for the form of its answer, for errors of what only the engine can tell."""
    if output.constraint is None:
        return "tools" if output.tools else "response_format"
    return "response_format" if output.constraint.kind == "json_schema" else "sda.constraint"


def _read_tool(function: Function, place: int) -> Tool:
    with within(f"tools[{place}].function"):
        given = {"description": function.description, "parameters": function.parameters}
        return Tool.of_values(
            {"name": function.name, **{name: value for name, value in given.items() if value is not None}}
        )


def _read_tool_choice(choice: str | NamedTool | None) -> str:
    if not isinstance(choice, NamedTool):
        return choice or "auto"
    if choice.function.name in TOOL_CHOICES:
        raise ConfigError(
            f"tool_choice cannot name the function {choice.function.name!r}, which means something else here: give it "
            f"another name, none of {', '.join(TOOL_CHOICES)}.",
            field="tool_choice",
        )
    return choice.function.name


def _read_constraint(form: ResponseFormat | None, said: SDAField) -> Constraint | None:
    asked = form is not None and form.type != "text"
    if said.constraint is None:
        if not asked or form is None:
            return None
        with within("response_format", whole=True):
            return Constraint.json_schema(_schema_of(form.json_schema))
    given = said.constraint.model_dump(exclude_none=True)
    if asked or len(given) != 1:
        raise ConfigError(
            "sda.constraint must be one of regex and lark, and stands alone: it and response_format both say what the "
            "text must look like. Give one of them.",
            field="sda.constraint",
        )
    with within("sda.constraint", whole=True):
        ((kind, source),) = given.items()
        return Constraint.regex(source) if kind == "regex" else Constraint.lark(source)


def _schema_of(named: NamedSchema | None) -> Mapping[str, object]:
    """The schema of a form, any object for json_object. Its description goes into it, where the model is told of it."""
    if named is None:
        return {"type": "object"}
    described = {} if named.description is None else {"description": named.description}
    return {**described, **named.json_schema}


def _is_strict(request: FormFields) -> bool:
    """Whether a format or a tool says `strict`."""
    form = request.response_format
    formats = [form.json_schema.strict] if form is not None and form.json_schema is not None else []
    return any(given is True for given in (*formats, *(tool.function.strict for tool in request.tools or ())))
