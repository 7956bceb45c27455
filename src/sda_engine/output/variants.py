"""The branches of a oneOf: whether two of them can fit at once, as far as that can be told without a solver."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

_KINDS = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_MOST_BRANCHES = 100  # each is held against each
_MOST_STEPS = 64  # from reference to reference


def resolve(schema: object, root: Mapping[str, object]) -> object:
    """What a schema that is nothing but a reference into its own root refers to; any other is itself."""
    for _ in range(_MOST_STEPS):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        schema = _at(root, reference)
    return None


def exclude_each_other(branches: Sequence[object], root: Mapping[str, object]) -> bool:
    """Whether no value fits two of the branches: by their types, their values, or the values of a common property.

    Of an object that a grammar closes only the properties that it names are counted as possible.
    """
    if len(branches) > _MOST_BRANCHES:
        return False
    resolved = [resolve(branch, root) for branch in branches]
    return all(_exclude(one, other, root) for one, other in combinations(resolved, 2))


def _exclude(one: object, other: object, root: Mapping[str, object]) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is False or other is False
    if not _kinds(one) & _kinds(other):
        return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not values & others
    if _kinds(one) & _kinds(other) != {"object"}:
        return False
    return _have_different_tags(one, other, root) or (_lacks(one, other) and _lacks(other, one))


def _have_different_tags(one: Mapping[str, object], other: Mapping[str, object], root: Mapping[str, object]) -> bool:
    for name in set(_names(one.get("required"))) & set(_names(other.get("required"))):
        tags, others = (_values(resolve(_names_of(schema).get(name), root)) for schema in (one, other))
        if tags is not None and others is not None and not tags & others:
            return True
    return False


def _lacks(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether an object of the one, which has no other properties than it names, lacks what the other requires."""
    return one.get("additionalProperties") is False and bool(set(_names(other.get("required"))) - set(_names_of(one)))


def _kinds(schema: Mapping[str, object]) -> frozenset[str]:
    """The types that a schema may have; every integer is a number."""
    given = schema.get("type")
    kinds = frozenset(_names([given] if isinstance(given, str) else given)) or _KINDS
    values = _values(schema)
    if values is not None and given is None:
        kinds = frozenset(kind for kind, _ in values)
    return kinds | {"integer"} if "number" in kinds else kinds


def _values(schema: object) -> frozenset[tuple[str, str]] | None:
    """The values that a schema allows, each with its type; None where they are not counted up."""
    if not isinstance(schema, Mapping):
        return None
    given = [schema["const"]] if "const" in schema else schema.get("enum")
    return frozenset((_kind(value), repr(value)) for value in given) if isinstance(given, (list, tuple)) else None


def _kind(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
    return "object" if isinstance(value, Mapping) else "array"


def _names(given: object) -> Iterable[str]:
    return [name for name in given if isinstance(name, str)] if isinstance(given, (list, tuple)) else []


def _names_of(schema: Mapping[str, object]) -> Mapping[str, object]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _at(root: Mapping[str, object], pointer: str) -> object:
    """What a JSON pointer such as #/$defs/a refers to; None where there is nothing."""
    place: object = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, Mapping):
            place = place.get(name)
        elif isinstance(place, (list, tuple)) and name.isdecimal() and int(name) < len(place):
            place = place[int(name)]
        else:
            return None
    return place
