"""Stop strings beside a form: what they may cut, and what they leave whole."""

import json

import pytest

from sda_engine import Constraint, Output, Sampling, Steering
from sda_engine.decoding.detokenizer import StopChecker
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator, call_text

ASKED = [{"role": "user", "content": "Hi"}]
NOTE = Constraint.json_schema({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
TEXT = '{"a": "one. two."}'
TOOL = {"name": "note", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}}
JSON_BY_LARK = r"""
start: "{\"a\": \"" WORDS "\"}"
WORDS: /[a-z. ]+/
"""


def answer(text: str, stop: object, **form: object):
    """The answer to a request, streamed piece by piece."""
    with ScriptedEngine(text) as engine:
        pieces = list(engine.stream(ASKED, output=Output(**form), sampling=Sampling(stop=stop)))
    assert "".join(piece.text for piece in pieces) == pieces[-1].completion.text
    return pieces[-1].completion


@pytest.mark.parametrize("stop", [".", ". ", "}", '"', "{", "one", ["x", ":"], "e. two"])
def test_json_by_a_schema_is_never_cut(stop):
    done = answer(TEXT, stop, constraint=NOTE)
    assert done.text == TEXT
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("schema", [{"type": "object"}, {"type": "number"}])
def test_neither_is_json_without_named_properties_nor_a_value_that_is_no_object(schema):
    text = TEXT if schema["type"] == "object" else "12.5"
    assert answer(text, ".", constraint=Constraint.json_schema(schema)).text == text


def test_where_tools_or_json_may_come_neither_is_cut():
    assert answer(TEXT, ".", tools=[TOOL], constraint=NOTE).text == TEXT
    called = answer(call_text("note", {"a": "one. two."}), ".", tools=[TOOL], constraint=NOTE)
    assert called.tool_calls[0]["function"]["arguments"] == {"a": "one. two."}


def test_where_free_text_or_calls_may_come_the_text_is_cut_and_a_call_is_not():
    assert answer("one. two.", ".", tools=[TOOL]).text == "one"
    called = answer(call_text("note", {"a": "one. two."}), ".", tools=[TOOL])
    assert called.tool_calls[0]["function"]["arguments"] == {"a": "one. two."}


@pytest.mark.parametrize(
    ("constraint", "text", "stop", "expected"),
    [
        (Constraint.lark(JSON_BY_LARK), TEXT, ".", TEXT),
        (Constraint.lark(r"start: /(.|\n)*/"), "one. two.", ".", "one"),
        (Constraint.regex(r"[a-z. ]+"), "one. two.", ".", "one"),
        (Constraint.regex(r"\d{3}-\d{4}"), "555-1234", "-", "555-1234"),
        (Constraint.regex(r"[a-z]+( [a-z]+)?( and)?"), "one two and", [" two", " and"], "one"),
        (Constraint.regex(r"[a-z]+ [a-z]+( and)?"), "one two and", [" two", " and"], "one two"),
        (Constraint.regex(r"\w+@\w+\.com\n"), "alan@enigma.com\n", "\n", "alan@enigma.com\n"),
    ],
)
def test_other_constrained_text_ends_at_a_stop_string_where_it_is_whole(constraint, text, stop, expected):
    assert answer(text, stop, constraint=constraint).text == expected


def test_a_base_response_by_a_schema_is_whole_too():
    with ScriptedEngine(TEXT) as engine:
        evaluator = ScriptedEvaluator([90])
        done = engine.generate(
            ASKED,
            "honesty",
            steering=Steering(evaluator=evaluator, accept_score=80),
            sampling=Sampling(stop="."),
            output=Output(constraint=NOTE),
        )
    assert json.loads(done.text) == {"a": "one. two."}
    assert evaluator.requests[0].response == TEXT


def checker(stop: list[str], may_end: set[str]) -> tuple[StopChecker, list[str]]:
    """A checker of texts that may end as given, and what it was told."""
    told: list[str] = []

    def ask(more: str) -> bool:
        told.append(more)
        return "".join(told) in may_end

    return StopChecker(stop, ask), told


def test_a_refused_stop_string_is_part_of_the_text_and_nothing_is_told_twice():
    stops, told = checker([".", ". t", "ne. twx"], {"one. two"})
    given = "".join(map(stops.push, "one. two. three"))
    assert (given, stops.stopped) == ("one. two", True)
    assert "".join(told) == "one. two"


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_the_pieces_in_which_a_text_comes_change_nothing(size):
    text = "aab aab b. aab"
    for may_end in ({"a"}, {"aab a"}, {"aab aab b"}, set(), {""}):
        stops, _ = checker(["ab", "b", "aab a", "b. a"], may_end)
        given = "".join(stops.push(text[place : place + size]) for place in range(0, len(text), size))
        given += "" if stops.stopped else stops.flush()
        assert given == (may_end.pop() if may_end and stops.stopped else text)
