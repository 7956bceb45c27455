"""The gate before the grammar engine: JSON schemas that would cost minutes, gigabytes or the process are refused.

llguidance has limits of its own, but they do not stop everything: chains of references or alternatives overflow its
stack, large divisors and enums take gigabytes. Schemas can come from users of an application, so they are measured
here first.
"""

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal

from sda_engine.errors import ConstraintError

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_NODES = 2_000
MAX_DEFINITIONS = 64
MAX_ENUM = 1_000
MAX_REFERENCES = 256  # a chain of thousands overflows the grammar engine's stack
MAX_REPETITIONS = 10_000  # minItems, minLength and their kin
MAX_DIVISOR = 10_000  # multipleOf, and the least common multiple of all in a schema
MAX_PATTERN = 1_024  # characters of a regular expression

_REPETITIONS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_DEFINITIONS = frozenset({"$defs", "definitions"})


def check_schema(schema: Mapping[str, object]) -> str:
    """A JSON schema as JSON text, if it is small enough to be compiled.

    Args:
        schema: a JSON schema as a plain dict; never changed.

    Raises:
        ConstraintError: it is no JSON, or passes one of the limits of this module; the message says which.
    """
    if not isinstance(schema, Mapping):
        raise ConstraintError(
            f"A JSON schema cannot be {schema!r}: it must be a dict such as {{'type': 'object', ...}}."
        )
    _check_nodes(schema)
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ConstraintError(
            f"The JSON schema is no JSON: {error}. Use plain dicts, lists, texts and numbers."
        ) from error
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_SCHEMA_BYTES:
        raise _too_large("bytes of JSON", size, MAX_SCHEMA_BYTES)
    return text


def check_pattern(pattern: object) -> str:
    """A regular expression, if it is short enough to be compiled.

    Raises:
        ConstraintError: it is no text, or longer than MAX_PATTERN characters.
    """
    if not isinstance(pattern, str):
        raise ConstraintError(f"A regular expression cannot be {pattern!r}: it must be a text.")
    if len(pattern) > MAX_PATTERN:
        raise _too_large("characters in a pattern", len(pattern), MAX_PATTERN)
    return pattern


def _check_nodes(schema: Mapping[str, object]) -> None:
    divisor, references = 1, 0
    for nodes, (node, depth) in enumerate(_walk(schema), start=1):
        if depth > MAX_DEPTH:
            raise _too_large("levels of nesting", depth, MAX_DEPTH)
        if nodes > MAX_NODES:
            raise _too_large("nodes", nodes, MAX_NODES)
        if isinstance(node, Mapping):
            for key, value in node.items():
                _check_keyword(key, value)
            references += "$ref" in node
            if references > MAX_REFERENCES:
                raise _too_large("references", references, MAX_REFERENCES)
            divisor = math.lcm(divisor, _divisor(node.get("multipleOf")))
            if divisor > MAX_DIVISOR:
                raise _too_large("as the least common multiple of multipleOf", divisor, MAX_DIVISOR)


def _walk(schema: Mapping[str, object]) -> Iterator[tuple[object, int]]:
    """Every dict and list in a schema with its depth; without recursion, and lazily, so that a limit ends it."""
    waiting: list[tuple[object, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        children = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
        waiting += [(child, depth + 1) for child in children if isinstance(child, (Mapping, list, tuple))]


def _check_keyword(key: object, value: object) -> None:
    if not isinstance(key, str):
        raise ConstraintError(f"The JSON schema has the key {key!r}: keys must be texts.")
    if key == "x-guidance":
        raise ConstraintError("The JSON schema has 'x-guidance', which is reserved for the engine: remove it.")
    if key == "enum" and isinstance(value, (list, tuple)) and len(value) > MAX_ENUM:
        raise _too_large("values in an enum", len(value), MAX_ENUM)
    if key in _DEFINITIONS and isinstance(value, Mapping) and len(value) > MAX_DEFINITIONS:
        raise _too_large(f"definitions in {key!r}", len(value), MAX_DEFINITIONS)
    if key in _REPETITIONS and isinstance(value, (int, float)) and value > MAX_REPETITIONS:
        raise _too_large(f"as {key!r}", value, MAX_REPETITIONS)
    if key == "pattern" and isinstance(value, str):
        check_pattern(value)


def _divisor(value: object) -> int:
    """What a multipleOf contributes to the least common multiple: a fraction by its digits, 0.25 as 25."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 1  # a property of that name, or what the grammar engine will refuse
    if not 0 < value <= MAX_DIVISOR:
        raise ConstraintError(f"multipleOf cannot be {value!r}: it must be above 0 and at most {MAX_DIVISOR:,}.")
    digits = Decimal(str(value)).normalize().as_tuple().digits
    return int("".join(map(str, digits))) if isinstance(value, float) else value


def _too_large(what: str, given: float, limit: int) -> ConstraintError:
    return ConstraintError(
        f"The schema or grammar is too large to be compiled safely: it has {given:,} {what}, and the limit is "
        f"{limit:,}. Make it smaller, or split the request in two."
    )
