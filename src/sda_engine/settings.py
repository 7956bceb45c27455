"""What all settings objects share: frozen, strict, and errors that name value, legal range and remedy."""

import math
import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from sda_engine.errors import ConfigError


class Settings(BaseModel):
    """A frozen record of settings, validated once at construction.

    Each field's description completes the sentence "it must be ...", so that an error can say what is legal.

    Raises:
        ConfigError: a field is unknown, of the wrong type or out of range.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,  # in pydantic's own errors, which tracebacks show: a value may be a key
    )

    if not TYPE_CHECKING:  # type checkers keep the exact signature that pydantic synthesises from the fields

        def __init__(self, /, *unnamed: object, **values: Any) -> None:  # a field may be named self, and is refused
            if unnamed:
                known = list(type(self).model_fields)
                raise ConfigError(
                    f"{type(self).__name__} takes its fields by name, as in {type(self).__name__}({known[0]}=...). Its "
                    f"fields are: {', '.join(known)}."
                )
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(_explain(type(self), error), field=_wrong_name(error)) from error

    @classmethod
    def of_values(cls, values: Mapping[str, object]) -> Self:
        """The settings with these fields, for values that are put together by name."""
        return cls(**values)

    def given(self) -> dict[str, object]:
        """The fields that were given a value, be it the default one."""
        return {name: value for name, value in self if name in self.model_fields_set}

    def replace(self, **changes: object) -> Self:
        """A copy with some fields changed, validated like a new one."""
        return type(self)(**{**self.given(), **changes})

    def replace_given(self, **changes: object) -> Self:
        """Like `replace`, but a change to None means: keep what there is."""
        given = {name: value for name, value in changes.items() if value is not None}
        return self.replace(**given) if given else self


SettingsKind = TypeVar("SettingsKind", bound=Settings)

_HIDDEN = "what was given (not shown here)"
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxstring = 4, 16, 16, 16, 400


def check_argument(owner: str, argument: str, value: object, legal: bool, must_be: str) -> None:
    """Refuse an argument that is out of range, for objects that are no Settings.

    Args:
        owner: the class that was given it.
        legal: whether the value is legal.
        must_be: completes the sentence "it must be ...".

    Raises:
        ConfigError: the value is not legal.
    """
    if not legal:
        raise ConfigError(f"{owner}.{argument} cannot be {shown(value)}: it must be {must_be}.", field=argument)


def check_type(name: str, value: object, expected: type[SettingsKind]) -> SettingsKind:
    """A settings object, if it is one.

    Raises:
        ConfigError: it is of another type.
    """
    if not isinstance(value, expected):
        article = "an" if expected.__name__[0] in "AEIO" else "a"
        raise ConfigError(
            f"{name} cannot be {value!r}: it must be {article} {expected.__name__}, e.g. {expected.__name__}()."
        )
    return value


def check_timeout(timeout: object) -> float:
    """A timeout in seconds, if it is legal.

    Raises:
        ConfigError: it is not a finite number above 0.
    """
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout < math.inf:
        return float(timeout)
    raise ConfigError(
        f"timeout cannot be {timeout!r}: it must be a number of seconds above 0, or None.", field="timeout"
    )


def unknown_name(owner: str, name: str, known: Iterable[str], kind: str) -> ConfigError:
    """The error for a name that does not exist, with the one that was probably meant.

    Args:
        owner: what has no such name, e.g. "Steering".
        name: what was given.
        known: the legal names.
        kind: what the name stands for, e.g. "field".
    """
    names = list(known)
    close = get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Remove it."
    return ConfigError(f"{owner} has no {kind} {shown(name)}. {hint} Its {kind}s are: {', '.join(names)}.", field=name)


def wrong_field(owner: str, error: ValidationError, known: Iterable[str]) -> ConfigError:
    """The ConfigError for a failed construction of a pydantic model that is not a Settings, e.g. an adapter's.

    Args:
        owner: the model's class name.
        error: what pydantic raised.
        known: the model's fields.
    """
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        return unknown_name(owner, name, known, "field")
    given = _HIDDEN if name == "api_key" else shown(problem["input"])
    return ConfigError(f"{owner}.{name} cannot be {given}: {problem['msg']}.", field=name)


def _explain(settings: type[Settings], error: ValidationError) -> str:
    """One sentence or two per wrong field: what was given, what is legal, what to do."""
    return " ".join(_explain_one(settings, dict(problem)) for problem in error.errors())


def _wrong_name(error: ValidationError) -> str | None:
    """The name of the first wrong field."""
    place = error.errors(include_url=False, include_input=False)[0]["loc"]
    return str(place[0]) if place else None


def _explain_one(settings: type[Settings], problem: dict[str, Any]) -> str:
    name = str(problem["loc"][0])
    field = settings.model_fields.get(name)
    if field is None:
        return str(unknown_name(settings.__name__, name, settings.model_fields, "field"))
    value = _HIDDEN if _may_hold_secret(field.annotation) else shown(problem["input"])
    given = "is missing" if problem["type"] == "missing" else f"cannot be {value}"
    default = "" if field.is_required() else f" The default is {field.get_default(call_default_factory=True)!r}."
    return f"{settings.__name__}.{name} {given}: it must be {field.description}.{default}"


def _may_hold_secret(annotation: object, around: tuple[object, ...] = ()) -> bool:
    """Whether a field of this type may be given a secret, be it within other settings.

    Args:
        annotation: the type.
        around: the settings that it was found in, which may hold some of their own kind.
    """
    inner = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Settings) and annotation not in around:
        around, inner = (*around, annotation), tuple(field.annotation for field in annotation.model_fields.values())
    return annotation is SecretStr or any(_may_hold_secret(one, around) for one in inner)


def shown(value: object) -> str:
    """A plain value, shortened; of any other object only the type, since its repr could hold a secret."""
    plain = value is None or isinstance(value, (str, int, float, list, tuple, dict))
    try:
        return _SHORT.repr(value) if plain else f"an object of type {type(value).__name__}"
    except ValueError:  # Python does not print integers of thousands of digits
        return f"an object of type {type(value).__name__} with a number too long to print"
