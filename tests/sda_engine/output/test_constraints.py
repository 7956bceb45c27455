import json
import random
import re

import jsonschema
import llguidance.hf
import pytest
import torch
from llguidance import LLMatcher
from pydantic import BaseModel

from sda_engine import Alignment, Constraint, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.decoding.decode_task import DecodeTask
from sda_engine.errors import ConstraintError
from sda_engine.output import ConstraintCompiler, TokenConstraint
from sda_engine.output.constraints import JSON_STYLE
from sda_engine.prompts import make_contexts
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB
from tests.oracles import js_divergence64
from tests.sizes import size

EOS = 2
KIND = Alignment(instruction="be kind")
GREEDY = Sampling(temperature=0, max_new_tokens=400)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "the fox"]}, "maxItems": 3},
        "home": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/place"}]},
    },
    "required": ["name", "age", "tags", "home"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"at": {"const": "library"}},
            "required": ["at"],
            "additionalProperties": False,
        }
    },
}


class Book(BaseModel):
    title: str
    pages: int


def ask(engine, constraint, sampling=GREEDY, alignment="honesty", **kwargs):
    return engine.generate(user("x"), alignment, sampling=sampling, output=Output(constraint=constraint), **kwargs)


def json_answer(engine, schema, sampling=GREEDY, alignment="honesty", **kwargs):
    done = ask(engine, Constraint.json_schema(schema), sampling, alignment, **kwargs)
    return done, (json.loads(done.text) if done.finish_reason == "stop" else None)


def sampled(seed, max_new_tokens=100, **kwargs):
    return Sampling(temperature=1.0, top_p=None, max_new_tokens=max_new_tokens, seed=seed, **kwargs)


# --- what fits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "schema",
    [PERSON, {"type": "integer"}, {"enum": ["the", 7, None, ["a"]]}, {"type": "array", "items": {"type": "boolean"}}],
    ids=["object", "integer", "enum", "array"],
)
def test_an_answer_under_a_schema_is_json_that_fits_it(engine, schema, seed):
    done, value = json_answer(engine, schema, sampled(seed))
    assert done.finish_reason == "stop"
    jsonschema.validate(value, schema)


@pytest.mark.parametrize("seed", range(5))
def test_a_pydantic_model_is_a_schema_of_its_own(engine, seed):
    done = ask(engine, Constraint.json_schema(Book), sampled(seed))
    assert isinstance(Book.model_validate_json(done.text), Book)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pattern", [r"[a-c]{3}-[0-9]{2}", "(yes|no) / (maybe|never)", r"a\nb\\c[\"/]"])
def test_a_regular_expression_matches_the_whole_answer(engine, pattern, seed):
    done = ask(engine, Constraint.regex(pattern), sampled(seed))
    assert done.finish_reason == "stop"
    assert re.fullmatch(pattern, done.text)


@pytest.mark.parametrize("seed", range(5))
def test_a_lark_grammar_derives_the_whole_answer(engine, seed):
    grammar = 'start: "(" inner ")"\ninner: start | /[xy]/'
    done = ask(engine, Constraint.lark(grammar), sampled(seed, 300))
    depth = done.text.count("(")
    assert done.finish_reason == "stop"
    assert done.text in ("(" * depth + letter + ")" * depth for letter in "xy")


# --- closed objects


def test_objects_are_closed_against_invented_keys_unless_the_schema_says_otherwise():
    inner = {"type": "object", "properties": {"b": {"type": "integer"}}, "additionalProperties": True}
    given = {"type": "object", "properties": {"a": inner, "free": {"type": "object"}}}
    closed = json.loads(Constraint.json_schema(given).source)
    assert closed == {**given, "additionalProperties": False}
    assert "additionalProperties" not in given


@pytest.mark.parametrize("invents", [False, True])
def test_a_model_invents_keys_only_where_it_may(engine, invents):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}} | (
        {"additionalProperties": {"type": "boolean"}} if invents else {}
    )
    answers = [json_answer(engine, schema, sampled(seed, 40))[1] for seed in range(8)]
    keys = {key for answer in answers if answer is not None for key in answer}
    assert bool(keys - {"a"}) == invents


@pytest.mark.parametrize(
    "schema",
    [
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {"const": 2}}, "required": ["b"]},
            ]
        },
        {
            "$ref": "#/$defs/a",
            "properties": {"b": {"const": 2}},
            "required": ["b"],
            "$defs": {"a": {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}},
        },
        {
            "type": "object",
            "properties": {"b": {"const": 2}},
            "required": ["b"],
            "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}],
        },
    ],
    ids=["allOf", "$ref beside properties", "anyOf beside properties"],
)
def test_closing_objects_does_not_make_parts_that_hold_together_exclude_each_other(engine, schema):
    _, value = json_answer(engine, schema)
    jsonschema.validate(value, schema)
    assert (value["a"], value["b"]) == (1, 2)


