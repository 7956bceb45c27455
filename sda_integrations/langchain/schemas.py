"""What LangChain's users give as the schema of an answer or of a tool -> JSON schemas and tools."""

from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from typing_extensions import ReadOnly, TypedDict, is_typeddict

from sda_engine.adapting import is_pydantic_model, is_python_type, type_name, type_reader, type_schema
from sda_engine.errors import ConfigError

# What LangChain's conversion raises for things that it cannot read: a class without annotations, a reference that leads
# nowhere, a type that pydantic 1 does not know
_CONVERSION_ERRORS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)


def to_tool(tool: Any) -> dict[str, Any]:
    """A tool in OpenAI's format, from whatever LangChain takes for one, or from a dataclass.

    Raises:
        ConfigError: it is none.
    """
    if _is_other_type(tool):
        return _tool_of_type(tool)
    try:
        converted = convert_to_openai_tool(_plain(tool))
    except _CONVERSION_ERRORS as error:
        raise ConfigError(
            f"A tool cannot be {_described(tool)}: {_reason(error)} Give a function, a pydantic model, a BaseTool, or "
            f"a dict with name, description and parameters."
        ) from error
    if "function" not in converted:
        raise ConfigError(
            f"A tool cannot be {tool!r}, which runs at another provider's: give a function, or describe one."
        )
    return converted


def to_json_schema(schema: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic model, a TypedDict, a dataclass or another type; a JSON schema stays as it is.

    Raises:
        ConfigError: the schema cannot be read.
    """
    if isinstance(schema, Mapping) and "parameters" not in schema and "function" not in schema:
        return dict(schema)
    if is_pydantic_model(schema) or _is_other_type(schema):
        return type_schema(schema)
    try:
        return convert_to_json_schema(_plain(schema))
    except _CONVERSION_ERRORS as error:
        raise ConfigError(
            f"The schema of structured output cannot be {_described(schema)}: {_reason(error)} Give a pydantic model, "
            f"a dataclass, a TypedDict or a JSON schema."
        ) from error


def json_reader(schema: Any) -> Callable[[str], Any] | None:
    """What reads JSON text into an object of the schema's type; None where answers stay dicts.

    It reads JSON and not Python's values for it, since a strict model takes a date as a text from JSON alone.

    Raises:
        ConfigError: no object of the type can be made out of JSON.
    """
    if is_pydantic_model(schema) or _is_other_type(schema):
        return type_reader(schema)
    if isinstance(schema, type) and is_basemodel_subclass(schema):  # of pydantic 1
        read: Callable[[str], Any] = schema.parse_raw  # type: ignore[attr-defined]
        return read
    return None


def _is_other_type(schema: object) -> bool:
    """Whether a schema is a type that LangChain has no form of its own for: a dataclass, an Enum, `list[int]`, ..."""
    is_langchains = is_typeddict(schema) or (isinstance(schema, type) and is_basemodel_subclass(schema))
    return is_python_type(schema) and not is_langchains


def _tool_of_type(kind: Any) -> dict[str, Any]:
    schema = type_schema(kind)
    if not (isinstance(kind, type) and schema.get("type") == "object"):
        raise ConfigError(
            f"A tool cannot be {type_name(kind)}, since the arguments of a call are an object. Make it a field of a "
            f'pydantic model or a dataclass, or use with_structured_output(..., method="json_schema").'
        )
    description = schema.pop("description", "")
    return {"type": "function", "function": {"name": kind.__name__, "description": description, "parameters": schema}}


def _plain(schema: Any) -> Any:
    """A TypedDict whose keys say in LangChain's own way whether they have to be there; anything else as it is."""
    return _plain_typed_dict(schema, ()) if is_typeddict(schema) else schema


def _plain_typed_dict(kind: Any, within: tuple[Any, ...]) -> Any:
    """LangChain reads neither Required, NotRequired nor total=False, but takes a key with a default for optional."""
    if kind in within:
        return kind
    fields = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, extras, qualifier = _unwrapped(hint)
        is_required = qualifier is Required or (name in kind.__required_keys__ and qualifier is not NotRequired)
        if not is_required and not extras:
            extras = (None,)  # the default
        plain = _plain_inside(inner, (*within, kind))
        fields[name] = Annotated[(plain, *extras)] if extras else plain
    made = TypedDict(kind.__name__, fields)  # type: ignore[misc]  # its fields are known at run time only
    made.__doc__ = kind.__doc__
    return made


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """The type of a key, what Annotated says beside it, and Required, NotRequired or None."""
    extras: tuple[Any, ...] = ()
    qualifier = None
    while (origin := get_origin(hint)) in (Annotated, Required, NotRequired, ReadOnly):
        if origin is Annotated:
            hint, *more = get_args(hint)
            extras = (*more, *extras)
        else:
            qualifier = qualifier if origin is ReadOnly else origin
            (hint,) = get_args(hint)
    return hint, extras, qualifier


def _plain_inside(hint: Any, within: tuple[Any, ...]) -> Any:
    """A type with the TypedDicts in it made plain."""
    if is_typeddict(hint):
        return _plain_typed_dict(hint, within)
    origin, arguments = get_origin(hint), get_args(hint)
    plain = tuple(_plain_inside(argument, within) for argument in arguments)
    if plain == arguments:
        return hint
    return Union[plain] if origin in (Union, UnionType) else origin[plain]  # noqa: UP007 - of types known at run time


def _described(schema: object) -> str:
    return type_name(schema) if is_python_type(schema) else f"an object of type {type(schema).__name__}"


def _reason(error: Exception) -> str:
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip().rstrip(".") + "."
