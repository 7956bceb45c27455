import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from sda_engine import Constraint, Output
from sda_engine.errors import ConstraintError
from sda_engine.output import constraints, grammar_trial
from sda_engine.output.constraints import ConstraintCompiler
from sda_engine.output.grammar_cost import is_doubtful
from sda_engine.output.grammar_trial import TrialProcess
from sda_engine.output.schema_gate import check_pattern, counted_signs
from tests.sda_engine.output.hostile_cases import JSON, LARK, REGEX
from tests.sizes import ALL, size

CASES = {
    **{f"JSON {name}": (Constraint.json_schema, source) for name, source in JSON.items()},
    **{f"regex {name}": (Constraint.regex, source) for name, source in REGEX.items()},
    **{f"Lark {name}": (Constraint.lark, source) for name, source in LARK.items()},
}
TOO_COSTLY = {  # each takes minutes, gigabytes or seconds where nothing stops it
    "JSON allOf of 40 patterns",
    "JSON allOf of anyOf patterns",
    "JSON doubling properties 20",
    "JSON doubling properties 8 wide",
    "JSON doubling2 type",
    "JSON doubling2 anyType",
    "JSON pattern ((a{99}){99}){99}",
    "JSON forced later",
    "JSON integer bounds 2^62",
    "regex a{1000000}",
    "regex a{4294967295}",
    "Lark inline json hostile",
}


@pytest.fixture
def compiler(tokenizer):
    return ConstraintCompiler(tokenizer, 320, frozenset({2}))


def grammar_of(constraint, tokenizer):
    return Output(constraint=constraint).grammar(tokenizer.answer_format)


def count_trials(monkeypatch):
    started, run = [], TrialProcess.run
    monkeypatch.setattr(TrialProcess, "run", lambda trial, grammar: started.append(grammar) or run(trial, grammar))
    return started


# --- the guarantee


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_description_is_compiled_in_little_time_or_refused(name, compiler, tokenizer, monkeypatch):
    if not ALL:  # several run into the limit of a trial
        monkeypatch.setattr(grammar_trial, "SECONDS", 1.0)
    make, source = CASES[name]
    start, refused = time.process_time(), ""
    try:
        constraint = compiler.compile(grammar_of(make(source), tokenizer))
        constraint._mask()
        constraint.forced()
    except ConstraintError as error:
        refused = str(error)
    assert time.process_time() - start < 5  # of this process; the limit of a trial is 1 or 2 seconds of its own
    assert refused or name not in TOO_COSTLY


ENDLESS = Constraint.lark('start: %json {"type": "integer", "multipleOf": 4999999}')  # a minute, and 2.5 GB


@pytest.mark.parametrize(
    "limits", [{"SECONDS": 0.5}, {"SECONDS": 300.0, "MEMORY_BYTES": 64 * 2**20}], ids=["time", "memory"]
)
def test_a_trial_that_passes_a_limit_is_a_refusal_that_says_so(limits, compiler, tokenizer, monkeypatch):
    if "MEMORY_BYTES" in limits and sys.platform != "linux":
        pytest.skip("only Linux limits memory")
    for name, value in limits.items():
        monkeypatch.setattr(grammar_trial, name, value)
    with pytest.raises(ConstraintError, match=r"cannot be enforced: compiling it takes more than"):
        compiler.compile(grammar_of(ENDLESS, tokenizer))


def test_what_a_trial_lets_pass_compiles_and_an_error_in_it_is_told_by_its_name(compiler, tokenizer):
    assert not compiler.compile(grammar_of(Constraint.lark('start: "a" /b*/'), tokenizer)).complete
    with pytest.raises(ConstraintError, match=r"unknown name.*missing"):
        compiler.compile(grammar_of(Constraint.lark("start: missing"), tokenizer))


def test_the_outcome_of_a_trial_is_remembered(compiler, tokenizer, monkeypatch):
    started = count_trials(monkeypatch)
    for _ in range(3):
        compiler.compile(grammar_of(Constraint.lark('start: "a"'), tokenizer))
        with pytest.raises(ConstraintError):
            compiler.compile(grammar_of(Constraint.lark("start: missing"), tokenizer))
    assert len(started) == 2


def test_what_is_kept_of_doubtful_grammars_is_bounded(compiler, tokenizer, monkeypatch):
    monkeypatch.setattr(TrialProcess, "run", lambda trial, grammar: None)
    monkeypatch.setattr(constraints, "_REMEMBERED_TRIALS", 30)
    for number in range(40):
        compiler.compile(grammar_of(Constraint.lark(f'start: "{number}"'), tokenizer))
    assert (len(compiler._doubtful), len(compiler._compiled), len(compiler._trials)) == (8, 0, 30)


def test_trials_run_from_many_threads_and_keep_no_ordinary_grammar_waiting(compiler, tokenizer, monkeypatch):
    going, run = threading.Event(), TrialProcess.run
    release = threading.Event()

    def wait(trial, grammar):
        going.set()
        assert release.wait(60)
        return run(trial, grammar)

    monkeypatch.setattr(TrialProcess, "run", wait)
    with ThreadPoolExecutor(3) as pool:
        doubtful = [
            pool.submit(compiler.compile, grammar_of(Constraint.lark(f'start: "{k}"'), tokenizer)) for k in range(2)
        ]
        assert going.wait(60)
        ordinary = pool.submit(compiler.compile, grammar_of(Constraint.json_schema({"type": "null"}), tokenizer))
        assert tokenizer.decode(ordinary.result(60).forced()) == "null"
        release.set()
        assert [tokenizer.decode(done.result(60).forced()) for done in doubtful] == ["0", "1"]


