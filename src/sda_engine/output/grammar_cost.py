"""Which grammars may cost more than they look: those are compiled on trial first.

The bounds were set on tests/sda_engine/hostile_cases.py, where schemas close to one of them at a time compiled in less
than half a second and 50 MB. What grows without a bound does so where schemas are combined (references beside other
keywords are written out, patterns are intersected), so that is looked for as well.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sda_engine.output.schema_gate import ANNOTATIONS, counted_signs, walk

OWN_RULES = "main"  # the name of the engine's own rules, which are cheap

_NODES = 400
_ALL_NODES = 4_000  # of all tools together
_ALL_OTHERS = 4  # times as many numbers, formats and patterns as one schema may have
_ALL_DIVISORS = 50
_ALL_VALUES = 20_000  # of enums
_BOUNDED_NUMBERS = 100
_FORMATS_AND_PATTERNS = 100
_REQUIRED = 400
_SIGNS = 2_000  # that a pattern may match by its counts
_LENGTH = 256  # minLength or maxLength of a text that has a pattern as well
_DIVISOR, _DIVISORS = 1_000, 5
_COMBINED = 8
_REFERENCES_WHERE_COMBINED = 10

_REGEX = re.compile(r"start: /((?:\\.|[^/\\\n])*)/")  # what LLMatcher.grammar_from_regex makes
_SAYS_NOTHING = ANNOTATIONS | {"x-guidance"}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


@dataclass
class _Found:
    """What counts in one schema."""

    nodes: int = 0
    numbers: int = 0
    patterns: int = 0
    divisors: int = 0
    references: int = 0
    combined: int = 0
    values: int = 0


def is_doubtful(grammar: str) -> bool:
    """Whether a joined grammar has to be compiled on trial before the engine compiles it.

    Every Lark grammar is, except the engine's own rules, since what it costs cannot be told from its text.
    """
    all_found = []
    for part in json.loads(grammar)["grammars"]:
        schema, rules = part.get("json_schema"), part.get("lark_grammar")
        if schema is not None:
            found = _Found()
            if _is_doubtful_schema(schema, found):
                return True
            all_found.append(found)
        elif part["name"] != OWN_RULES:
            regex = _REGEX.fullmatch(rules)
            if regex is None or is_doubtful_pattern(regex[1]):
                return True
    return (
        sum(found.nodes for found in all_found) > _ALL_NODES
        or sum(found.numbers for found in all_found) > _ALL_OTHERS * _BOUNDED_NUMBERS
        or sum(found.patterns for found in all_found) > _ALL_OTHERS * _FORMATS_AND_PATTERNS
        or sum(found.divisors for found in all_found) > _ALL_DIVISORS
        or sum(found.values for found in all_found) > _ALL_VALUES
    )


def _is_doubtful_schema(schema: Mapping[str, object], found: _Found) -> bool:
    for node in walk(schema):
        found.nodes += 1
        if isinstance(node.value, Mapping):
            if node.kind == "names" and node.within == "patternProperties":
                found.patterns += len(node.value)
                if len(node.value) > 1 or any(map(is_doubtful_pattern, node.value)):
                    return True
            if node.kind == "schema":
                found.combined += 0 if node.depth == 1 and _is_typed_reference(node.value) else _combined(node.value)
                if _is_doubtful_node(node.value, found):
                    return True
    return (
        found.nodes > _NODES
        or found.numbers > _BOUNDED_NUMBERS
        or found.patterns > _FORMATS_AND_PATTERNS
        or found.divisors > _DIVISORS
        or found.combined > _COMBINED
        or bool(found.combined and (found.references > _REFERENCES_WHERE_COMBINED or found.patterns > 1))
    )


def _is_doubtful_node(schema: Mapping[str, object], found: _Found) -> bool:
    found.numbers += any(bound in schema for bound in _BOUNDS)
    found.references += "$ref" in schema
    values = schema.get("enum")
    found.values += len(values) if isinstance(values, list) else 0
    divisor, required, pattern = schema.get("multipleOf"), schema.get("required"), schema.get("pattern")
    found.divisors += divisor is not None
    has_pattern = pattern is not None or "format" in schema
    found.patterns += has_pattern
    lengths = [schema.get("minLength"), schema.get("maxLength")]
    return (
        (isinstance(divisor, (int, float)) and divisor > _DIVISOR)
        or (isinstance(required, list) and len(required) > _REQUIRED)
        or (isinstance(pattern, str) and is_doubtful_pattern(pattern))
        or (has_pattern and any(isinstance(length, (int, float)) and length > _LENGTH for length in lengths))
        or (pattern is not None and "format" in schema)
    )


def _combined(schema: Mapping[str, object]) -> int:
    """How many schemas have to hold together here: members of an allOf, alternatives or a reference beside others."""
    speaking = set(schema) - _SAYS_NOTHING
    count = 0
    for keyword in ("allOf", "anyOf", "oneOf"):
        members = schema.get(keyword)
        if isinstance(members, list) and (len(speaking) > 1 or (keyword == "allOf" and len(members) > 1)):
            count += len(members)
    return count + ("$ref" in schema and len(speaking) > 1)


def _is_typed_reference(schema: Mapping[str, object]) -> bool:
    """Whether this is a reference and a type: a recursive model as a tool's arguments, where one is written out."""
    return set(schema) - _SAYS_NOTHING == {"$ref", "type"}


def is_doubtful_pattern(pattern: str) -> bool:
    """Whether a pattern has to be compiled on trial, since its counts allow for long texts."""
    return counted_signs(pattern)[1] > _SIGNS
