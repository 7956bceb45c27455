"""What the objects of the wire format share, and how JSON becomes one or an error that names the field."""

from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from sda_engine.errors import ConfigError
from sda_engine.wire.refusals import refusal

_Item = TypeVar("_Item")
Several = Annotated[list[_Item], Field(fail_fast=True)]
"""A list in a request, which is read up to the first item that is wrong: a body can hold millions of them."""


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
            raise refusal(cls, given, error) from error

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


def _kind(value: object) -> str:
    names = {list: "list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")
