"""Calls and JSON that are valid or right, and such that are not."""

import json

import pytest

from sda_engine.errors import ConfigError, ConstraintError
from sda_engine.evaluation.checking import (
    BOOK_TABLE,
    argument_accuracy,
    call_arguments,
    json_values,
    valid_call,
    valid_json,
)

ARGUMENTS = {"restaurant": "Luna", "guests": 4, "day": "Friday", "time": "19:30"}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def call(arguments, name="book_table"):
    return {"type": "function", "id": "1", "function": {"name": name, "arguments": arguments}}


def test_a_call_with_arguments_that_fit_is_valid_as_a_dict_and_as_text():
    assert valid_call([call(ARGUMENTS)], [BOOK_TABLE])
    assert valid_call((call(json.dumps(ARGUMENTS)),), [{"type": "function", "function": BOOK_TABLE}])


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [call(ARGUMENTS, name="cancel_table")],
        [call({**ARGUMENTS, "guests": "4"})],
        [call({**ARGUMENTS, "day": "Someday"})],
        [call({**ARGUMENTS, "smoking": False})],
        [call({"restaurant": "Luna"})],
        [call("{'restaurant': 'Luna'}")],
        [call(None)],
        [call([1])],
        [{"type": "function"}],
        [call(ARGUMENTS), call({})],
    ],
)
def test_no_call_and_a_call_that_does_not_fit_are_invalid(calls):
    assert not valid_call(calls, [BOOK_TABLE])


def test_a_tool_with_a_schema_that_is_none_is_refused():
    broken = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "whole"}}}}
    with pytest.raises(ConstraintError):
        valid_call([], [broken])


def test_the_arguments_are_those_of_the_first_call():
    assert call_arguments([call(json.dumps(ARGUMENTS)), call({})]) == ARGUMENTS
    assert call_arguments([]) == call_arguments([call("{")]) == call_arguments([call("[1]")]) == {}


def test_accuracy_is_the_share_of_wanted_arguments_given_right():
    given = {"restaurant": " luna ", "guests": 5, "day": "Friday", "more": 1}
    assert argument_accuracy(given, ARGUMENTS) == 2 / 4
    assert argument_accuracy(ARGUMENTS, ARGUMENTS) == 1
    assert argument_accuracy({}, ARGUMENTS) == 0


@pytest.mark.parametrize(
    ("given", "wanted", "right"),
    [
        (4.0, 4, True),
        ("4", 4, False),
        (True, 1, False),
        (None, 0, False),
        (["Danish", "polish"], ["danish", "Polish"], True),
        (["Polish", "Danish"], ["Danish", "Polish"], False),
        (["Danish"], ["Danish", "Polish"], False),
    ],
)
def test_values_are_compared_by_their_kind(given, wanted, right):
    assert argument_accuracy({"x": given}, {"x": wanted}) == right


def test_an_argument_that_should_be_null_has_to_be_given():
    assert argument_accuracy({"x": None}, {"x": None}) == 1
    assert argument_accuracy({}, {"x": None}) == 0


def test_accuracy_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="cannot be empty"):
        argument_accuracy({"x": 1}, {})


def test_json_is_valid_where_all_of_it_fits_the_schema():
    assert valid_json(' {"age": 3, "name": "Ada"}\n', SCHEMA)
    for text in ("", "{", '{"age": "3"}', "{}", "[3]", '```\n{"age": 3}\n```', '{"age": NaN}', "[" * 100_000):
        assert not valid_json(text, SCHEMA)
    assert not valid_json("NaN", {"type": "number"})


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(ConstraintError, match="The JSON schema is none"):
        valid_json("{}", {"type": "whole"})


def test_the_values_of_a_text_that_is_no_object_are_none():
    assert json_values('{"age": 3}') == {"age": 3}
    assert json_values("[3]") == json_values("three") == json_values("") == {}
