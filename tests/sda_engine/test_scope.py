"""Steering.scope: where in an answer steering acts, and that the base context alone decides elsewhere."""

import asyncio

import pytest
import torch

from sda_engine import Alignment, Constraint, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.config import SCOPES
from sda_engine.decoding.guards import MIN_LOOP
from sda_engine.decoding.row_group import DecodeSettings, RowGroup
from sda_engine.evaluators import ContrastiveEvaluator, UncertaintyEvaluator
from sda_engine.prompts import BASE, INSTRUCTED, make_contexts
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from sda_engine.tokens.answer_format import make_answer_format
from tests.conftest import user
from tests.floats import LOGPROB
from tests.sda_engine.decoding.steps import advance
from tests.sda_engine.laid_out import SPECIAL, THINK_JSON, THINK_SAY_CALL, LaidOutEngine

KIND = Alignment(instruction="be kind")
POLITE = Alignment(instruction="be polite and kind", avoid="be rude")
STRENGTH = 3.0
TOOLS = Output(tools=[{"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}])
JSON = Output(constraint=Constraint.json_schema({"type": "string"}))
LAYOUTS = {"a thought, text and a call": (THINK_SAY_CALL, TOOLS), "a thought and JSON": (THINK_JSON, JSON)}


def ask(engine, messages, alignment, output, **steering):
    strengths = {"gain": STRENGTH, "amplification": 1.0} if alignment is not None else {}
    sampling = Sampling(temperature=0, max_new_tokens=len(engine.places))
    return {
        "messages": messages,
        "alignment": alignment,
        "steering": Steering(**{"policy": "paper", **strengths, **steering}) if alignment else Steering(),
        "sampling": sampling,
        "output": output,
    }


@torch.inference_mode()
def expected_tokens(engine, messages, alignment, output, regions):
    """Greedy tokens by separate forward passes over whole sequences: steered in some regions, the base's elsewhere."""
    contexts = make_contexts(messages, alignment, engine._tokenizer, output=output, context_window=2048)
    answer = []
    for place in engine.places:
        if isinstance(place, int):
            answer.append(place)
            continue
        logprobs = {}
        for row, tail in contexts.tails.items():
            logits = engine.model(torch.tensor([[*contexts.shared, *tail, *answer]])).logits[0, -1].double()
            logprobs[row] = logits.index_fill(-1, torch.tensor(SPECIAL), -torch.inf).log_softmax(-1)
        base, instructed = logprobs["base"], logprobs["instructed"]
        steered = instructed + STRENGTH * (instructed - base)
        if "avoided" in logprobs:
            steered = steered - STRENGTH * (logprobs["avoided"] - base)
        answer.append(int((steered if place in regions else base).nan_to_num(nan=-torch.inf).argmax()))
    return answer


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("alignment", [KIND, POLITE], ids=["instructed", "avoided too"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inside_the_scope_tokens_are_steered_and_outside_they_are_the_base_contexts(layout, alignment, scope):
    parts, output = LAYOUTS[layout]
    with LaidOutEngine(parts) as engine:
        messages = user("what is in the library?")
        done = engine.generate(**ask(engine, messages, alignment, output, scope=scope))
        expected = expected_tokens(engine, messages, alignment, output, SCOPES[scope])
        other = expected_tokens(engine, messages, alignment, output, frozenset())
    assert list(done.token_ids) == expected
    regions = {place for place in engine.places if isinstance(place, str)}
    assert (expected != other) == bool(regions & SCOPES[scope])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_trace_says_where_nothing_was_steered_and_how_far_the_contexts_diverged_there(layout):
    parts, output = LAYOUTS[layout]
    with LaidOutEngine(parts) as engine:
        done = engine.generate(**ask(engine, user("hello"), KIND, output, scope="thought"))
        free = [
            (place, token)
            for place, token in zip(engine.places, done.trace.tokens, strict=True)
            if place in SCOPES["all"]
        ]
    for region, token in free:
        assert (token.strength, token.position) == ((STRENGTH, 1.0) if region == "thought" else (0.0, 0.0))
        assert token.divergence > 0
        if region != "thought":
            assert token.spent == 0
            assert [candidate.text for candidate in token.steered] == [candidate.text for candidate in token.base]
            assert [candidate.probability for candidate in token.steered] == pytest.approx(
                [candidate.probability for candidate in token.base]
            )
    assert done.trace.strength == STRENGTH


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_budget_is_spent_inside_the_scope_alone(layout):
    parts, output = LAYOUTS[layout]
    budget = {"policy": "budget", "budget": 2.0, "reserve": 0.0, "quiet_divergence": 0.0}
    with LaidOutEngine(parts) as engine:
        spoken = engine.generate(**ask(engine, user("hello"), KIND, output, scope="calls", **budget))
        everywhere = engine.generate(**ask(engine, user("hello"), KIND, output, scope="all", **budget))
        behind = max(place for place, what in enumerate(engine.places) if what in ("thought", "text"))
    inside = [token.spent for token in spoken.trace.tokens[behind + 1 :] if token.spent is not None]
    assert spoken.trace.spent == pytest.approx(sum(inside))
    assert 0 < sum(inside) <= 2.0 + 1e-4
    assert sum(token.spent or 0 for token in everywhere.trace.tokens[: behind + 1]) > 0


def test_no_reserve_opens_where_the_text_that_ends_is_not_steered(engine):
    for seed in range(20):  # half of them come to an end
        sampling = Sampling(temperature=1.0, max_new_tokens=200, seed=seed)
        plain = engine.generate(user("hello"), sampling=sampling)
        if plain.finish_reason == "stop":
            break
    reserved = Steering(policy="budget", budget=0.0, reserve=30.0, gain=8.0, amplification=1.0)
    steered = engine.generate(user("hello"), KIND, steering=reserved, sampling=sampling)
    left = engine.generate(user("hello"), KIND, steering=reserved.replace(scope="thought"), sampling=sampling)
    assert left.token_ids == plain.token_ids != steered.token_ids


def test_a_request_that_cannot_leave_its_scope_is_decoded_as_if_it_had_none():
    sampling = Sampling(temperature=0.7, seed=3, max_new_tokens=12, logprobs=3)
    settings = EngineSettings(prefix_cache=False)  # or a later request reads less, which changes the last bits
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=settings) as engine:
        everywhere = engine.generate(user("hello"), KIND, steering=Steering(scope="all"), sampling=sampling)
        assert {token.position for token in everywhere.trace.tokens} == {None}
        for scope in ("text", "answer"):  # free text, and all but calls
            text = engine.generate(user("hello"), KIND, steering=Steering(scope=scope), sampling=sampling)
            assert text.trace.tokens == everywhere.trace.tokens
            assert text.logprobs == everywhere.logprobs
        plain = engine.generate(user("hello"), sampling=sampling)
        for scope in ("thought", "calls"):  # which this model never has
            none = engine.generate(user("hello"), KIND, steering=Steering(scope=scope), sampling=sampling)
            assert none.token_ids == plain.token_ids
            assert none.trace.temperature == plain.trace.temperature


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_is_what_there_was_before_scopes(layout):
    parts, output = LAYOUTS[layout]
    with LaidOutEngine(parts) as engine:
        done = engine.generate(**ask(engine, user("hello"), KIND, output, scope="all"))
    assert {token.position for token in done.trace.tokens} == {None}  # no budget, which would round otherwise
    assert done.trace.spent is None
    assert {token.strength for token in done.trace.tokens} == {STRENGTH}


@pytest.mark.parametrize("scope", ["text", "thought", "calls"])
async def test_a_scope_holds_in_company_and_with_proposals(scope):
    questions = [user(f"{text} the fox and the dog and the fox and the dog") for text in ("a", "b c", "the library")]
    alignments = (KIND, POLITE, KIND)
    asks = list(zip(questions, alignments, strict=True))
    alone = []
    for question, alignment in asks:
        with LaidOutEngine(THINK_SAY_CALL, seed=1) as engine:
            alone.append(engine.generate(**ask(engine, question, alignment, TOOLS, scope=scope)).token_ids)
    for proposals in (0, 8):
        with LaidOutEngine(THINK_SAY_CALL, seed=1, proposals=proposals) as engine:
            together = await asyncio.gather(
                *(engine.agenerate(**ask(engine, *one, TOOLS, scope=scope)) for one in asks),
                engine.agenerate(**ask(engine, user("plain"), None, TOOLS)),
            )
        assert [done.token_ids for done in together[:-1]] == alone


@pytest.mark.default_policy
@pytest.mark.parametrize(("scope", "revised"), [("answer", True), ("calls", True), ("text", False), ("thought", False)])
def test_json_is_revised_where_it_is_steered_and_else_the_plain_answer(engine, scope, revised):
    sampling = Sampling(temperature=0, max_new_tokens=20)
    output = Output(constraint=Constraint.json_schema({"enum": ["yes", "no", "perhaps"]}))
    done = engine.generate(user("hello"), KIND, steering=Steering(scope=scope), sampling=sampling, output=output)
    assert bool(done.attempts) == revised
    if not revised:
        assert done.text == engine.generate(user("hello"), sampling=sampling, output=output).text


@pytest.mark.parametrize("scope", ["text", "thought"])
def test_a_loop_in_what_is_not_steered_is_reported_and_lowers_no_strength(tokenizer, scope):
    settings = DecodeSettings(
        rows=(BASE, INSTRUCTED),
        strength=2.0,
        avoid_strength=2.0,
        steering=Steering(guard="relax", scope=scope),
        sampling=Sampling(temperature=0),
        stop=(),
        max_new_tokens=1000,
        eos_token_ids=frozenset({2}),
        response_template=make_answer_format("<think>", None, {}).template(with_tools=False),
        answer_prefix="<think>",
    )
    group = RowGroup(settings, tokenizer)
    for _ in range(MIN_LOOP + 2):
        logits = torch.zeros(2, 320)
        logits[:, 60] = 5.0
        advance(group, logits)
    done = group.result("length")
    (warning,) = done.warnings
    assert (warning.strength, warning.new_strength) == (2.0, None if scope == "text" else 1.0)
    assert [token.strength for token in done.tokens[-2:]] == ([0.0] * 2 if scope == "text" else [1.0] * 2)
    assert done.answer_start == len(done.token_ids)
    assert dict(done.row_logprobs) == {BASE: (), INSTRUCTED: ()}


# --- scores


@torch.inference_mode()
def logprobs_behind(engine, contexts, answer, first):
    """Log-probabilities of the tokens of an answer from one on, by one pass over all of it for each row."""
    rows = {}
    for row, tail in contexts.tails.items():
        prompt = [*contexts.shared, *tail]
        logprobs = engine.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        places = torch.arange(len(prompt) + first - 1, len(prompt) + len(answer) - 1)
        rows[row] = logprobs[places, torch.tensor(answer[first:])]
    return rows


@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_probabilities_are_those_of_what_is_said_behind_the_whole_thought(layout):
    parts, output = LAYOUTS[layout]
    judge = ScriptedEvaluator([50], needs_logprobs=True)
    with LaidOutEngine(parts) as engine:
        given = ask(engine, user("hello"), None, output)
        plain = engine.generate(**given)
        engine.generate(**{**given, "alignment": KIND, "steering": Steering(evaluator=judge)})
        contexts = make_contexts(user("hello"), KIND, engine._tokenizer, output=output, context_window=2048)
        first = len(engine.encode("</think>\n\n")) - len(engine.encode("\n\n")) + 5
        expected = logprobs_behind(engine, contexts, list(plain.token_ids), first)
    (request,) = judge.requests
    torch.testing.assert_close(request.base_logprobs, expected["base"], atol=LOGPROB, rtol=0)
    torch.testing.assert_close(request.instructed_logprobs, expected["instructed"], atol=LOGPROB, rtol=0)
    assert plain.reasoning
    assert plain.reasoning not in request.response


@pytest.mark.parametrize("evaluator", [ContrastiveEvaluator(), UncertaintyEvaluator()])
def test_scores_count_the_tokens_that_are_said(evaluator):
    with LaidOutEngine(THINK_JSON) as engine:
        given = ask(engine, user("hello"), KIND, JSON)
        done = engine.generate(**{**given, "steering": Steering(evaluator=evaluator)})
    said = 5 + len(engine.encode("\n\n"))
    assert f"{said} token" in done.score.reason or f"of {said} tokens" in done.score.reason
