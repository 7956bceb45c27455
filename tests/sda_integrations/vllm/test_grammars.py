"""Named grammars become one in Lark that derives the same."""

import json

import pytest
from llguidance import LLMatcher

from sda_engine.output import Constraint, join_grammars
from sda_integrations.vllm.grammars import as_lark


def fault(lark: str) -> str:
    return LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark))


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint.json_schema({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),
        Constraint.regex(r"[a-z]+@[a-z]+\.org"),
        Constraint.lark('start: "a" inner\ninner: /[0-9]+/ "@answer"'),
    ],
    ids=lambda one: one.kind,
)
def test_each_kind_stands_alone_and_within_another(constraint: Constraint):
    assert fault(as_lark(join_grammars(constraint.grammar("answer")))) == ""
    main = {"name": "main", "lark_grammar": 'start: "x" body\nbody: @answer | "@answer" /@answer/'}
    lark = as_lark(join_grammars(main, constraint.grammar("answer")))
    assert fault(lark) == ""
    assert lark.splitlines()[1] == 'body: part_answer | "@answer" /@answer/', "a text that looks like a name stays"


def test_a_schema_keeps_how_it_is_written():
    lark = as_lark(join_grammars(Constraint.json_schema({"type": "object", "properties": {}}).grammar("answer")))
    assert json.loads(lark.removeprefix("start: %json "))["x-guidance"]["item_separator"] == ", "
