"""The gate before the grammar engine: JSON schemas that would cost minutes, gigabytes or the process are refused.

llguidance has limits of its own, but they do not stop everything: chains of references or alternatives overflow its
stack, large divisors and enums take gigabytes. Schemas can come from users of an application, so they are measured
here first.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeGuard

from sda_engine.errors import ConstraintError
from sda_engine.settings import shown

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_NODES = 2_000
MAX_DEFINITIONS = 64
MAX_ENUM = 1_000
MAX_REFERENCES = 256  # a chain of thousands overflows the grammar engine's stack
MAX_REPETITIONS = 10_000  # minItems, minLength and their kin
MAX_DIVISOR = 10_000  # multipleOf, and the least common multiple of all in a schema
MAX_PATTERN = 1_024  # characters of a regular expression
MAX_PATTERN_COUNT = 10_000  # characters that its counts ask for; each takes 12 microseconds where they are forced

REPETITIONS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
DEFINITIONS = frozenset({"$defs", "definitions"})
ANNOTATIONS = frozenset(
    {"$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly"}
    | DEFINITIONS
)
"""Keywords that say nothing of a value."""
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"}) | DEFINITIONS  # name -> schema
_HUGE = "a number of more than 15 digits"
_DATA = frozenset({"const", "default", "enum", "examples"})
ESCAPE = re.compile(r"\\(?:[pPxuU]\{[^}]*\}|.)", re.DOTALL)
_COUNT = re.compile(r"\{\s*(\d+)\s*(,?)\s*(\d*)\s*\}", re.ASCII)


@dataclass(frozen=True)
class Node:
    """A dict or list somewhere in a schema.

    Attributes:
        value: the dict or list itself.
        depth: 1 at the root.
        kind: "schema" (its keys are keywords), "names" (its keys are names, of properties or definitions, and its
            values schemas) or "data" (a value such as a default, which means nothing).
        within: the keyword it stands under; "" at the root.
    """

    value: object
    depth: int
    kind: Literal["schema", "names", "data"]
    within: str


def walk(schema: Mapping[str, object]) -> Iterator[Node]:
    """Every dict and list in a schema, without recursion, and lazily, so that a limit ends it."""
    waiting = [Node(schema, 1, "schema", "")]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += _children(node)


def check_schema(schema: Mapping[str, object], *, as_it_is: bool = True) -> str:
    """A JSON schema as JSON text, if it is small enough to be compiled.

    Args:
        schema: a JSON schema as a plain dict; never changed.
        as_it_is: whether it is to be compiled so. Otherwise `sda_engine.output.loosening` comes first, which leaves out
            large upper bounds and divisors, and nothing bounds an enum but the schema's size.

    Raises:
        ConstraintError: it is no JSON, or passes one of the limits of this module; the message says which.
    """
    if not isinstance(schema, Mapping):
        raise ConstraintError(
            f"A JSON schema cannot be {shown(schema)}: it must be a dict such as {{'type': 'object', ...}}."
        )
    _check_nodes(schema, as_it_is)
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise ConstraintError(
            f"The JSON schema is no JSON: {error}. Use plain dicts, lists, texts and numbers."
        ) from error
    if size > MAX_SCHEMA_BYTES:
        raise _too_large("bytes of JSON", size, MAX_SCHEMA_BYTES)
    return text


def check_pattern(pattern: object) -> str:
    """A regular expression, if it is short enough to be compiled.

    Raises:
        ConstraintError: it is no text, longer than MAX_PATTERN characters, or its counts ask for more than
            MAX_PATTERN_COUNT characters.
    """
    check_text(pattern, "A regular expression")
    assert isinstance(pattern, str)
    if len(pattern) > MAX_PATTERN:
        raise _too_large("characters in a pattern", len(pattern), MAX_PATTERN)
    if (least := counted_signs(pattern)[0]) > MAX_PATTERN_COUNT:
        raise _too_large("characters that a pattern asks for", least, MAX_PATTERN_COUNT)
    return pattern


def counted_signs(pattern: str) -> tuple[int, int]:
    """How many characters a regular expression asks for at least, and how many its counts allow.

    An estimate by signs: `*` and `+` count once, alternatives add up. What is no regular expression gets some number.
    """
    groups: list[list[tuple[int, int]]] = [[]]  # of each open group, the items so far
    position = 0
    while position < len(pattern):
        sign, items = pattern[position], groups[-1]
        count = _COUNT.match(pattern, position)
        step = 1
        if sign == "(":
            groups.append([])
        elif sign == ")":  # one too many closes all there is
            whole = groups.pop()
            groups = groups or [[]]
            groups[-1].append(_sum(whole))
        elif count and items:
            step = len(count[0])
            low = int(count[1])
            high = int(count[3]) if count[3] else low
            least, most = items[-1]
            items[-1] = (least * low, most * max(low, high))
        elif sign in "?*" and items:
            items[-1] = (0, items[-1][1])
        elif sign == "[":
            step = class_length(pattern, position)
            items.append((1, 1))
        elif not sign.isspace() and sign not in "|+^$":  # white space may stand before a count
            escape = ESCAPE.match(pattern, position)
            step = len(escape[0]) if escape else 1
            items.append((1, 1))
        position += step
    return _sum([_sum(items) for items in groups])


def check_text(text: object, what: str) -> None:
    """Refuse what is no text, or a text with half a character in it.

    Raises:
        ConstraintError: it cannot be encoded.
    """
    if not isinstance(text, str):
        raise ConstraintError(f"{what} cannot be {shown(text)}: it must be a text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(f"{what} must be valid Unicode: {error}.") from error


def _sum(items: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(least for least, _ in items), sum(most for _, most in items)


def class_length(pattern: str, start: int) -> int:
    """The length of the character class that begins at a place of a regular expression; 1 where it does not end."""
    depth, position = 0, start
    while position < len(pattern):
        sign = pattern[position]
        depth += (sign == "[") - (sign == "]")
        if depth == 0:
            return position + 1 - start
        position += 2 if sign == "\\" else 1
    return 1


def _children(node: Node) -> list[Node]:
    if not isinstance(node.value, Mapping):
        items = node.value if isinstance(node.value, (list, tuple)) else ()
        below = [(child, node.kind, node.within) for child in items]
    elif node.kind == "schema":
        below = [(child, kind_under(key), key) for key, child in node.value.items()]
    else:
        below = [(child, "schema" if node.kind == "names" else "data", node.within) for child in node.value.values()]
    return [
        Node(child, node.depth + 1, kind, within)
        for child, kind, within in below
        if isinstance(child, (Mapping, list, tuple))
    ]


def kind_under(keyword: str) -> Literal["schema", "names", "data"]:
    """What a dict or list under a keyword of a schema is, see Node."""
    return "names" if keyword in _NAMED else "data" if keyword in _DATA else "schema"


def _check_nodes(schema: Mapping[str, object], as_it_is: bool) -> None:
    divisor, references = 1, 0
    for nodes, node in enumerate(walk(schema), start=1):
        if node.depth > MAX_DEPTH:
            raise _too_large("levels of nesting", node.depth, MAX_DEPTH)
        if nodes > MAX_NODES:
            raise _too_large("nodes", nodes, MAX_NODES)
        if isinstance(node.value, Mapping):
            if strange := [key for key in node.value if not isinstance(key, str)]:
                raise ConstraintError(f"The JSON schema has the key {strange[0]!r}: keys must be texts.")
            if node.kind == "names" and node.within == "patternProperties":
                for pattern in node.value:
                    check_pattern(pattern)
            if node.kind == "schema":
                for key, value in node.value.items():
                    _check_keyword(key, value)
                    if as_it_is or key.startswith("min"):  # an answer would never fit, were these left out
                        _check_amount(key, value)
                references += "$ref" in node.value
                if as_it_is:
                    divisor = math.lcm(divisor, divisor_of(node.value.get("multipleOf")))
        if references > MAX_REFERENCES:
            raise _too_large("references", references, MAX_REFERENCES)
        if divisor > MAX_DIVISOR:
            raise _too_large("as the least common multiple of multipleOf", divisor, MAX_DIVISOR)


def _check_keyword(key: str, value: object) -> None:
    if key == "x-guidance":
        raise ConstraintError("The JSON schema has 'x-guidance', which is reserved for the engine: remove it.")
    if key in DEFINITIONS and isinstance(value, Mapping) and len(value) > MAX_DEFINITIONS:
        raise _too_large(f"definitions in {key!r}", len(value), MAX_DEFINITIONS)
    if key == "pattern" and isinstance(value, str):
        check_pattern(value)
    if key == "multipleOf" and _is_number(value) and not value > 0:
        raise _no_divisor(value)


def _check_amount(key: str, value: object) -> None:
    if key == "enum" and isinstance(value, (list, tuple)) and len(value) > MAX_ENUM:
        raise _too_large("values in an enum", len(value), MAX_ENUM)
    if key in REPETITIONS and isinstance(value, (int, float)) and value > MAX_REPETITIONS:
        raise _too_large(f"as {key!r}", value, MAX_REPETITIONS)
    if key == "multipleOf" and _is_number(value) and value > MAX_DIVISOR:
        raise _no_divisor(value)


def divisor_of(value: object) -> int:
    """What a multipleOf contributes to the least common multiple: a fraction by its digits, 0.25 as 25."""
    if not _is_number(value):
        return 1  # nothing, or what the grammar engine will refuse
    digits = Decimal(str(value)).normalize().as_tuple().digits
    return int("".join(map(str, digits))) if isinstance(value, float) else value


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _no_divisor(value: float) -> ConstraintError:
    given = _HUGE if abs(value) >= 10**15 else repr(value)
    return ConstraintError(f"multipleOf cannot be {given}: it must be above 0 and at most {MAX_DIVISOR:,}.")


def _number(value: float) -> str:
    """A number for a message; Python refuses to print integers of thousands of digits."""
    return _HUGE if abs(value) >= 10**15 else f"{value:,}"


def _too_large(what: str, given: float, limit: int) -> ConstraintError:
    return ConstraintError(
        f"The schema or grammar is too large to be compiled safely: it has {_number(given)} {what}, and the limit is "
        f"{limit:,}. Make it smaller, or split the request in two."
    )
