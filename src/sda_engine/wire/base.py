"""What the objects of the wire format share, and how JSON becomes one or an error that names the field."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from sda_engine.errors import ConfigError
from sda_engine.settings import shown, unknown_name

_KINDS = frozenset({"str", "int", "float", "bool"})  # as pydantic names what a union may hold


class Asked(BaseModel):
    """A part of a request: what it does not know is refused, and nothing is guessed from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The object that the body of a request holds.

        Raises:
            ConfigError: the body is no JSON, or a field is missing, unknown or out of range; `field` is its path.
        """
        try:
            given = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise ConfigError(
                f"The body of the request is no JSON: {error}. Send one object, such as {cls._example()}."
            ) from error
        if not isinstance(given, dict):
            raise ConfigError(
                f"The body of the request is a JSON {_kind(given)}: it must be an object, such as {cls._example()}."
            )
        return cls.of(given)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The object that plain data means.

        Raises:
            ConfigError: as for `parse`.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise _refusal(cls, error) from error

    @classmethod
    def _example(cls) -> str:
        return "{...}"


class Told(BaseModel):
    """A part of a reply. A client reads past what it does not know, so that servers may tell more."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


def left_out() -> Any:
    """The default of a field that is written only where it holds something."""
    return Field(default=None, exclude_if=_is_none)


def _is_none(value: object) -> bool:
    return value is None


def _refusal(model: type[BaseModel], error: ValidationError) -> ConfigError:
    """The error for the first thing that is wrong in a request."""
    problem = error.errors(include_url=False)[0]
    *outer, name = problem["loc"] or ("",)
    steps = [str(step) for step in outer if _names_a_place(step)]
    path = ".".join([*steps, str(name)] if _names_a_place(name) else steps)
    if problem["type"] == "extra_forbidden":
        close = unknown_name(".".join(steps) or "The request", str(name), _fields_at(model, steps), "field")
        return ConfigError(str(close), field=path)
    if problem["type"] == "missing":
        return ConfigError(f"{path} is missing: {problem['msg']}.", field=path)
    return ConfigError(f"{path} cannot be {shown(problem['input'])}: {_in_words(problem['msg'])}.", field=path)


def _names_a_place(step: int | str) -> bool:
    """Whether a step of a path is a field or a place in a list, and not the kind of value that was tried there."""
    return isinstance(step, int) or (step.isidentifier() and step.islower() and step not in _KINDS)


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The fields of the object at a path of field names; [] where the path leads through a list or a union."""
    for step in path:
        field = model.model_fields.get(step)
        inner = [] if field is None else _models_of(field.annotation)
        if len(inner) != 1:
            return []
        model = inner[0]
    return list(model.model_fields)


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation such as `Model | None` names."""
    choices = getattr(annotation, "__args__", (annotation,))
    return [kind for kind in choices if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _in_words(message: str) -> str:
    return message[:1].lower() + message[1:]


def _kind(value: object) -> str:
    names = {list: "list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")
