"""Recursive JSON schemas, which frameworks write out until they come to themselves, and then forget."""

from collections.abc import Mapping

_DEFINITIONS = ("$defs", "definitions")


def is_recursive(schema: Mapping[str, object]) -> bool:
    """Whether a definition of a schema, or the schema itself, refers to itself, at once or through others."""
    own = {key: value for key, value in schema.items() if key not in _DEFINITIONS}
    references = {"#": _references(own)}
    for key in _DEFINITIONS:
        definitions = schema.get(key)
        if isinstance(definitions, Mapping):
            references |= {f"#/{key}/{name}": _references(definition) for name, definition in definitions.items()}
    return any(_reaches_itself(place, references) for place in references)


def at_its_root(schema: Mapping[str, object]) -> dict[str, object]:
    """A schema whose root is a reference to one of its definitions, with what that says at the root."""
    reference = schema.get("$ref")
    for key in _DEFINITIONS:
        definitions = schema.get(key)
        if isinstance(definitions, Mapping) and isinstance(reference, str):
            target = definitions.get(reference.removeprefix(f"#/{key}/"))
            if isinstance(target, Mapping):
                return {**{name: value for name, value in schema.items() if name != "$ref"}, **target}
    return dict(schema)


def _reaches_itself(start: str, references: Mapping[str, set[str]]) -> bool:
    seen: set[str] = set()
    waiting = list(references[start])
    while waiting:
        place = waiting.pop()
        if place == start:
            return True
        if place not in seen:
            seen.add(place)
            waiting += references.get(place, ())
    return False


def _references(schema: object) -> set[str]:
    """Every reference in a part of a schema."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get("$ref"), str):
                found.add(str(value["$ref"]))
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
    return found
