"""The policies "budget" and "revise" through the engine: their exact meanings, and what is chosen and told."""

import asyncio
import re
import threading
import time

import pytest

from sda_engine import Alignment, Constraint, Output, Sampling, Steering, SteeringEngine
from sda_engine.alignment import resolve_alignment
from sda_engine.choosing import FREE_REVISIONS, REVISIONS, KeepCheck, Revision
from sda_engine.decoding import DecodedText
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import ConfigError, EngineClosedError, EvaluationError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore
from sda_engine.prompts import draft_messages
from sda_engine.request_settings import RequestSettings
from sda_engine.revising import revisions_of
from sda_engine.steering import sigmoid_amplification
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator, call_text, tiny_engine, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB, SCORE, assert_alike
from tests.sda_engine.decoding.company import check_nothing_is_left

pytestmark = pytest.mark.default_policy

QUESTION = user("what is in the library?")
GREEDY = Sampling(temperature=0, max_new_tokens=12)
SAMPLED = Sampling(temperature=0.8, max_new_tokens=12, seed=5)
ALIGNMENTS = (
    "be kind",
    Alignment(avoid="rude text"),
    Alignment(instruction="be kind", avoid="rude text"),
    Alignment.combine({"be kind": 1.0, "answer as a poet": 0.5}, avoid="rude text"),
)
SOME = (
    Revision(factor=0.5, sees="answer"),
    Revision(factor=3, budget=2),
    Revision(factor=3, budget=0, reserve=4),
)
GOES_ON = Revision(budget=0, reserve=None, goes_on=True)
ANY = Steering(policy="revise", revisions=SOME, keep="nothing")


def budget_of(**settings):
    return Steering(policy="budget", amplification=1.0, **{"reserve": 0.0, "quiet_divergence": 0.0, **settings})


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
class TestBudget:
    def test_nothing_to_spend_gives_the_plain_answer(self, engine, alignment, sampling):
        plain = engine.generate(QUESTION, sampling=sampling)
        done = engine.generate(QUESTION, alignment, steering=budget_of(budget=0.0), sampling=sampling)
        assert done.token_ids == plain.token_ids
        assert {token.position for token in done.trace.tokens} == {0.0}
        assert done.trace.temperature == plain.trace.temperature

    def test_enough_to_spend_gives_the_published_formulas(self, engine, alignment, sampling):
        paper = Steering(policy="paper", amplification=1.0)
        paper = engine.generate(QUESTION, alignment, steering=paper, sampling=sampling)
        done = engine.generate(QUESTION, alignment, steering=budget_of(budget=1e9), sampling=sampling)
        assert done.token_ids == paper.token_ids
        assert {token.position for token in done.trace.tokens} == {1.0}
        assert {token.position for token in paper.trace.tokens} == {None}

    def test_no_more_is_spent_than_there_is_and_then_the_base_context_is_alone(self, engine, alignment, sampling):
        done = engine.generate(QUESTION, alignment, steering=budget_of(budget=0.3), sampling=sampling)
        spent = [token.spent for token in done.trace.tokens]
        assert 0 < sum(spent) <= 0.3 + 1e-4
        assert spent[0] > 0
        assert done.trace.tokens[-1].position == pytest.approx(0, abs=1e-3)


def test_a_reserve_lets_the_plain_answer_go_on_where_it_would_end(engine):
    for seed in range(20):  # half of them come to an end
        sampling = Sampling(temperature=1.0, max_new_tokens=200, seed=seed)
        plain = engine.generate(QUESTION, sampling=sampling)
        if plain.finish_reason == "stop":
            break
    steering = budget_of(budget=0.0, reserve=30.0, gain=8.0)
    done = engine.generate(QUESTION, "be kind", steering=steering, sampling=sampling)
    before = len(plain.token_ids) - 1
    assert done.token_ids[:before] == plain.token_ids[:before]
    assert [token.spent for token in done.trace.tokens[:before]] == [0.0] * before
    assert done.trace.tokens[before].spent > 0


