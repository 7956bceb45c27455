"""Endings: texts that may close a value whose pattern or format wants a certain end, such as ".jpg" or "@a.aa"."""

import json
from collections.abc import Iterator, Mapping

import regex

from sda_engine.output.patterns import item_end
from sda_engine.output.schema_gate import walk

_FORMATS: Mapping[str, tuple[str, ...]] = {
    "date": ("2000-01-01",),
    "date-time": ("2000-01-01T00:00:00Z",),
    "duration": ("P1D", "PT1S"),
    "email": ("a@a.aa",),
    "hostname": ("a",),
    "ipv4": ("1.1.1.1",),
    "ipv6": ("::", "0:0:0:0:0:0:0:0"),
    "time": ("00:00:00Z",),
    "uri": ("a://a", "a:a", "00"),
    "uuid": ("00000000-0000-0000-0000-000000000000",),
}
_SIGNS = ("a", "0", "A", *map(chr, range(0x20, 0x7F)), "\n", "\t", "é", "я", "中", "あ", "가", "א", "ع", "😀")
_WAYS = 8  # of patterns with alternatives so many are followed
_LONGEST = 64
_MOST = 256
_COUNT = regex.compile(r"\{(\d*)(?:,(\d*))?\}[?+]?|([*+?])[?+]?")


def find_endings(grammar: str) -> tuple[str, ...]:
    """The ends of examples of each pattern and format in a joined grammar, the shortest first.

    A value that follows its pattern up to some place is closed by the rest of an example, from that place on.
    """
    found: set[str] = set()
    for example in _examples(grammar):
        found |= {example[start:] for start in range(max(0, len(example) - _LONGEST), len(example))}
    return tuple(sorted(found, key=lambda ending: (len(ending), ending))[:_MOST])


def example_of(pattern: str, way: int) -> str:
    """A short text that a regular expression matches, or nearly: of alternatives the one by that number.

    Assertions are passed over. What is no regular expression gives some text.
    """
    text, _ = _alternatives(pattern, 0, way)
    return text


def _examples(grammar: str) -> Iterator[str]:
    for part in json.loads(grammar)["grammars"]:
        rules = part.get("lark_grammar", "")
        if regex.fullmatch(r"start: /.*/", rules):  # a regular expression
            yield from _examples_of(rules.removeprefix("start: /")[:-1], as_json=False)
        for node in walk(part.get("json_schema", {})):
            if isinstance(node.value, Mapping) and node.kind == "names" and node.within == "patternProperties":
                for pattern in node.value:
                    yield from _examples_of(pattern)
            elif isinstance(node.value, Mapping) and node.kind == "schema":
                yield from _FORMATS.get(str(node.value.get("format")), ())
                if isinstance(node.value.get("pattern"), str):
                    yield from _examples_of(str(node.value["pattern"]))


def _examples_of(pattern: str, *, as_json: bool = True) -> Iterator[str]:
    for way in range(_WAYS):
        example = example_of(pattern, way)
        yield json.dumps(example, ensure_ascii=False)[1:-1] if as_json else example


def _alternatives(pattern: str, position: int, way: int) -> tuple[str, int]:
    """An example of what stands from a place to the end of its group, and the place after that."""
    branches = [""]
    while position < len(pattern) and pattern[position] != ")":
        if pattern[position] == "|":
            branches.append("")
            position += 1
            continue
        example, position = _item(pattern, position, way)
        if count := _COUNT.match(pattern, position):
            least = 1 if count[3] == "+" else int(count[1] or 0)
            example, position = example * min(least, _LONGEST), count.end()
        branches[-1] = (branches[-1] + example)[-_LONGEST:]
    return branches[way % len(branches)], position + 1


def _item(pattern: str, position: int, way: int) -> tuple[str, int]:
    """An example of the group, class, escape or sign that begins at a place, and the place after it."""
    sign, end = pattern[position], item_end(pattern, position)
    if sign == "(":
        opening = regex.compile(r"\((?:\?(?:P?<\w+>|[a-zA-Z-]*:|[a-zA-Z-]+(?=\))))?").match(pattern, position)
        if opening is None or pattern.startswith(("(?=", "(?!", "(?<=", "(?<!"), position):
            return "", end
        return _alternatives(pattern, opening.end(), way)
    if sign in "^$" or pattern[position:end] in (r"\b", r"\B", r"\A", r"\Z", r"\z"):
        return "", end
    if sign not in ".[\\":
        return sign, end
    try:
        one = regex.compile(pattern[position:end])
    except regex.error:
        return "", end
    return next((other for other in _SIGNS if one.fullmatch(other)), ""), end
