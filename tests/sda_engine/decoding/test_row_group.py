"""Guards at work in the rows of a request, by scripted logits and with the tiny models."""

import pytest
import torch

from sda_engine import Alignment, Constraint, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.decoding import row_group
from sda_engine.decoding.guards import MIN_LOOP
from sda_engine.decoding.row_group import DecodeSettings, RowGroup
from sda_engine.output import TokenConstraint
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import assert_alike
from tests.sda_engine.decoding.steps import advance

VOCAB = 320
A, B = 60, 61  # two tokens of text
KIND = Alignment(instruction="be kind", name="kind")
POLITE = Alignment(instruction="be polite", avoid="be rude", name="polite")
PHRASES = ("the fox and the dog and the fox", "what is in the library?", "a b c a b c a b")
LONG = 100


def make_group(tokenizer, guard, *, rows=(BASE, INSTRUCTED), temperature=0.0, strength=2.0, constraint=None):
    settings = DecodeSettings(
        rows=rows,
        strength=strength,
        avoid_strength=strength,
        steering=Steering(guard=guard),
        sampling=Sampling(temperature=temperature, seed=5, top_p=None),
        stop=(),
        max_new_tokens=1000,
        eos_token_ids=frozenset({2}),
        constraint=constraint,
    )
    return RowGroup(settings, tokenizer)


def logits_for(token, rows=2):
    """Rows that agree on what comes next."""
    logits = torch.zeros(rows, VOCAB)
    logits[:, token] = 5.0
    return logits


def decode(group, tokens, rows=2):
    for token in tokens:
        advance(group, logits_for(token, rows))
    return group.result("length")


def engine_on(model, proposals=0):
    model.generation_config.eos_token_id = []
    return SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(proposals=proposals, prefix_cache=False))


def strengths(trace):
    return [token.strength for token in trace.tokens]


def test_the_strength_is_halved_with_the_token_after_each_finding(tokenizer):
    done = decode(make_group(tokenizer, "relax"), [A] * (2 * MIN_LOOP + 6))
    assert [token.strength for token in done.tokens] == [2.0] * MIN_LOOP + [1.0] * MIN_LOOP + [0.5] * 6
    assert [(warning.place, warning.strength, warning.new_strength) for warning in done.warnings] == [
        (MIN_LOOP - 1, 2.0, 1.0),
        (2 * MIN_LOOP - 1, 1.0, 0.5),
    ]


def test_a_report_lowers_nothing(tokenizer):
    done = decode(make_group(tokenizer, "report"), [A] * (MIN_LOOP + 6))
    assert {token.strength for token in done.tokens} == {2.0}
    assert [(warning.place, warning.strength, warning.new_strength) for warning in done.warnings] == [
        (MIN_LOOP - 1, 2.0, None)
    ]


def test_without_a_guard_nobody_watches(tokenizer, monkeypatch):
    def refuse():
        raise AssertionError("a guard was made")

    monkeypatch.setattr(row_group, "Guard", refuse)
    done = decode(make_group(tokenizer, "off"), [A] * 100)
    assert done.warnings == ()
    assert {token.strength for token in done.tokens} == {2.0}


def test_the_lowered_strength_steers_the_next_token(tokenizer):
    # steered at s: B gains s * (2 - 0), A gains nothing; so B leads from strength 1 on
    base, instructed = torch.zeros(VOCAB), torch.zeros(VOCAB)
    base[A], instructed[A] = 13.0, 13.0
    base[B], instructed[B] = 8.0, 10.0
    group = make_group(tokenizer, "relax")
    chosen = [advance(group, [base, instructed]).token_id for _ in range(MIN_LOOP + 5)]
    assert chosen == [B] * MIN_LOOP + [A] * 5


def test_the_step_away_is_lowered_with_the_strength(tokenizer):
    base, avoided = torch.zeros(VOCAB), torch.zeros(VOCAB)
    base[A], avoided[A] = 13.0, 13.0
    base[B], avoided[B] = 10.0, 8.0
    group = make_group(tokenizer, "relax", rows=(BASE, AVOIDED))
    chosen = [advance(group, [base, avoided]).token_id for _ in range(MIN_LOOP + 5)]
    assert chosen == [B] * MIN_LOOP + [A] * 5


def test_where_nothing_is_steered_there_is_nothing_to_lower(tokenizer):
    done = decode(make_group(tokenizer, "relax", rows=(BASE,), strength=0.0), [A] * MIN_LOOP, rows=1)
    assert [warning.new_strength for warning in done.warnings] == [None]


class Pattern(TokenConstraint):
    """A run of forced tokens, then one that is free, over and over.

    Args:
        by_mask: whether forced tokens come one by one, as masks that leave one token.
        run: how many are forced at a time.
    """

    def __init__(self, by_mask, run):
        self.by_mask, self.run, self.place = by_mask, run, 0

    def copy(self):
        return Pattern(self.by_mask, self.run)

    @property
    def left(self):
        """Forced tokens before the next free one."""
        return self.run - self.place % (self.run + 1)

    complete = False

    def apply_mask(self, logits):
        if not self.left:
            return logits
        alone = torch.full_like(logits, float("-inf"))
        alone[:, A] = 0.0
        return alone

    def forced(self):
        return () if self.by_mask else (A,) * self.left

    def choose(self, token_id, remaining):
        return token_id

    def advance(self, token_id):
        self.place += 1