def test_a_revision_that_has_to_go_on_says_what_comes_without_steering_and_more(engine):
    steering = Steering(policy="revise", revisions=(Revision(budget=0), GOES_ON), keep="nothing")
    longer = 0
    for seed in range(12):  # some base contexts come to an end by themselves
        sampling = Sampling(temperature=1.0, max_new_tokens=100, seed=seed)
        plain, more = engine.generate(QUESTION, "be kind", steering=steering, sampling=sampling).attempts
        assert more.text.startswith(plain.text.rstrip("\ufffd"))
        longer += len(more.text) > len(plain.text)
    assert longer


def test_the_form_of_an_answer_decides_where_a_revision_ends(engine):
    form = Output(constraint=Constraint.regex("[a-c]{1,3}"))
    steering = Steering(policy="revise", revisions=(GOES_ON,), keep="nothing")
    done = engine.generate(QUESTION, "be kind", steering=steering, output=form, sampling=GREEDY)
    assert re.fullmatch("[a-c]{1,3}", done.attempts[0].text)


def test_a_revision_sees_the_chat_or_the_base_response_alone():
    chat = [{"role": "user", "content": "a secret"}]
    assert [turn["content"] for turn in draft_messages(chat, "b")][:2] == ["a secret", "b"]
    (alone,) = draft_messages(chat, "b", "answer")
    assert "secret" not in alone["content"]
    assert alone["content"].endswith("\n\nb")
    assert draft_messages(chat, "b", "question") == chat


@pytest.mark.parametrize(
    ("text", "values", "revisions"),
    [
        ("It is 43.", ["43"], REVISIONS),
        ("A poem.", [], FREE_REVISIONS),
        ("43 43 43", ["43"], FREE_REVISIONS),  # it repeats itself: no example
        (" ", [], FREE_REVISIONS[:2]),  # nothing to rewrite
    ],
)
def test_how_a_base_response_is_revised_depends_on_what_must_stay_of_it(text, values, revisions):
    ids = (1, 2) * 40 if text == "43 43 43" else (1, 2, 3)
    base = DecodedText(text, ids, "stop", (), ())
    assert revisions_of(RequestSettings(resolve_alignment("be kind")), base, values) == list(revisions)
    own = RequestSettings(steering=Steering(policy="revise", revisions=SOME))
    assert revisions_of(own, base, values) == ([] if text == " " else list(SOME))


@pytest.mark.parametrize(("margin", "is_out"), [(-1e9, True), (1e9, False)])
def test_what_the_plain_chat_makes_too_unlikely_is_out_where_nothing_must_stay(engine, monkeypatch, margin, is_out):
    monkeypatch.setattr("sda_engine.revising._UNLIKELY", margin)
    free = Steering(policy="revise", revisions=FREE_REVISIONS)
    attempts = engine.generate(QUESTION, "be kind", steering=free, sampling=GREEDY).attempts
    assert [attempt.lost is not None and "unlikely" in attempt.lost for attempt in attempts] == [is_out] * 3
    attempts = engine.generate(QUESTION, "be kind", steering=free.replace(keep="nothing"), sampling=GREEDY).attempts
    assert not any("unlikely" in (attempt.lost or "") for attempt in attempts)


def test_a_revision_that_recites_the_instruction_is_out(engine, monkeypatch):
    asked = []
    monkeypatch.setattr("sda_engine.revising.recites", lambda *texts: not asked.append(texts))
    done = engine.generate(QUESTION, "be kind", steering=ANY, sampling=SAMPLED)
    assert done.text == done.base_response
    assert {attempt.lost for attempt in done.attempts} <= {"it recites the instruction", "it did not come to an end"}
    assert asked[0] == (done.attempts[0].text, "be kind", done.base_response)


