import json
import random
from types import MappingProxyType

import pytest

from sda_engine import Constraint, Output
from sda_engine.errors import ConstraintError
from sda_engine.output.constraints import ConstraintCompiler
from sda_engine.output.grammar_trial import TrialProcess
from sda_engine.output.schema_gate import check_pattern, check_schema
from tests.sda_engine.output.random_schemas import random_schema, random_value
from tests.sizes import size


@pytest.fixture(scope="module")
def compiler(tokenizer):
    compiler = ConstraintCompiler(tokenizer, 320, frozenset({2}))

    def compile_(schema):
        return compiler.compile(Output(constraint=Constraint.json_schema(schema)).grammar(tokenizer.answer_format))

    return compile_


def nested(levels, wrap=lambda inner: {"type": "array", "items": inner}, inner=None):
    schema = {"type": "integer"} if inner is None else inner
    for _ in range(levels - 1):
        schema = wrap(schema)
    return schema


def texts(count, length=60):
    return [f"{number:0{length}}" for number in range(count)]


def reference_chain(length):
    """`length` references, each to the next; in groups, since a group of definitions has a limit of its own."""
    places = [(f"group{number // 60}", f"d{number % 60}") for number in range(length)]
    paths = [f"#/properties/{group}/$defs/{name}" for group, name in places]
    groups = {}
    for (group, name), target in zip(places, [*paths[1:], None], strict=True):
        groups.setdefault(group, {"$defs": {}})["$defs"][name] = {"$ref": target} if target else {"type": "integer"}
    return {"type": "object", "properties": {"x": {"$ref": paths[0]}, **groups}, "required": ["x"]}


# --- each limit, from both sides

LIMITS = {
    "bytes": (lambda n: {"enum": texts(900), "description": "x" * n}, 6_000, 70_000, "bytes of JSON.*65,536"),
    "depth": (nested, 32, 33, "33 levels of nesting.*32"),
    "depth of lists": (
        lambda n: {"const": nested(n - 1, lambda inner: [inner], [])}, 32, 33, "33 levels of nesting.*32"
    ),
    "nodes": (lambda n: {"anyOf": [{"const": k} for k in range(n - 2)]}, 2_000, 2_001, "2,001 nodes.*2,000"),
    "$defs": (
        lambda n: {"$defs": {f"d{k}": {} for k in range(n)}, "type": "null"}, 64, 65, "65 definitions in '\\$defs'.*64"
    ),
    "definitions": (
        lambda n: {"definitions": {f"d{k}": {} for k in range(n)}, "type": "null"},
        64,
        65,
        "65 definitions in 'definitions'.*64",
    ),
    "enum": (lambda n: {"items": {"enum": list(range(n))}}, 1_000, 1_001, "1,001 values in an enum.*1,000"),
    "references": (
        lambda n: {"anyOf": [{"$ref": "#/$defs/a"}] * n, "$defs": {"a": {"const": 1}}}, 256, 257, "257 references.*256"
    ),
    "minItems": (lambda n: {"type": "array", "minItems": n}, 10_000, 10_001, "10,001 as 'minItems'.*10,000"),
    "maxItems": (lambda n: {"type": "array", "maxItems": n}, 10_000, 10_001, "10,001 as 'maxItems'.*10,000"),
    "minLength": (lambda n: {"type": "string", "minLength": n}, 10_000, 10_001, "10,001 as 'minLength'.*10,000"),
    "maxLength": (lambda n: {"type": "string", "maxLength": n}, 10_000, 10_001, "10,001 as 'maxLength'.*10,000"),
    "maxProperties": (lambda n: {"type": "object", "maxProperties": n}, 10_000, 10_001, "'maxProperties'.*10,000"),
    "minProperties": (lambda n: {"type": "object", "minProperties": n}, 1, 10_001, "'minProperties'.*10,000"),
    "multipleOf": (lambda n: {"type": "integer", "multipleOf": n}, 10_000, 10_001, "cannot be 10001.*10,000"),
    "fraction": (lambda n: {"type": "number", "multipleOf": n}, 0.9999, 1.2345, "12,345 as the least common.*10,000"),
    "least common multiple": (
        lambda n: {"type": "array", "prefixItems": [{"type": "integer", "multipleOf": k} for k in (8, 25, n)]},
        50,
        53,
        "10,600 as the least common multiple of multipleOf.*10,000",
    ),
    "pattern": (
        lambda n: {"type": "string", "pattern": "a" * n}, 1_024, 1_025, "1,025 characters in a pattern.*1,024"
    ),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_a_schema_at_a_limit_passes_and_compiles_and_one_above_is_refused_with_both_numbers(limit, compiler):
    make, legal, too_large, said = LIMITS[limit]
    assert json.loads(check_schema(make(legal))) == make(legal)
    compiler(make(legal))
    with pytest.raises(ConstraintError, match=said):
        check_schema(make(too_large))


def test_bytes_are_counted_not_characters():
    check_schema({"description": "ü" * 32_000})
    with pytest.raises(ConstraintError, match="65,536"):
        check_schema({"description": "ü" * 33_000})


def test_a_chain_of_250_references_compiles(compiler):
    assert not compiler(reference_chain(250)).complete


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"x-guidance": {}}}},
        {"anyOf": [{"items": [{"x-guidance": None}]}]},
        {"x-guidance": {"whitespace_flexible": True}},
    ],
)
def test_settings_of_the_grammar_engine_are_refused_wherever_they_are(schema):
    with pytest.raises(ConstraintError, match=r"x-guidance.*remove it"):
        check_schema(schema)