@pytest.mark.parametrize("by_mask", [False, True])
def test_what_a_grammar_forces_is_no_repetition(tokenizer, by_mask):
    group = make_group(tokenizer, "report", constraint=Pattern(by_mask, run=2 * MIN_LOOP))
    for token in range(70, 80):
        group.forced()
        for _ in range(2 * MIN_LOOP * by_mask):
            advance(group, logits_for(A))
        advance(group, logits_for(token))
    assert group.result("length").warnings == ()


@pytest.mark.parametrize("by_mask", [False, True])
def test_what_repeats_between_forced_tokens_is_repetition(tokenizer, by_mask):
    group = make_group(tokenizer, "report", constraint=Pattern(by_mask, run=1))
    for _ in range(MIN_LOOP):
        group.forced()
        if by_mask:
            advance(group, logits_for(A))
        advance(group, logits_for(B))
    (warning,) = group.result("length").warnings
    assert warning.place == 2 * MIN_LOOP - 1
    assert "repeat one token" in warning.detail


def test_a_json_answer_that_the_schema_dictates_is_no_repetition():
    item = {"type": "object", "properties": {"kind": {"const": "dog"}, "loud": {"const": True}}}
    item["required"] = ["kind", "loud"]
    schema = {"type": "array", "items": item, "minItems": 12, "maxItems": 12}
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        done = engine.generate(
            user(PHRASES[0]),
            KIND,
            steering=Steering(guard="report"),
            sampling=Sampling(temperature=0, max_new_tokens=900),
            output=Output(constraint=Constraint.json_schema(schema)),
        )
    assert done.text.count('"dog"') == 12
    assert done.trace.warnings == ()


@pytest.mark.parametrize(("seed", "phrase"), [(0, PHRASES[0]), (0, PHRASES[1]), (1, PHRASES[2])])
def test_the_loop_of_a_greedy_tiny_model_is_found_soon_after_it_begins(seed, phrase):
    with engine_on(tiny_model(architecture="gemma3", seed=seed)) as engine:
        done = engine.generate(
            user(phrase),
            KIND,
            steering=Steering(guard="report"),
            sampling=Sampling(temperature=0, max_new_tokens=400),
        )
    ids = done.token_ids
    loops = (
        (start + max(MIN_LOOP, 3 * period), period)
        for start in range(400 - 4 * 64)
        for period in range(1, 65)
        if ids[start : start + 3 * 64] == ids[start + period : start + period + 3 * 64]
    )
    complete, _ = min(loops)
    assert done.trace.warnings[0].kind == "repetition"
    assert done.trace.warnings[0].place < complete


SAMPLINGS = [Sampling(temperature=0, max_new_tokens=LONG), Sampling(temperature=0.3, seed=3, max_new_tokens=LONG)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded"])
@pytest.mark.parametrize("alignment", [None, KIND, POLITE], ids=["plain", "kind", "polite"])
def test_a_report_changes_no_token(sampling, alignment):
    steering = Steering(gain=4.0, amplification=1.0).fitting(alignment)
    with engine_on(tiny_model(architecture="gemma3")) as engine:
        answers = [
            engine.generate(user(PHRASES[0]), alignment, steering=steering.replace(guard=guard), sampling=sampling)
            for guard in ("off", "report")
        ]
    off, report = answers
    assert report.token_ids == off.token_ids
    assert_alike(report.trace.tokens, off.trace.tokens)
    assert off.trace.warnings == ()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded"])
@pytest.mark.parametrize("phrase", PHRASES)
def test_relaxing_changes_nothing_up_to_the_first_finding_and_only_lowers_the_strength_after_it(sampling, phrase):
    steering = Steering(gain=4.0, amplification=1.0)
    with engine_on(tiny_model(architecture="gemma3")) as engine:
        report, relax = (
            engine.generate(user(phrase), KIND, steering=steering.replace(guard=guard), sampling=sampling)
            for guard in ("report", "relax")
        )
    places = [warning.place for warning in relax.trace.warnings]
    first = places[0] if places else LONG
    assert [warning.place for warning in report.trace.warnings][:1] == places[:1]
    assert relax.token_ids[: first + 1] == report.token_ids[: first + 1]
    halvings = [sum(seen < place for seen in places) for place in range(len(relax.token_ids))]
    assert strengths(relax.trace) == [4.0 / 2**times for times in halvings]
    assert set(strengths(report.trace)) == {4.0}
    assert relax.trace.strength == 4.0


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded"])
@pytest.mark.parametrize("phrase", PHRASES)
def test_proposals_change_nothing_about_what_a_guard_does(sampling, phrase):
    answers = []
    for proposals in (0, 8):
        with engine_on(tiny_model(architecture="gemma3"), proposals) as engine:
            steering = Steering(gain=2.0, amplification=1.0, guard="relax")
            answers.append(engine.generate(user(phrase), KIND, steering=steering, sampling=sampling))
    alone, proposed = answers
    assert proposed.token_ids == alone.token_ids
    assert strengths(proposed.trace) == strengths(alone.trace)
    assert [warning.place for warning in proposed.trace.warnings] == [warning.place for warning in alone.trace.warnings]


def test_the_guard_of_one_request_leaves_others_alone():
    sampling = Sampling(temperature=0, max_new_tokens=LONG)
    with engine_on(tiny_model(architecture="gemma3")) as engine:
        first = engine.generate(user(PHRASES[0]), KIND, steering=Steering(guard="relax"), sampling=sampling)
        second = engine.generate(user(PHRASES[0]), KIND, steering=Steering(guard="relax"), sampling=sampling)
    assert_alike(first.trace.tokens, second.trace.tokens)
    assert first.trace.warnings == second.trace.warnings
