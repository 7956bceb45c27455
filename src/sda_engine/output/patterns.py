"""Patterns of JSON schemas: what the grammar engine can enforce of a regular expression that it cannot read whole.

It has no look-around, no word boundaries and no back-references. Look-aheads at the beginning are patterns of their own
that have to hold as well; an assertion that is left out, or a back-reference that takes what its group takes, lets
more through than the pattern does.
"""

import re
from dataclasses import dataclass

import regex

from sda_engine.output.schema_gate import ESCAPE, MAX_PATTERN, class_length

_LOOK_AROUND = re.compile(r"\(\?(?:=|!|<=|<!)")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d*,?\d*\})[?+]?")
_NAMED_GROUP = re.compile(r"\(\?P?<([A-Za-z_]\w*)>")
_NAMED_REFERENCE = re.compile(r"\(\?P=(\w+)\)|\\k<(\w+)>")
_REFERENCE = re.compile(r"\\([1-9]\d?)")
# (?!^[class]*$): there is a sign that is not of the class
_OF_ONE_CLASS = re.compile(r"\^?(?:\[(\^?)((?:[^\]\\\[]|\\.)+)\]|(\\[sdwSDW]))\*\$")


@dataclass(frozen=True)
class LoosenedPattern:
    """What is left of a pattern.

    Attributes:
        parts: patterns that hold wherever the given one does; none where nothing of it can be enforced.
        exact: whether the given one holds wherever all of them do.
    """

    parts: tuple[str, ...]
    exact: bool


def loosen_pattern(pattern: str) -> LoosenedPattern:
    """A pattern without what the grammar engine has no notion of. Whether it knows the rest is not looked at."""
    ahead, rest = _split_look_aheads(pattern)
    stripped = [_strip(part) for part in (*ahead, rest)]
    if len(pattern) > MAX_PATTERN or any(part is None for part in stripped):
        return LoosenedPattern((), exact=False)
    known = [part for part in stripped if part is not None]
    return LoosenedPattern(tuple(part for part, _ in known), exact=all(exact for _, exact in known))


def is_readable(pattern: str) -> bool:
    """Whether an answer can be checked against a pattern."""
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError):
        return False
    return True


def _split_look_aheads(pattern: str) -> tuple[list[str], str]:
    """The look-aheads that a pattern begins with, each as a pattern of its own, and the rest.

    One that forbids anything but texts of one class stays in the rest, since nothing here says the opposite of it.
    """
    ahead: list[str] = []
    start = re.match(r"\^|\\A", pattern)
    if start is None or _has_alternatives(pattern):
        return ahead, pattern
    position, kept = start.end(), start[0]
    while look := re.compile(r"\(\?([=!])").match(pattern, position):
        end = _group_end(pattern, position)
        inner = pattern[look.end() : end - 1]
        opposite = _OF_ONE_CLASS.fullmatch(inner)
        if look[1] == "=":
            ahead.append(f"^(?:{inner})")
        elif opposite is None:
            kept += pattern[position:end]
        elif opposite[3]:
            ahead.append(opposite[3].swapcase())
        else:
            ahead.append(f"[{'' if opposite[1] else '^'}{opposite[2]}]")
        position = end
    return ahead, kept + pattern[position:]


def _strip(pattern: str) -> tuple[str, bool] | None:
    """A pattern without assertions and back-references, and whether there were none; None where it gets too long."""
    out = ""
    open_groups: list[tuple[tuple[str, ...], int]] = []  # number and name of each, and where it begins in `out`
    groups: dict[str, str] = {}
    captures, position, exact = 0, 0, True
    while position < len(pattern) and len(out) <= MAX_PATTERN:
        sign, end = pattern[position], item_end(pattern, position)
        if pattern.startswith((r"\b", r"\B"), position) or _LOOK_AROUND.match(pattern, position):
            position, exact = _after_quantifier(pattern, end), False
            continue
        reference = _NAMED_REFERENCE.match(pattern, position) or _REFERENCE.match(pattern, position)
        named = _NAMED_GROUP.match(pattern, position)
        if reference is not None:
            taken = groups.get(next(name for name in reference.groups() if name))
            if taken is None:  # of a group that is not closed yet, or that there is not
                return None
            item, end, exact = f"(?:{taken})", reference.end(), False
        elif sign == "(":
            if named is not None or not pattern.startswith("(?", position):
                captures += 1
                open_groups.append(((str(captures), *(named.groups() if named else ())), len(out)))
            else:
                open_groups.append(((), len(out)))
            item, end = ("(", named.end()) if named else (sign, position + 1)
        else:
            item = "$" if pattern[position:end] in (r"\Z", r"\z") else pattern[position:end]
        out += item
        if sign == ")" and open_groups:
            names, begin = open_groups.pop()
            groups.update(dict.fromkeys(names, out[begin:]))
        position = end
    return (out, exact) if len(out) <= MAX_PATTERN else None


def _has_alternatives(pattern: str) -> bool:
    """Whether a pattern is one or another at its top level."""
    position = 0
    while position < len(pattern):
        if pattern[position] == "|":
            return True
        position = item_end(pattern, position)
    return False


def item_end(pattern: str, position: int) -> int:
    """Where the escape, class, group or sign that begins at a place ends."""
    sign = pattern[position]
    if sign == "(":
        return _group_end(pattern, position)
    if escape := ESCAPE.match(pattern, position):
        return escape.end()
    return position + (class_length(pattern, position) if sign == "[" else 1)


def _group_end(pattern: str, start: int) -> int:
    """Where the group that begins at a place ends; the end of the pattern where it does not."""
    depth, position = 0, start
    while position < len(pattern):
        sign = pattern[position]
        depth += (sign == "(") - (sign == ")")
        position += 2 if sign == "\\" else class_length(pattern, position) if sign == "[" else 1
        if depth == 0:
            return position
    return len(pattern)


def _after_quantifier(pattern: str, position: int) -> int:
    quantifier = _QUANTIFIER.match(pattern, position)
    return quantifier.end() if quantifier else position