@pytest.mark.parametrize("name", ["properties", "default", "enum", "const", "allOf", "type", "additionalProperties"])
def test_a_property_named_like_a_keyword_is_closed_like_any_other(name):
    inner = {"type": "object", "properties": {"b": {"type": "integer"}}}
    given = {"type": "object", "properties": {name: inner}, "required": [name]}
    closed = {**inner, "additionalProperties": False}
    expected = {**given, "properties": {name: closed}, "additionalProperties": False}
    assert json.loads(Constraint.json_schema(given).source) == expected


# --- what cannot be enforced


@pytest.mark.parametrize("method", ["generate", "stream"])
@pytest.mark.parametrize(
    ("constraint", "named"),
    [
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"if": {"type": "string"}, "then": {"const": "a"}}, '"if"'),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"$ref": "https://example.org/other.json"}, "https://example.org/other.json"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "nonsense"}, "format: nonsense"),
        ({"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}, '"not"'),
        ({"type": "integer", "const": "a"}, "Unsatisfiable"),
        (Constraint.regex("(?!a)b"), "look-around"),
        (Constraint.regex("(a"), "unclosed group"),
        (Constraint.lark("start: missing"), "missing"),
        (Constraint.lark("begin: /a/"), "start"),
    ],
)
def test_what_cannot_be_enforced_is_refused_at_once_by_its_name_where_it_is_strict(engine, method, constraint, named):
    constraint = constraint if isinstance(constraint, Constraint) else Constraint.json_schema(constraint)
    with pytest.raises(ConstraintError, match="cannot be enforced") as raised:
        getattr(engine, method)(user("x"), "honesty", output=Output(constraint=constraint, strict=True))
    assert named in str(raised.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint.json_schema([]),
        lambda: Constraint.json_schema({"const": "\ud800"}),
        lambda: Constraint.regex(7),
        lambda: Constraint.regex("\ud800"),
        lambda: Constraint.lark(None),
        lambda: Constraint.lark('start: "\ud800"'),
        lambda: Constraint.lark("start: /a/\n" + "a: /b/\n" * 2_000),
        lambda: Constraint.lark("start: /a/ //" + "x" * 65_536),
    ],
)
def test_what_is_no_description_of_an_answer_is_a_constraint_error(engine, make):
    with pytest.raises(ConstraintError):
        ask(engine, make(), sampled(0, 5))


def test_a_request_whose_constraint_fails_in_the_middle_leaves_the_engine_usable(engine, monkeypatch):
    expected = ask(engine, Constraint.json_schema(PERSON)).text

    def fail(constraint, token_id):
        raise ConstraintError("too complex")

    with monkeypatch.context() as patched:
        patched.setattr(TokenConstraint, "advance", fail)
        with pytest.raises(ConstraintError, match="too complex"):
            ask(engine, Constraint.json_schema(PERSON))
    with pytest.raises(ConstraintError):
        json_answer(engine, {"not": {}})
    assert ask(engine, Constraint.json_schema(PERSON)).text == expected


# --- compiled grammars


def test_the_compiler_keeps_a_bounded_number_of_grammars_and_still_compiles_forgotten_ones(tokenizer):
    compiler = ConstraintCompiler(tokenizer, 320, frozenset({EOS}))
    grammars = [
        Output(constraint=Constraint.json_schema({"const": number})).grammar(tokenizer.answer_format)
        for number in range(300)
    ]
    for grammar in grammars:
        compiler.compile(grammar)
        assert len(compiler._compiled) <= 128
    forgotten, kept = compiler.compile(grammars[0]), compiler.compile(grammars[-1])
    assert tokenizer.decode(forgotten.forced()) == "0"
    assert tokenizer.decode(kept.forced()) == "299"


def test_answers_of_one_grammar_do_not_share_their_state(tokenizer):
    compiler = ConstraintCompiler(tokenizer, 320, frozenset({EOS}))
    grammar = Output(constraint=Constraint.json_schema({"const": "ab"})).grammar(tokenizer.answer_format)
    one, other = compiler.compile(grammar), compiler.compile(grammar)
    for token_id in one.forced():
        one.advance(token_id)
    assert one.complete
    assert not other.complete
    assert tokenizer.decode(other.forced()) == '"ab"'


# --- the budget


