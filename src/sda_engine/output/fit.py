"""Whether an answer fits its schema: for what a grammar could not enforce, JSON Schema's own validator says.

A schema may come from an application's users and the text from a model, so that the check has a deadline, and asks no
network for what a schema refers to.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import cast

import jsonschema
import regex
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from sda_engine.errors import ConstraintError
from sda_engine.output.schema_gate import walk

_SECONDS = 5.0
_SHOWN = 300  # characters of what is said about a part
_Keyword = Callable[..., Iterator[ValidationError] | None]
_FORMATS = jsonschema.FormatChecker(formats=("idn-email", "regex"))  # the others are enforced, or only remarks
_NONE = jsonschema.FormatChecker(formats=())


class _TooSlowError(Exception):
    """The deadline passed."""


def check_meaning(schema: Mapping[str, object]) -> None:
    """Refuse what is no JSON schema.

    Raises:
        ConstraintError: the metaschema says what is wrong.
    """
    try:
        _draft(schema).check_schema(schema, format_checker=_NONE)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "its root"
        raise ConstraintError(
            f"The JSON schema is none: {error.message[:_SHOWN]} at {place}. Correct it, or leave that part out."
        ) from error


def misfit(schema: Mapping[str, object], value: object) -> str | None:
    """What of a JSON value does not fit a schema: the place and why; None where all of it fits."""
    validator = _with_deadline(_draft(schema), time.monotonic() + _SECONDS)(
        schema, format_checker=_FORMATS, registry=Registry()
    )
    try:
        error = best_match(validator.iter_errors(value))
    except _TooSlowError:
        return f"checking it takes more than {_SECONDS:.0f} seconds"
    except RecursionError:
        return "checking it takes too many levels"
    except Unresolvable as unknown:
        return f"the schema refers to what it does not hold: {unknown}"
    return None if error is None else f"{error.json_path}: {error.message[:_SHOWN]}"


def _draft(schema: Mapping[str, object]) -> type[Validator]:
    """The version of JSON Schema that a schema is written in: the one that it names, or the one it looks like."""
    old = any(
        isinstance(node.value, list) and node.within == "items" and node.kind == "schema" for node in walk(schema)
    )
    default = jsonschema.Draft201909Validator if old else jsonschema.Draft202012Validator
    named = schema.get("$schema")
    known = isinstance(named, str) and named.rstrip("#") in _known_drafts()
    return cast(type[Validator], validator_for(schema, default=default) if known else default)


@lru_cache(maxsize=1)
def _known_drafts() -> frozenset[str]:
    drafts = ("Draft3", "Draft4", "Draft6", "Draft7", "Draft201909", "Draft202012")
    return frozenset(
        str(getattr(jsonschema, f"{draft}Validator").META_SCHEMA["$schema"]).rstrip("#") for draft in drafts
    )


def _with_deadline(draft: type[Validator], deadline: float) -> type[Validator]:
    """A draft's validator that gives up at a time, and reads patterns and fractions as the grammar engine does."""

    def remaining() -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _TooSlowError
        return left

    def matches(pattern: str, text: str) -> bool:
        try:
            return regex.search(pattern, text, timeout=remaining()) is not None
        except TimeoutError as error:
            raise _TooSlowError from error
        except (regex.error, RecursionError, OverflowError):  # which the grammar engine has read, and enforced
            return True

    def timed(check: _Keyword) -> _Keyword:
        def checked(*arguments: object) -> Iterator[ValidationError]:
            remaining()
            yield from check(*arguments) or ()

        return checked

    keywords = {name: timed(check) for name, check in draft.VALIDATORS.items()}
    own = {
        "pattern": _pattern(matches),
        "patternProperties": _pattern_properties(matches),
        "additionalProperties": _additional_properties(matches),
        "multipleOf": _multiple_of,
    }
    return cast(type[Validator], extend(draft, {**keywords, **own}))


def _pattern(matches: Callable[[str, str], bool]) -> _Keyword:
    def check(_: Validator, pattern: str, instance: object, __: object) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not matches(pattern, instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")

    return check


def _pattern_properties(matches: Callable[[str, str], bool]) -> _Keyword:
    def check(
        validator: Validator, patterns: Mapping[str, object], instance: object, _: object
    ) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            for pattern, below in patterns.items():
                for key, value in instance.items():
                    if matches(pattern, key):
                        yield from validator.descend(value, below, path=key, schema_path=pattern)

    return check


def _additional_properties(matches: Callable[[str, str], bool]) -> _Keyword:
    def check(
        validator: Validator, additional: object, instance: object, schema: Mapping[str, Mapping[str, object]]
    ) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
            for key, value in instance.items():
                if key not in known and not any(matches(pattern, key) for pattern in patterns):
                    if additional is False:
                        yield ValidationError(f"{key!r} is no property of the schema")
                    else:
                        yield from validator.descend(value, additional, path=key)

    return check


def _multiple_of(_: Validator, divisor: float, instance: object, __: object) -> Iterator[ValidationError]:
    if isinstance(instance, (int, float)) and not isinstance(instance, bool):
        try:
            fits = Decimal(str(instance)) % Decimal(str(divisor)) == 0  # by the digits: 19.99 is a multiple of 0.01
        except (InvalidOperation, ValueError):  # more digits than can be told
            fits = True
        if not fits:
            yield ValidationError(f"{instance!r} is not a multiple of {divisor!r}")