def test_a_revision_may_recite_no_part_of_a_combined_alignment(engine, monkeypatch):
    monkeypatch.setattr("sda_engine.revising.recites", lambda answer, instruction, base: instruction == "be brief")
    for second, lost in (("be brief", True), ("be bold", False)):
        done = engine.generate(QUESTION, {"be kind": 1, second: 1}, steering=ANY, sampling=SAMPLED)
        assert any(attempt.lost == "it recites the instruction" for attempt in done.attempts) is lost


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("revisions", [SOME, FREE_REVISIONS], ids=["some", "free"])
def test_each_revision_is_what_the_policy_budget_answers_to_the_draft(engine, alignment, sampling, revisions):
    base = engine.generate(QUESTION, sampling=sampling)
    done = engine.generate(QUESTION, alignment, steering=ANY.replace(revisions=revisions), sampling=sampling)
    assert done.base_response in (None, base.text)
    for attempt, revision in zip(done.attempts, revisions, strict=True):
        steering = Steering(
            policy="budget",
            gain=2.0 * revision.factor,
            budget=1e9 if revision.budget is None else revision.budget,
            reserve=revision.reserve,
            quiet_divergence=0.0,
        )
        draft = draft_messages(QUESTION, base.text, revision.sees)
        alone = engine.generate(draft, alignment, steering=steering, sampling=sampling)
        assert alone.text.startswith(attempt.text)
        assert attempt.strength == pytest.approx(alone.trace.strength)


class TestChoice:
    def test_the_best_by_the_chooser_is_the_answer(self, engine):
        chooser = ScriptedEvaluator([30, 90, 40, 20])  # three revisions, and the base response at last
        steering = Steering(policy="revise", revisions=SOME, keep="nothing", chooser=chooser)
        done = engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        rated = [attempt for attempt in done.attempts if attempt.lost is None]
        assert [request.response for request in chooser.requests] == [
            *(attempt.text for attempt in rated),
            done.base_response,
        ]
        best = max(rated, key=lambda attempt: attempt.score)
        assert (best.chosen, best.chooser) == (True, chooser.name)
        assert (done.text, done.trace.strength) == (best.text, best.strength)
        assert sum(attempt.chosen for attempt in done.attempts) == 1

    def test_a_base_response_that_no_revision_beats_stands(self, engine):
        chooser = ScriptedEvaluator([30, 40, 50, 95])
        steering = Steering(policy="revise", revisions=SOME, keep="nothing", chooser=chooser)
        done = engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        assert done.text == done.base_response
        assert not any(attempt.chosen for attempt in done.attempts)
        assert (done.amplification, done.trace.strength, done.usage.base_response_tokens) == (None, 0.0, 0)

    def test_a_chooser_that_has_rated_the_base_response_is_not_asked_again(self, engine):
        judge = ScriptedEvaluator([95, 30, 40, 50])
        steering = Steering(policy="revise", revisions=SOME, keep="nothing", evaluator=judge, chooser=judge)
        done = engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        assert done.text == done.base_response
        assert len(judge.requests) == 1 + sum(attempt.lost is None for attempt in done.attempts)

    def test_an_evaluator_sets_the_strength_and_is_asked_once(self, engine):
        judge = ScriptedEvaluator([20])
        steering = Steering(policy="revise", revisions=SOME, keep="nothing", evaluator=judge)
        done = engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        assert len(judge.requests) == 1
        strength = 2 * sigmoid_amplification(20)
        assert [attempt.strength for attempt in done.attempts] == pytest.approx(
            [0.5 * strength, 3 * strength, 3 * strength]
        )

    def test_revisions_that_a_rule_refuses_are_not_even_rated(self, engine):
        checks: list[KeepCheck] = []

        def never(check):
            checks.append(check)
            return False

        steering = Steering(policy="revise", revisions=SOME, keep=never)
        done = engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        assert done.text == done.base_response == engine.generate(QUESTION, sampling=SAMPLED).text
        assert checks
        assert {check.base_response for check in checks} == {done.base_response}
        assert all(attempt.lost and attempt.score is None for attempt in done.attempts)

    def test_an_accepted_base_response_is_not_revised(self, engine):
        steering = Steering(policy="revise", evaluator=ScriptedEvaluator([95]), accept_score=90)
        done = engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        assert (done.attempts, done.score.value) == ((), 95)

    @pytest.mark.parametrize("place", [0, 1])
    def test_a_failure_of_the_chooser_is_an_error_or_leaves_it_to_the_contrastive_score(self, engine, place):
        script = [30, 40, 50, 60]
        script[place] = ValueError("no judge")
        steering = Steering(policy="revise", revisions=SOME, keep="nothing", chooser=ScriptedEvaluator(script))
        with pytest.raises(EvaluationError, match="no judge") as raised:
            engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        assert raised.value.base_response
        going_on = steering.replace(chooser=ScriptedEvaluator(script), on_evaluator_error="fixed")
        done = engine.generate(QUESTION, "be kind", steering=going_on, sampling=SAMPLED)
        rated = [attempt for attempt in done.attempts if attempt.score is not None]
        assert {attempt.chooser for attempt in rated} == {ContrastiveEvaluator().name}

    def test_a_fixed_amplification_needs_no_evaluator(self, engine):
        steering = Steering(policy="revise", revisions=SOME, keep="nothing", amplification=0.8)
        done = engine.generate(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
        assert [attempt.strength for attempt in done.attempts] == pytest.approx([0.8, 4.8, 4.8])


async def test_all_forms_give_the_same_in_one_piece(engine):
    done = engine.generate(QUESTION, "be kind", steering=ANY, sampling=SAMPLED)
    pieces = list(engine.stream(QUESTION, "be kind", steering=ANY, sampling=SAMPLED))
    apieces = [piece async for piece in engine.astream(QUESTION, "be kind", steering=ANY, sampling=SAMPLED)]
    for whole in (pieces, apieces):
        assert [piece.text for piece in whole] == [done.text]
        assert_alike(whole[0].completion.attempts, done.attempts, tolerance=SCORE)
        assert whole[0].completion.token_ids == done.token_ids


def test_what_was_decoded_is_counted_and_nothing_is_left():
    settings = EngineSettings(cache_tokens=4000)
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=settings) as engine:
        done = engine.generate(QUESTION, "be kind", steering=ANY, sampling=SAMPLED)
        usage = done.usage
        assert usage.dropped_tokens > 0
        assert usage.total_tokens == sum(
            (usage.prompt_tokens, usage.completion_tokens, usage.base_response_tokens, usage.dropped_tokens)
        )
        assert done.sda_metadata()["attempts"][0].keys() >= {"text", "strength", "lost", "score", "chosen"}
        check_nothing_is_left(engine)


