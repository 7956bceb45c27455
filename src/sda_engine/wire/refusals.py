"""From what pydantic finds wrong in a request to one error, which names the field and says what it must be."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sda_engine.errors import ConfigError
from sda_engine.settings import shown, unknown_name

_MOST_PROBLEMS = 1_000  # that are looked at
_LONGEST_NAME = 64  # characters of an unknown field's name that are told
_IN_WORDS: Mapping[str, str] = {  # by pydantic's types of errors
    "bool_type": "true or false",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "an object",
    "none_required": "null",
    "string_type": "a text",
}
_LENGTHS: Mapping[str, tuple[str, str]] = {  # likewise, those of lists
    "too_long": ("max_length", "at most"),
    "too_short": ("min_length", "at least"),
}
_BEGINNING = "Input should be "
_NOTHING = object()

Place = tuple[str | int, ...]
"""Names of fields and places in lists, from the top of a request on."""


def refusal(model: type[BaseModel], given: object, error: ValidationError) -> ConfigError:
    """The error for the first thing that is wrong in a request.

    Args:
        model: what the request should have been.
        given: the request.
        error: what pydantic found. Where a field may be of several kinds, that is a problem for each of them; the one
            that lies deepest is about the kind that was meant.
    """
    if (count := error.error_count()) > _MOST_PROBLEMS:
        return ConfigError(f"The request has {count:,} fields that are unknown or wrong: send those that there are.")
    problems = [(_place(given, problem), problem) for problem in error.errors(include_url=False)]
    first = problems[0][0]
    within = [(place, problem) for place, problem in problems if place[: len(first)] == first]
    place, problem = max(within, key=lambda one: len(one[0]))  # the first of equals
    if problem["type"] == "extra_forbidden":
        return _unknown(model, place)
    path = path_of(place)
    if problem["type"] == "missing":
        return ConfigError(f"{path} is missing: it has to be given.", field=path)
    ways = dict.fromkeys(_must_be(other) for where, other in within if where == place)
    return ConfigError(f"{path} cannot be {_as_json(problem['input'])}: it must be {', or '.join(ways)}.", field=path)


def path_of(place: Sequence[str | int]) -> str:
    """A place in a request as it is told, e.g. messages[0].content; a long name is cut."""
    path = ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{_cut(step)}" if path else _cut(step)
    return path


def _place(given: object, problem: ErrorDetails) -> Place:
    """Where in the request a problem is: pydantic's path, without the kinds of value that were tried on the way."""
    place: list[str | int] = []
    for step in problem["loc"]:
        inner = _inner(given, step)
        if inner is not _NOTHING:
            given = inner
            place.append(step)
    if problem["type"] == "missing":
        place.append(problem["loc"][-1])
    return tuple(place)


def _inner(given: object, step: str | int) -> object:
    """What an object or a list holds there, and nothing where the step is only the kind of value that was tried."""
    if isinstance(given, Mapping):
        return given.get(step, _NOTHING)
    return given[step] if isinstance(given, list) and isinstance(step, int) else _NOTHING


def _unknown(model: type[BaseModel], place: Place) -> ConfigError:
    *outer, name = place
    path, name = path_of(place), _cut(str(name))
    if not outer and name in _fields_at(model, ("sda",)):
        return ConfigError(
            f'The request has no field {name!r} at its top: it stands in sda, as in {{"sda": {{"{name}": ...}}}}.',
            field=path,
        )
    known = unknown_name(path_of(outer) or "The request", name, _fields_at(model, outer), "field")
    return ConfigError(str(known), field=path)


def _fields_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The fields that an object at a place may have."""
    models = [model]
    for step in place:
        if isinstance(step, str):
            named = {field.alias or name: field for one in models for name, field in one.model_fields.items()}
            models = _models_of(named[step].annotation) if step in named else []
    return list(dict.fromkeys(field.alias or name for one in models for name, field in one.model_fields.items()))


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation such as `list[Model] | None` names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_of(inner)]


def _must_be(problem: ErrorDetails) -> str:
    message = problem["msg"]
    if message.startswith(_BEGINNING):
        return _IN_WORDS.get(problem["type"], message.removeprefix(_BEGINNING))
    if problem["type"] in _LENGTHS:
        name, bound = _LENGTHS[problem["type"]]
        count = problem["ctx"][name]
        return f"a list of {bound} {count} item{'' if count == 1 else 's'}"
    return f"otherwise: {message[:1].lower()}{message[1:]}"


def _as_json(value: object) -> str:
    plain = {None: "null", True: "true", False: "false"}
    return plain[value] if value is None or isinstance(value, bool) else shown(value)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