@pytest.mark.parametrize(
    ("schema", "shortest"),
    [
        ({"type": "string"}, '""'),
        ({"type": "array", "items": {"type": "string"}}, "[]"),
        ({"type": "object"}, "{}"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
            '{"a": "", "b": 1}',
        ),
        ({"type": "string", "minLength": 6}, '"======"'),
        ({"type": "string", "pattern": "^(abc)*$"}, '""'),
        ({"type": "string", "pattern": "^(...)*$"}, '""'),
        ({"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}, "[]"),
    ],
    ids=["text", "texts", "object", "text and integer", "minLength", "pattern", "free pattern", "nested arrays"],
)
def test_json_is_closed_within_every_budget_that_can_hold_it(engine, schema, shortest):
    fits_in = len(engine.encode(shortest))
    unclosed = []
    for budget in range(fits_in - 1, size(28, 20)):
        sampling = Sampling(temperature=budget % 2, max_new_tokens=budget, seed=budget)
        done, value = json_answer(engine, schema, sampling)
        assert len(done.token_ids) <= budget
        if budget < fits_in:
            assert done.finish_reason == "length"
        elif done.finish_reason != "stop":
            unclosed.append((budget, done.text))
        else:
            jsonschema.validate(value, schema)
    assert unclosed == []


def test_a_budget_that_cannot_hold_the_answer_ends_it_with_length(engine):
    done = ask(engine, Constraint.json_schema({"const": "a long text"}), GREEDY.replace(max_new_tokens=4))
    assert (done.finish_reason, len(done.token_ids)) == ("length", 4)
    assert '"a long text"'.startswith(done.text)


def random_schema(rng, depth=0):
    kinds = ["string", "integer", "boolean", "null", "enum", "const", "$ref"]
    kind = rng.choice(kinds if depth >= 2 else [*kinds, "object", "object", "array", "anyOf"])
    low = rng.randint(-50, 50)
    keys = rng.sample(["k", "the", "öl"], rng.randint(0, 2)) if kind == "object" else []
    return {
        "string": lambda: {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 5)},
        "integer": lambda: {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 200)},
        "boolean": lambda: {"type": "boolean"},
        "null": lambda: {"type": "null"},
        "enum": lambda: {"enum": rng.sample(["a", 'q"\\', "ü", 5, -1.5, None, True, [1], {"x": "y"}], 3)},
        "const": lambda: {"const": rng.choice(["fox", 3, [], {"a": [None]}, "\n\u2028"])},
        "$ref": lambda: {"$ref": rng.choice(["#/$defs/leaf", "#/$defs/pair"])},
        "object": lambda: {
            "type": "object",
            "properties": {key: random_schema(rng, depth + 1) for key in keys},
            "required": keys[: rng.randint(0, 2)],
        },
        "array": lambda: {
            "type": "array",
            "items": random_schema(rng, depth + 1),
            "minItems": rng.randint(0, 1),
            "maxItems": rng.randint(1, 3),
        },
        "anyOf": lambda: {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]},
    }[kind]()


def test_a_thousand_answers_to_random_schemas_all_fit(engine):
    rng = random.Random(22)  # noqa: S311
    definitions = {
        "leaf": {"enum": ["leaf", 0]},
        "pair": {"type": "object", "properties": {"p": {"type": "boolean"}}, "required": ["p"]},
    }
    unclosed, unfit = [], []
    for seed in range(size(1_000, 100)):
        schema = {**random_schema(rng), "$defs": definitions}
        done = ask(engine, Constraint.json_schema(schema), sampled(seed), alignment=None)
        if done.finish_reason != "stop":
            unclosed.append((seed, schema, done.text))
        elif not jsonschema.Draft202012Validator(schema).is_valid(json.loads(done.text)):
            unfit.append((seed, schema, done.text))
    assert (unclosed, unfit) == ([], [])


# --- steering under a constraint


@torch.inference_mode()
def masked_loop(engine, schema, strength, max_new_tokens):
    """Greedy steering under a mask as plain transformers forwards over whole contexts: tokens, divergences, steps."""
    output = Output(constraint=Constraint.json_schema(schema))
    contexts = make_contexts(user("x"), KIND, engine._tokenizer, output=output)
    prompts = [list(contexts.shared + contexts.tails[row]) for row in ("base", "instructed")]
    vocabulary = llguidance.hf.from_tokenizer(engine.tokenizer, n_vocab=320, eos_token=[EOS])
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_json_schema(schema, overrides=dict(JSON_STYLE)))
    tokens, divergences, steps = [], [], 0
    while len(tokens) < max_new_tokens and not matcher.is_stopped():
        forced = matcher.compute_ff_tokens()
        if not forced:
            steps += 1
            bits = [byte >> bit & 1 for byte in matcher.compute_bitmask() for bit in range(8)]
            allowed = torch.tensor(bits[:320], dtype=torch.bool)
            base, instructed = (
                engine.model(torch.tensor([prompt + tokens])).logits[0, -1].double().masked_fill(~allowed, -torch.inf)
                for prompt in prompts
            )
            divergences.append(float(js_divergence64(base.numpy(), instructed.numpy())))
            base, instructed = base.log_softmax(-1), instructed.log_softmax(-1)
            steered = (instructed + strength * (instructed - base)).nan_to_num(-torch.inf)
            forced = [int(steered.argmax())]
        else:
            divergences += [0.0] * len(forced)
        tokens += forced
        if tokens[-1] == EOS:
            break
        assert matcher.consume_tokens(forced)
    return tokens, divergences, steps


