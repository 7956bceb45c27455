import json
import warnings

import jsonschema
import pytest

from sda_engine import Constraint, Output, Sampling
from sda_engine.errors import ConstraintError, InvalidOutputError
from sda_engine.output import LoosenedSchemaWarning
from sda_engine.output.fit import misfit
from sda_engine.output.loosening import loosen
from sda_engine.testing import ScriptedEngine, call_text, tiny_engine
from tests.conftest import user
from tests.sizes import size

TEXT = {"type": "string"}


def asked(engine, schema, seed=0, **output):
    sampling = Sampling(temperature=1.0, top_p=None, max_new_tokens=120, seed=seed)
    return engine.generate(
        user("x"),
        sampling=sampling,
        output=Output(constraint=Constraint.json_schema(schema), schema_in_prompt=False, **output),
    )


@pytest.fixture(scope="module")
def tiny():
    with tiny_engine() as engine:
        yield engine


# --- what is said in other words, and fits the schema as it was given

EXACT = {
    "names of an enum": {"type": "object", "propertyNames": {"enum": ["a", "b.c"]}, "additionalProperties": TEXT},
    "names of a definition": {
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/name"},
        "additionalProperties": {"type": "integer"},
        "$defs": {"name": {"enum": ["red", "green"], "type": "string"}},
    },
    "names by a format": {"type": "object", "propertyNames": {"format": "date"}, "minProperties": 1},
    "UUID of a version": {**TEXT, "format": "uuid4"},
    "base64": {**TEXT, "format": "base64"},
    "decimal": {**TEXT, "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
    "password": {**TEXT, "pattern": r"^(?=.*[a-z])(?=.*\d).{8,12}$"},
    "unevaluated properties": {"type": "object", "properties": {"a": TEXT}, "unevaluatedProperties": False},
    "oneOf by a tag": {
        "oneOf": [{"type": "object", "properties": {"k": {"const": kind}}, "required": ["k"]} for kind in ("a", "b")]
    },
    "a large enum": {"enum": [f"value {number}" for number in range(3_000)]},
    "uniqueItems that says nothing": {"type": "array", "items": {"type": "integer"}, "uniqueItems": False},
}


@pytest.mark.parametrize("name", EXACT)
def test_what_can_be_said_in_other_words_is_enforced_in_silence(name, tiny):
    schema = EXACT[name]
    for seed in range(size(6, 2)):
        done = asked(tiny, schema, seed)
        if done.finish_reason == "stop":
            jsonschema.validate(json.loads(done.text), schema)
        assert done.finish_reason == "stop" or name in ("names by a format", "names of an enum")


# --- what is left out, told of and checked

LEFT_OUT = {
    "format": ({**TEXT, "format": "path"}, '"x"', None),
    "uniqueItems": ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 2]", "[1, 1]"),
    "propertyNames": (
        {"type": "object", "properties": {"a": TEXT}, "propertyNames": {"maxLength": 1}, "additionalProperties": TEXT},
        '{"a": "b"}',
        '{"ab": "b"}',
    ),
    "word boundary": ({**TEXT, "pattern": r"\bfox\b"}, '"a fox"', '"foxes"'),
    "back-reference": ({**TEXT, "pattern": r"^(a|b)\1$"}, '"bb"', '"ab"'),
    "look-behind": ({**TEXT, "pattern": "^[a-z-]+(?<!-)$"}, '"a-b"', '"a-"'),
    "not": ({"type": "integer", "not": {"const": 3}}, "4", "3"),
    "if": ({"type": "integer", "if": {"minimum": 10}, "then": {"multipleOf": 5}}, "15", "11"),
    "contains": ({"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}}, "[0, 1]", "[0]"),
    "dependentRequired": (
        {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "dependentRequired": {"a": ["b"]}},
        '{"b": ""}',
        '{"a": ""}',
    ),
    "oneOf": ({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 9}]}, "-1", "5"),
    "oneOf of open objects": (
        {"oneOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}}], "type": "object"},
        '{"b": ""}',
        '{"a": ""}',
    ),
    "maxLength": ({**TEXT, "maxLength": 10_001}, '"x"', None),
    "multipleOf": ({"type": "integer", "multipleOf": 1_000_003}, "1000003", "7"),
    "minProperties": (
        {"type": "object", "properties": {"a": TEXT, "b": TEXT, "c": TEXT}, "minProperties": 2},
        '{"a": "", "b": ""}',
        '{"a": ""}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_no_grammar_enforces_is_told_of_once_and_checked_in_the_answer(name):
    schema, fits, misfits = LEFT_OUT[name]
    with ScriptedEngine([fits, fits, misfits or fits]) as engine:
        with pytest.warns(LoosenedSchemaWarning, match=r"leaves out .* at .*strict=True") as told:
            assert asked(engine, schema).text == fits
        assert told[0].filename == __file__
        assert asked(engine, schema).text == fits  # in silence
        if misfits is not None:
            with pytest.raises(InvalidOutputError, match=r"does not fit its JSON schema.*\$") as raised:
                asked(engine, schema)
            assert raised.value.text == misfits


@pytest.mark.parametrize("name", [name for name in LEFT_OUT if name != "oneOf of open objects"])
def test_what_no_grammar_enforces_is_refused_where_it_is_strict(name, tiny):
    with pytest.raises(ConstraintError):
        asked(tiny, LEFT_OUT[name][0], strict=True)


@pytest.mark.parametrize("schema", [{"not": {}}, {"$dynamicRef": "#a"}, {**TEXT, "pattern": "("}, {"uniqueItems": 3}])
def test_what_nothing_can_fit_or_read_is_refused_all_the_same(schema, tiny):
    with pytest.raises(ConstraintError):
        asked(tiny, schema)


def test_a_call_that_does_not_fit_what_is_left_out_is_an_invalid_one():
    tool = {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"ids": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}},
            "required": ["ids"],
        },
    }
    output = Output(tools=[tool], tool_choice="required")
    with ScriptedEngine([call_text("add", {"ids": [1, 1]}), call_text("add", {"ids": [1, 2]})]) as engine:
        with pytest.warns(LoosenedSchemaWarning, match="of the tool 'add'"):
            done = engine.generate(user("x"), output=output)
        (call,) = done.invalid_tool_calls
        assert (done.tool_calls, done.finish_reason, call["index"], call["name"]) == ((), "stop", 0, "add")
        assert "non-unique" in call["error"]
        assert json.loads(call["text"])["arguments"] == {"ids": [1, 1]}
        done = engine.generate(user("x"), output=output)
        assert done.tool_calls[0]["function"]["arguments"] == {"ids": [1, 2]}


def test_a_schema_is_not_changed_by_loosening_it():
    schema = {"allOf": [{"not": {"type": "null"}}], "propertyNames": {"enum": ["a"]}, "format": "path"}
    before = json.dumps(schema)
    loosen(schema)
    assert json.dumps(schema) == before


# --- the check itself


def test_the_check_reads_fractions_by_their_digits():
    assert misfit({"multipleOf": 0.01}, 19.99) is None
    assert misfit({"multipleOf": 0.01}, 19.999) is not None


def test_the_check_of_a_hostile_pattern_ends():
    assert misfit({"pattern": r"^(a|a)*\bx$", "not": {}}, "a" * 60) is not None


def test_the_check_asks_no_network():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "http://localhost:9/x" in (misfit({"not": {"$ref": "http://localhost:9/x"}}, 1) or "")