def test_without_an_interpreter_for_the_trial_a_doubtful_grammar_is_refused_and_not_remembered(
    compiler, tokenizer, monkeypatch
):
    grammar = grammar_of(Constraint.lark('start: "a"'), tokenizer)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(ConstraintError, match="/nowhere/python"):
            compiler.compile(grammar)
    assert tokenizer.decode(compiler.compile(grammar).forced()) == "a"


# --- what needs no trial


class Place(BaseModel):
    street: str = Field(min_length=1, max_length=100, pattern="^[A-Z].*")
    number: int | None = Field(default=None, ge=1, le=9_999, description="of the house")


class Person(BaseModel):
    name: str = Field(description="in full", max_length=10_000)
    role: Literal["reader", "writer"] = "reader"
    home: Place | None = Field(default=None, title="Where they live")
    work: Place = Field(description="where they work")
    friends: list["Person"] = Field(default_factory=list, max_length=1_000)
    scores: dict[str, float] = {}
    born: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    share: float = Field(gt=0, lt=1, multiple_of=0.01)


def search(query: str, limit: int = 10, tags: list[str] | None = None) -> str:
    """Find documents."""


def order(person: Person, place: Place, when: str | None = None) -> str:
    """Order something."""


ORDINARY = {
    "a model": Output(constraint=Constraint.json_schema(Person)),
    "a tool": Output(tools=[search], tool_choice="required"),
    "forty tools": Output(
        tools=[{"name": f"t{k}", "parameters": Person.model_json_schema()} for k in range(40)], parallel_tool_calls=True
    ),
    "a tool with models": Output(tools=[order, search], constraint=Constraint.json_schema(Place)),
    "an expression": Output(constraint=Constraint.regex(r"(yes|no)/[a-z]{1,50} \d+")),
    "references beside a title": Output(
        constraint=Constraint.json_schema(
            {"$ref": "#/$defs/a", "title": "x", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"const": 1}}}
        )
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_tools_models_and_expressions_start_no_process(name, compiler, tokenizer, monkeypatch):
    started = count_trials(monkeypatch)
    compiler.compile(ORDINARY[name].grammar(tokenizer.answer_format))
    assert started == []


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint.lark('start: "a"'),
        Constraint.regex("(a{0,50}){0,50}"),
        Constraint.json_schema({"pattern": "a{0,3000}"}),
        Constraint.json_schema({"pattern": "a*", "minLength": 300}),
        Constraint.json_schema({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}),
        Constraint.json_schema({"anyOf": [{"const": k} for k in range(400)]}),
        Constraint.json_schema({"items": [{"type": "integer", "minimum": k} for k in range(101)]}),
        Constraint.json_schema({"multipleOf": 1_001}),
        Constraint.json_schema({"required": [str(k) for k in range(401)]}),
        Constraint.json_schema({"patternProperties": {"a": {}, "b": {}}}),
        Constraint.json_schema(JSON["doubling2 type"]),
    ],
    ids=str,
)
def test_what_may_cost_much_is_tried_out_first(constraint, tokenizer):
    assert is_doubtful(grammar_of(constraint, tokenizer))


# --- counts in patterns


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("", 0, 0),
        ("^abc$", 3, 3),
        ("a{3}", 3, 3),
        ("a{2,5}b", 3, 6),
        ("a{2,}", 2, 2),
        ("(ab{3}){10}c?", 40, 41),
        ("((a{9}){9}){9}", 729, 729),
        (r"\p{L}{4}\{5}\x{41}{6}", 13, 13),  # the brace after a backslash is a sign
        (r"[a-z\]{9}]{7}", 7, 7),
        ("[[a][b]]{3}", 3, 3),
        ("(?x) (a{9}) {9}", 83, 83),  # what is between ( and ) counts, as "?x" does here
        ("a{9}){9}", 81, 81),
        ("(a{9", 3, 3),
        ("[a{9}", 10, 10),
        ("a*{3}", 0, 3),
    ],
)
def test_what_a_pattern_asks_for_is_counted_through_its_groups(pattern, least, most):
    assert counted_signs(pattern) == (least, most)


def test_a_pattern_that_asks_for_too_many_characters_is_refused():
    check_pattern("(a{100}){100}")
    with pytest.raises(ConstraintError, match="10,100 characters that a pattern asks for, and the limit is 10,000"):
        check_pattern("(a{100}){101}")


# --- anything at all


def fuzz(first, count):
    """Results over some random schemas, or the number of the one that killed the process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sda_engine.output.fuzz_grammars", str(first), str(count)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    said = done.stdout.splitlines()
    assert done.returncode == 0, f"schema {said[-1:]} ended the process with {done.returncode}: {done.stderr[-300:]}"
    results = json.loads(said[-1])
    assert results["slow"] == []
    return results


def assert_mixed(results, count):
    assert results["compiled"] + results["refused"] + results["doubtful"] == count
    assert results["compiled"] > count / 20
    assert results["refused"] > count / 20
    assert results["doubtful"] < count / 3


@pytest.mark.slow
def test_10_000_random_schemas_crash_nothing():
    count = size(10_000, 250)
    assert_mixed(fuzz(0, count), count)