@pytest.mark.parametrize("strength", [0.0, 1.3])
@pytest.mark.parametrize(
    "schema",
    [
        PERSON,
        {"type": "integer"},
        {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 2, "maxItems": 4},
        {"enum": ["the quick fox", "the lazy dog", 12, True, None]},
    ],
    ids=["object", "integer", "array", "enum"],
)
def test_tokens_and_divergence_are_those_of_a_plain_loop_that_masks_both_contexts(engine, schema, strength):
    expected, divergences, _ = masked_loop(engine, schema, strength, 400)
    steering = Steering(gain=strength, amplification=1.0)
    done = ask(engine, Constraint.json_schema(schema), GREEDY, KIND, steering=steering)
    assert list(done.token_ids) == expected
    assert done.trace.divergence == pytest.approx(divergences, abs=LOGPROB)
    assert max(divergences) > 0


def test_a_trace_shows_only_tokens_that_the_constraint_allows_in_any_row(engine):
    done = ask(engine, Constraint.json_schema({"type": "string", "pattern": "^[ab]{9}$"}), GREEDY)
    shown = [c.text for token in done.trace.tokens for c in (*token.base, *token.instructed, *token.steered)]
    assert set(shown) == {"a", "b", '"'}


@pytest.fixture
def decodes(monkeypatch):
    """How many rows go through each forward pass after the prompt."""
    seen, plan = [], DecodeTask._plan

    def record(task, limits):
        segments = plan(task, limits)
        seen.append(len(segments))
        return segments

    monkeypatch.setattr(DecodeTask, "_plan", record)
    return seen


def test_an_answer_without_a_choice_makes_no_forward_pass_and_does_not_diverge(engine, decodes):
    done, value = json_answer(engine, {"const": {"a": ["the fox", 12]}}, GREEDY.replace(logprobs=2))
    assert value == {"a": ["the fox", 12]}
    assert decodes == []
    assert set(done.trace.divergence) == {0.0}
    assert {entry.chosen.logprob for entry in done.logprobs} == {0.0}
    assert done.usage.completion_tokens == len(done.token_ids) == len(done.trace.tokens) == len(done.logprobs)


def test_forced_tokens_share_the_forward_pass_of_the_choice_before_them(decodes):
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(proposals=0)) as engine:
        tokens, _, choices = masked_loop(engine, PERSON, 0.0, 400)
        done, _ = json_answer(engine, PERSON, GREEDY, KIND, steering=Steering(amplification=0.0))
    assert list(done.token_ids) == tokens
    assert len(decodes) == choices < 0.7 * len(tokens)
    assert set(decodes) == {2}


def test_strength_0_gives_the_instructed_context_under_the_same_mask(engine):
    sampling = GREEDY.replace(logprobs=3)
    constraint = Constraint.json_schema(PERSON)
    steering = Steering(amplification=0.0)
    steered = ask(engine, constraint, sampling, KIND, steering=steering)
    plain = engine.generate(user("x\nbe kind"), sampling=sampling, output=Output(constraint=constraint))
    assert steered.token_ids == plain.token_ids
    chosen = [[entry.chosen.logprob for entry in done.logprobs] for done in (steered, plain)]
    assert chosen[0] == pytest.approx(chosen[1], abs=LOGPROB)


def test_the_same_seed_gives_the_same_answer_and_another_seed_another_one(engine):
    constraint = Constraint.json_schema(PERSON)
    answers = [ask(engine, constraint, sampled(seed)).text for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_a_stream_under_a_constraint_joins_to_its_completion(engine):
    output = Output(constraint=Constraint.json_schema(PERSON))
    pieces = list(engine.stream(user("x"), "honesty", output=output, sampling=sampled(4)))
    done = pieces[-1].completion
    assert "".join(piece.text for piece in pieces) == done.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == done.token_ids
