"""Which turns a template takes is found out by trying it, and what it takes stays untouched."""

from functools import partial

import pytest

from sda_engine.models import TurnRules, find_turn_rules, merge_leading_system
from tests.families import TEMPLATES, family_tokenizer

BOTH = frozenset({"user", "assistant"})
ALL = TurnRules(takes_system=True, takes_bare_system=True, takes_later_system=True, joined=frozenset())
NONE = TurnRules(takes_system=False, takes_bare_system=False, takes_later_system=False, joined=BOTH)
WITHOUT_SYSTEM = TurnRules(takes_system=False, takes_bare_system=False, takes_later_system=False, joined=frozenset())
AT_THE_START = TurnRules(takes_system=True, takes_bare_system=False, takes_later_system=False, joined=BOTH)


def chat(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def rules_of(template):
    tokenizer = family_tokenizer("ChatML", template=template)
    return find_turn_rules(partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize(
    ("family", "rules"),
    [
        ("ChatML", ALL),
        ("Llama 3", ALL),
        ("Qwen 3", ALL),
        ("Gemma 2", NONE),
        ("Mistral 1", NONE),
        ("Gemma 3", AT_THE_START),
        ("Phi 3", WITHOUT_SYSTEM),
    ],
)
def test_the_rules_of_families_are_found_out(family, rules):
    assert rules_of(TEMPLATES[family][1]) == rules


@pytest.mark.parametrize(
    ("template", "rules"),
    [
        ("{{ 1 // 0 }}", NONE),
        ("{{ messages[5].content.x() }}", NONE),
        ("{{ messages[-1].content }}", NONE),
        (
            "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}"
            "{% endif %}{{ m.content }}{% endfor %}",
            TurnRules(takes_system=True, takes_bare_system=True, takes_later_system=False, joined=frozenset()),
        ),
        (  # a later system turn takes the place of the first
            "{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.s = m.content %}"
            "{% endif %}{% endfor %}{{ ns.s }}{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}"
            "{% endif %}{% endfor %}",
            TurnRules(takes_system=True, takes_bare_system=True, takes_later_system=False, joined=frozenset()),
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' and loop.previtem and loop.previtem.role == 'user' %}"
            "{{ raise_exception('twice') }}{% endif %}{{ m.content }}{% endfor %}",
            TurnRules(takes_system=True, takes_bare_system=True, takes_later_system=True, joined=frozenset({"user"})),
        ),
    ],
    ids=["fails", "fails otherwise", "shows the last turn", "no late system", "the last system", "users alternate"],
)
def test_refusing_failing_and_leaving_out_are_all_noticed(template, rules):
    assert rules_of(template) == rules


@pytest.mark.parametrize(
    "turns",
    [
        chat(("system", "S"), ("user", "q")),
        chat(("user", "q"), ("user", "r"), ("assistant", "a"), ("assistant", "b")),
        chat(("user", "q"), ("assistant", "a"), ("system", "S"), ("user", "r")),
    ],
)
def test_what_a_template_takes_stays_as_it_is(turns):
    assert ALL.fit(turns) == turns


@pytest.mark.parametrize(
    ("rules", "turns", "expected"),
    [
        (NONE, [("system", "S"), ("user", "q")], [("user", "S\n\nq")]),
        (WITHOUT_SYSTEM, [("system", "S"), ("user", "q"), ("user", "r")], [("user", "S\n\nq"), ("user", "r")]),
        (NONE, [("system", "S"), ("user", "q"), ("user", "r")], [("user", "S\n\nq\n\nr")]),
        (NONE, [("system", "S")], [("user", "S")]),
        (AT_THE_START, [("system", "S")], [("user", "S")]),
        (AT_THE_START, [("system", "S"), ("user", "q")], [("system", "S"), ("user", "q")]),
        (
            AT_THE_START,
            [("system", "S"), ("assistant", "a"), ("user", "q")],
            [("user", "S"), ("assistant", "a"), ("user", "q")],
        ),
        (
            AT_THE_START,
            [("user", "q"), ("assistant", "a"), ("system", "S"), ("user", "r")],
            [("user", "q"), ("assistant", "a"), ("user", "S\n\nr")],
        ),
        (
            AT_THE_START,
            [("system", "S"), ("user", "q"), ("system", "T"), ("assistant", "a"), ("user", "r")],
            [("system", "S"), ("user", "q\n\nT"), ("assistant", "a"), ("user", "r")],
        ),
        (NONE, [("user", "q"), ("assistant", "a"), ("assistant", "b")], [("user", "q"), ("assistant", "a\n\nb")]),
        (ALL, [("system", "S"), ("system", "T"), ("user", "q")], [("system", "S\n\nT"), ("user", "q")]),
        (NONE, [("system", ""), ("user", "q")], [("user", "q")]),
    ],
)
def test_turns_are_made_to_fit(rules, turns, expected):
    given = chat(*turns)
    assert rules.fit(given) == chat(*expected)
    assert given == chat(*turns)


def test_a_turn_that_calls_tools_is_never_joined():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
    turns = [*chat(("user", "q"), ("assistant", "a")), call, *chat(("assistant", "b"))]
    assert NONE.fit(turns) == turns


def test_only_leading_system_turns_are_merged():
    turns = chat(("system", "1"), ("system", "2"), ("user", "q"), ("system", "3"), ("system", "4"))
    assert merge_leading_system(turns) == chat(("system", "1\n\n2"), ("user", "q"), ("system", "3"), ("system", "4"))