def test_a_chat_that_leaves_no_room_for_a_draft_keeps_its_base_response():
    with tiny_engine(context_window=96) as engine:
        done = engine.generate(QUESTION, "be kind", steering=ANY, sampling=Sampling(temperature=0, max_new_tokens=500))
        assert done.attempts == ()
        assert done.text


def test_an_engine_without_memory_for_all_revisions_keeps_the_base_response():
    settings = EngineSettings(cache_tokens=200)
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=settings) as engine:
        done = engine.generate(QUESTION, "be kind", steering=ANY, sampling=GREEDY)
    assert (done.attempts, done.text != "") == ((), True)


def test_an_answer_that_may_call_tools_is_decoded_once():
    tools = Output(tools=[{"name": "add", "parameters": {"type": "object", "properties": {}}}])
    with ScriptedEngine([call_text("add", {})]) as engine:
        done = engine.generate(QUESTION, "be kind", steering=ANY, output=tools)
    assert done.tool_calls
    assert done.attempts == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"policy": "paper", "budget": 3.0},
            r"Steering.budget=3.0 would change nothing: policy='paper' .* Set policy='budget'",
        ),
        ({"policy": "revise", "reserve": 3.0}, "Set policy='budget'"),
        ({"policy": "budget", "keep": "nothing"}, "Set policy='revise'"),
        ({"policy": "budget", "chooser": ScriptedEvaluator([50])}, "Set policy='revise'"),
        ({"policy": "revise", "chooser": FixedScore(50)}, "chooser cannot be .*: it must be an evaluator that needs"),
        ({"policy": "revise", "keep": "all"}, "keep cannot be 'all'.*values, nothing"),
        ({"policy": "revise", "revisions": ()}, "at least one"),
        ({"policy": "best"}, "'paper', 'budget' or 'revise'"),
    ],
)
def test_settings_that_another_policy_looks_at_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Steering(**settings)


def test_replacing_the_policy_drops_what_the_old_one_looked_at():
    steering = Steering(policy="revise", keep="nothing", gain=1.0).replace(policy="budget", budget=3.0)
    assert steering.given() == {"policy": "budget", "gain": 1.0, "budget": 3.0}