def cycle():
    schema = {}
    schema["items"] = schema
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "cannot be None.*must be a dict"),
        (True, "cannot be True"),
        ([{"type": "object"}], "must be a dict"),
        ("{}", "must be a dict"),
        ({1: {}}, "key 1: keys must be texts"),
        ({"properties": {None: {}}}, "key None: keys must be texts"),
        ({"const": float("nan")}, "is no JSON"),
        ({"maximum": float("inf")}, "is no JSON"),
        ({"multipleOf": float("nan")}, "multipleOf cannot be nan"),
        ({"multipleOf": 0}, "multipleOf cannot be 0: it must be above 0"),
        ({"multipleOf": -2}, "multipleOf cannot be -2"),
        ({"enum": {1, 2}}, "is no JSON.*set"),
        ({"const": b"x"}, "is no JSON.*bytes"),
        ({"default": object()}, "is no JSON"),
        (MappingProxyType({"type": "object"}), "is no JSON"),
        ({"minLength": float("inf")}, "as 'minLength'"),
        ({"minLength": 10**5_000}, "minLength"),
        ({"multipleOf": 10**5_000}, "multipleOf"),
        ({"const": 10**5_000}, "is no JSON"),
        (cycle(), "levels of nesting"),
        (nested(100_000), "levels of nesting"),
        ({"enum": nested(100_000, lambda inner: [inner], [])}, "levels of nesting"),
        (nested(100_000, lambda inner: [inner], []), "must be a dict"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:20],
)  # fmt: skip
def test_what_is_no_schema_is_a_constraint_error_that_says_why(schema, said):
    with pytest.raises(ConstraintError, match=said):
        check_schema(schema)


@pytest.mark.parametrize(
    "name", ["enum", "multipleOf", "pattern", "minLength", "$defs", "definitions", "const", "default", "type", "$id"]
)
def test_a_property_may_be_named_like_a_keyword(name, compiler):
    schema = {"type": "object", "properties": {name: {"type": "boolean"}}, "required": [name]}
    assert json.loads(check_schema(schema)) == schema
    assert not compiler(schema).complete


@pytest.mark.parametrize("data", [{"multipleOf": 99_999}, {"minLength": 99_999}, {"pattern": "x" * 2_000}])
def test_data_in_a_schema_is_not_read_as_keywords(data, compiler):
    schema = {"const": data}
    assert json.loads(check_schema(schema)) == schema
    assert not compiler(schema).complete


def test_a_schema_is_never_changed():
    schema = {"properties": {"a": {"type": "object", "properties": {}}}, "enum": ({},)}
    before = repr(schema)
    Constraint.json_schema(schema)
    assert repr(schema) == before


@pytest.mark.parametrize("pattern", ["", "a" * 1_024])
def test_a_pattern_passes_as_it_is(pattern):
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "said"), [("a" * 1_025, "1,025 characters.*1,024"), (7, "cannot be 7"), (None, "None")]
)
def test_a_pattern_that_is_none_or_too_long_is_refused(pattern, said):
    with pytest.raises(ConstraintError, match=said):
        check_pattern(pattern)


# --- anything at all


@pytest.mark.parametrize("seed", range(size(4, 1)))
def test_any_schema_is_either_compiled_or_a_constraint_error(seed, compiler, monkeypatch):
    monkeypatch.setattr(TrialProcess, "run", lambda trial, grammar: None)  # a process each would take minutes
    rng = random.Random(seed)  # noqa: S311
    compiled, odd = 0, []
    for number in range(600):
        schema = random_schema(rng) if number % 3 else random_value(rng, 0)
        try:
            compiler(schema)
            compiled += 1
        except ConstraintError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what this test looks for
            odd.append((schema, f"{type(error).__name__}: {error}"[:150]))
    assert odd == []
    assert 30 < compiled < 570
