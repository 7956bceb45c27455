"""Python types as the form of an answer: their JSON schemas, and what reads JSON into their objects, by pydantic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_origin

from pydantic import BaseModel, TypeAdapter

from sda_engine.errors import ConfigError


def is_python_type(value: object) -> bool:
    """Whether something is a class or what stands for one in annotations: `list[int]`, `Literal["a", "b"]`, `A | B`."""
    return isinstance(value, type) or get_origin(value) is not None


def is_pydantic_model(value: object) -> bool:
    """Whether something is a class of pydantic 2's models."""
    return isinstance(value, type) and issubclass(value, BaseModel)


def type_name(kind: object) -> str:
    """A type for a message."""
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def type_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type: a pydantic model, a dataclass, an Enum, a list of such, ...

    Raises:
        ConfigError: it has none.
    """
    with _type_errors(kind):
        return kind.model_json_schema() if is_pydantic_model(kind) else TypeAdapter(kind).json_schema()


def type_reader(kind: Any) -> Callable[[str], Any]:
    """What reads JSON text into an object of a type.

    Raises:
        ConfigError: pydantic cannot make objects of the type.
    """
    with _type_errors(kind):
        return kind.model_validate_json if is_pydantic_model(kind) else TypeAdapter(kind).validate_json


@contextmanager
def _type_errors(kind: object) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, NameError) as error:  # pydantic's, mostly
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
        raise ConfigError(
            f"The form of an answer cannot be {type_name(kind)}: {reason}. Give a pydantic model, a dataclass, a "
            f"TypedDict, an Enum or a JSON schema."
        ) from error