async def test_the_default_revises_whole_answers_and_spends_a_budget_in_streams(engine):
    whole = [engine.generate(QUESTION, "be kind", sampling=GREEDY)]
    whole.append(await engine.agenerate(QUESTION, "be kind", sampling=GREEDY))
    revised = engine.generate(QUESTION, "be kind", steering=Steering(policy="revise"), sampling=GREEDY)
    for done in whole:
        assert_alike(done.attempts, revised.attempts, tolerance=SCORE)
        assert done.token_ids == revised.token_ids
    *_, last = engine.stream(QUESTION, "be kind", sampling=GREEDY)
    *_, alast = [piece async for piece in engine.astream(QUESTION, "be kind", sampling=GREEDY)]
    budget = engine.generate(QUESTION, "be kind", steering=Steering(policy="budget"), sampling=GREEDY)
    for piece in (last, alast):
        assert piece.completion.token_ids == budget.token_ids
        assert_alike(piece.completion.trace.spent, budget.trace.spent, tolerance=12 * LOGPROB)


def test_a_plain_answer_has_no_policy_to_warn_of(engine):
    for steering in (Steering(), Steering(policy="budget")):
        assert engine.generate(QUESTION, steering=steering, sampling=GREEDY).trace.spent is None


def test_revisions_fit_a_schema_too(engine):
    output = Output(constraint=Constraint.json_schema({"enum": ["yes", "no"]}))
    done = engine.generate(QUESTION, "be kind", steering=ANY, sampling=SAMPLED, output=output)
    assert done.text in ('"yes"', '"no"')
    assert done.attempts
    assert {attempt.text for attempt in done.attempts} <= {'"yes"', '"no"'}


def test_a_stop_string_ends_base_response_and_revisions(engine):
    sampling = Sampling(temperature=1.0, max_new_tokens=60, seed=3, stop=("e",))
    done = engine.generate(QUESTION, "be kind", steering=ANY, sampling=sampling)
    assert all("e" not in text for text in (done.text, *(attempt.text for attempt in done.attempts)))


def test_what_is_asked_of_the_engine_stays_as_it_was_asked():
    with ScriptedEngine("It is there.") as engine:
        engine.generate(QUESTION, "be kind")
        list(engine.stream(QUESTION, "be kind"))
        assert [request.steering for request in engine.requests] == [Steering(), Steering()]


@pytest.mark.parametrize("alignment", ALIGNMENTS)
async def test_revisions_are_the_same_alone_and_in_company(engine, alignment):
    alone = [engine.generate(user(f"{n}?"), alignment, steering=ANY, sampling=GREEDY) for n in range(3)]
    together = await asyncio.gather(
        *(engine.agenerate(user(f"{n}?"), alignment, steering=ANY, sampling=GREEDY) for n in range(3))
    )
    assert [done.token_ids for done in together] == [done.token_ids for done in alone]
    assert [[a.text for a in done.attempts] for done in together] == [[a.text for a in done.attempts] for done in alone]


async def test_a_request_that_is_cancelled_while_it_revises_leaves_nothing():
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        for steps in range(0, 40, 3):
            task = asyncio.create_task(engine.agenerate(QUESTION, "be kind", steering=ANY, sampling=SAMPLED))
            await asyncio.sleep(steps / 1000)
            task.cancel()
            await asyncio.wait([task])
        check_nothing_is_left(engine)


def test_an_engine_that_is_closed_while_it_revises_says_so_with_the_base_response():
    calls: list[int] = []

    def schedule(signals):
        calls.append(1)
        if len(calls) == 40:  # the base response has 24 tokens
            threading.Thread(target=engine.close).start()
        time.sleep(0.01 if len(calls) >= 40 else 0)
        return 0.0

    engine = SteeringEngine(tiny_model(), tiny_tokenizer())
    steering = ANY.replace(temperature_schedule=schedule)
    with pytest.raises(EngineClosedError, match="while the base response was revised") as raised:
        engine.generate(QUESTION, "be kind", steering=steering, sampling=Sampling(max_new_tokens=24, seed=5))
    assert raised.value.partial
