"""Texts that are given, scored under the steered distribution: against float64, and against the decoding itself."""

import asyncio
import math
import warnings

import numpy as np
import pytest
import torch

from sda_engine import Alignment, EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.config import NoEffectWarning
from sda_engine.decoding import (
    STEERED,
    ModelRunner,
    PromptState,
    SteeredScoreTask,
    TextSteering,
    running_batch,
    steered_score_task,
)
from sda_engine.decoding.running_batch import RunningBatch
from sda_engine.decoding.step_batch import choose
from sda_engine.decoding.tasks import together
from sda_engine.errors import ConfigError, ContextLengthError, MessageError, NumericalError, RequestTimeoutError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore
from sda_engine.prompts import make_contexts
from sda_engine.steering import Budget, sigmoid_amplification
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from sda_engine.tokens import SafeTokenizer
from tests.conftest import user
from tests.floats import LOGPROB
from tests.oracles import contexts_logprobs64, steered_text64
from tests.sda_engine.decoding.company import (
    ALIGNMENTS,
    Ask,
    check_nothing_is_left,
    check_same,
    count_rows,
    held_tokens,
)

QUERY = "what is in the library?"
QUESTION = user(QUERY)
TEXT = "the quick brown fox jumps over the lazy dog, é\n"
GREEDY = Sampling(temperature=0, max_new_tokens=12, logprobs=0)
SAMPLED = Sampling(temperature=1.2, top_p=None, seed=3, max_new_tokens=12, logprobs=0)

PAPER = Steering(policy="paper", amplification=0.5)
POOR = Steering(policy="budget", amplification=0.5, budget=8.0, reserve=0.0, quiet_divergence=0.0)
RICH = Alignment.combine({"be kind": 2.0, "answer as a poet": 1.0}, avoid="be rude and loud")
POLITE = Alignment(instruction="be polite", avoid="be rude and loud", name="polite")
KINDS = {"one": "be kind", "avoided alone": Alignment(avoid="be rude", name="not rude"), "mixed, and avoided": RICH}
POLICIES = {
    "paper": PAPER,
    "in the system turn": PAPER.replace(placement="system"),
    "budget": POOR,
    "budget that hardly pays for a token": POOR.replace(budget=0.05),
    "budget that is never spent": POOR.replace(budget=1e9),
    "no budget": POOR.replace(budget=0.0),
    "budget spent where contexts diverge": POOR.replace(quiet_divergence=0.2),
}
OURS = {
    **POLICIES,
    "plausible": PAPER.replace(plausibility=0.1),
    "out of scope": PAPER.replace(scope="thought"),
}


@pytest.fixture(scope="module")
def endless():
    """An engine whose answers are as long as they may be, and hold no token that ends them."""
    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        yield engine


@pytest.fixture
def as_tokens(monkeypatch):
    """Let an engine's texts be lists of token ids, "7 8 9": of those that are decoded few are what their text means."""

    def prepare(engine):
        monkeypatch.setattr(engine._tokenizer, "encode", lambda text: [int(token) for token in text.split()])

    return prepare


@pytest.fixture
def rounds(monkeypatch):
    """How many texts' tokens each steering step was asked for."""
    sizes = []

    def counted(wanted):
        if wanted:
            sizes.append(len(wanted))
        return choose(wanted)

    monkeypatch.setattr(running_batch, "choose", counted)
    return sizes


def prompts_of(alignment, placement="after_query"):
    """Row -> token ids, written without the engine."""
    tokenizer = tiny_tokenizer()

    def render(text):
        placed = user(f"{QUERY}\n{text}") if placement == "after_query" else [system(text), *QUESTION]
        return tokenizer.apply_chat_template(placed, add_generation_prompt=True, return_dict=False)

    rows = {"base": tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)}
    instructions = ("be kind",) if alignment == "be kind" else alignment.instructions
    rows |= {f"instructed {place}": render(text) for place, text in enumerate(instructions)}
    avoided = None if isinstance(alignment, str) else alignment.avoid
    return rows if avoided is None else rows | {"avoided": render(avoided)}


def system(text):
    return {"role": "system", "content": text}


def contexts_of(alignment):
    return make_contexts(QUESTION, alignment, SafeTokenizer(tiny_tokenizer()))


def score(engine, texts, alignment, steering):
    return engine.continuation_logprobs(QUESTION, texts, alignment=alignment, steering=steering)


# --- against float64


@pytest.mark.parametrize("alignment", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("steering", POLICIES.values(), ids=POLICIES)
def test_each_number_is_what_float64_makes_of_plain_passes(alignment, steering, engines):
    for engine in engines.values():
        check_by_float64(engine, alignment, steering)


@pytest.mark.parametrize("avoid_strength", [0.0, 1.5])
def test_the_step_away_may_have_a_strength_of_its_own(engines, avoid_strength):
    check_by_float64(engines["llama"], POLITE, PAPER.replace(avoid_strength=avoid_strength))


def check_by_float64(engine, alignment, steering):
    token_ids = tiny_tokenizer().encode(TEXT, add_special_tokens=False)
    contexts = contexts_logprobs64(engine.model, prompts_of(alignment, steering.placement), token_ids)
    strength = steering.gain * steering.amplification
    away = strength if steering.avoid_strength is None else steering.avoid_strength
    budget, quiet = (steering.budget, steering.quiet_divergence) if steering.policy == "budget" else (None, 0.0)
    weights = (1.0,) if isinstance(alignment, str) else alignment.weights
    expected = steered_text64(contexts, token_ids, (strength, away), weights=weights, budget=budget, quiet=quiet)
    (got,) = score(engine, [TEXT], alignment, steering).tolist()
    assert got == pytest.approx(expected.sum(), abs=len(token_ids) * LOGPROB)


@pytest.fixture(scope="module")
def engines():
    with (
        SteeringEngine(tiny_model(), tiny_tokenizer()) as llama,
        SteeringEngine(tiny_model(architecture="gemma3"), tiny_tokenizer()) as gemma,
    ):
        yield {"llama": llama, "gemma3": gemma}


def test_the_oracle_spends_its_budget_in_the_middle_of_the_text():
    """So that the test above sees a token between full steering and none."""
    model, token_ids = tiny_model(), tiny_tokenizer().encode(TEXT, add_special_tokens=False)
    contexts = contexts_logprobs64(model, prompts_of("be kind"), token_ids)
    paper = steered_text64(contexts, token_ids, (1.0, 1.0))
    poor = steered_text64(contexts, token_ids, (1.0, 1.0), budget=POOR.budget)
    base = contexts["base"][np.arange(len(token_ids)), token_ids]
    steered, plain = np.isclose(poor, paper).sum(), np.isclose(poor, base).sum()
    assert steered > 1
    assert plain > 1
    assert steered + plain < len(token_ids)


# --- against the decoding


@pytest.mark.parametrize(
    ("alignment", "sampling"), [("be kind", SAMPLED), (RICH, GREEDY)], ids=["one, sampled", "mixed, greedy"]
)
@pytest.mark.parametrize("steering", OURS.values(), ids=OURS)
def test_an_answer_scores_what_its_tokens_had_when_they_were_decoded(endless, as_tokens, alignment, steering, sampling):
    done = endless.generate(QUESTION, alignment, steering=steering, sampling=sampling)
    as_tokens(endless)
    (got,) = score(endless, [" ".join(map(str, done.token_ids))], alignment, steering).tolist()
    assert len(done.token_ids) == sampling.max_new_tokens
    assert got == pytest.approx(sum(token.chosen.logprob for token in done.logprobs), abs=3 * LOGPROB)


@pytest.mark.default_policy
def test_auto_is_what_a_stream_is_decoded_by(endless, as_tokens):
    steering = Steering(amplification=1.0, budget=1.0)
    *_, last = endless.stream(QUESTION, "be kind", steering=steering, sampling=SAMPLED)
    as_tokens(endless)
    text = " ".join(map(str, last.completion.token_ids))
    (got,) = score(endless, [text], "be kind", steering).tolist()
    assert got == pytest.approx(sum(token.chosen.logprob for token in last.completion.logprobs), abs=3 * LOGPROB)
    budget = steering.replace(policy="budget")
    assert got == score(endless, [text], "be kind", budget).item()
    paper = Steering(policy="paper", amplification=1.0)
    assert got != pytest.approx(score(endless, [text], "be kind", paper).item(), abs=0.1)


# --- properties


@pytest.mark.parametrize("budget", [None, Budget(0.05), Budget(1e9), Budget(0.0)])
@pytest.mark.parametrize("plausibility", [0.0, 0.01])
def test_the_probabilities_of_all_tokens_sum_to_one(budget, plausibility):
    steering = TextSteering(1.0, 0.5, plausibility, budget)
    prompt = PromptState(contexts_of(RICH), 1)
    logits = 3 * torch.randn(len(prompt.contexts.tails), 1, 320, generator=torch.Generator().manual_seed(0))
    tasks = [SteeredScoreTask(prompt, steering, [token_id]) for token_id in range(320)]
    steps = together([task._score(logits) for task in tasks])
    chosen = choose(next(steps))
    with pytest.raises(StopIteration):
        steps.send(chosen)
    logprobs = [task.result()[STEERED].item() for task in tasks]
    assert np.exp(logprobs).sum() == pytest.approx(1.0, abs=LOGPROB)
    dropped = plausibility > 0 and budget in (None, Budget(1e9))  # a small budget does not pay for it
    assert (-math.inf in logprobs) == dropped


@pytest.mark.parametrize("steering", [PAPER, POOR.replace(budget=1e9)], ids=["paper", "budget"])
def test_strength_0_is_the_instructed_distribution_and_no_budget_the_base_one(engine, steering):
    texts = [TEXT, "yes", "no"]
    room = {"atol": 20 * LOGPROB, "rtol": 0}
    instructed = engine.continuation_logprobs(user(f"{QUERY}\nbe kind"), texts)
    base = engine.continuation_logprobs(QUESTION, texts)
    for alignment in ("be kind", Alignment(instruction="be kind", avoid="be rude", name="kind")):
        got = score(engine, texts, alignment, steering.replace(amplification=0.0))
        torch.testing.assert_close(got, instructed, **room)
    torch.testing.assert_close(score(engine, texts, "be kind", POOR.replace(budget=0.0)), base, **room)
    assert (base - instructed).abs().max() > 0.1


@pytest.mark.parametrize("scope", ["thought", "calls"])
@pytest.mark.parametrize("policy", ["paper", "budget"])
def test_where_text_is_out_of_scope_the_base_distribution_decides(engine, policy, scope):
    steering = Steering(policy=policy, amplification=1.0, scope=scope)
    base = engine.continuation_logprobs(QUESTION, [TEXT])
    torch.testing.assert_close(score(engine, [TEXT], "be kind", steering), base, atol=20 * LOGPROB, rtol=0)


def test_without_an_alignment_nothing_is_steered(engine):
    plain = engine.continuation_logprobs(QUESTION, [TEXT, "yes"])
    again = engine.continuation_logprobs(QUESTION, [TEXT, "yes"], alignment=None, steering=Steering(policy="revise"))
    torch.testing.assert_close(again, plain, atol=20 * LOGPROB, rtol=0)


def test_a_fixed_score_is_the_amplification_that_it_means(engine):
    rated = score(engine, [TEXT], "be kind", Steering(policy="paper", evaluator=FixedScore(20)))
    fixed = Steering(policy="paper", amplification=sigmoid_amplification(20))
    assert rated.tolist() == pytest.approx(score(engine, [TEXT], "be kind", fixed).tolist(), abs=LOGPROB)
    default = score(engine, [TEXT], "be kind", Steering(policy="paper"))
    assert default.item() != pytest.approx(rated.item(), abs=0.01)


def test_what_is_of_use_to_answers_alone_changes_nothing(engine):
    calls = []
    steering = POOR.replace(reserve=5.0, guard="relax", temperature_schedule=lambda signals: calls.append(signals))
    assert score(engine, [TEXT], "be kind", steering).item() == pytest.approx(
        score(engine, [TEXT], "be kind", POOR).item(), abs=20 * LOGPROB
    )
    assert calls == []


# --- what it costs


def test_the_prompts_are_computed_once_and_texts_of_one_token_cost_nothing_more():
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(prefix_cache=False)) as engine:
        tokens: list[int] = []
        engine.model.register_forward_pre_hook(
            lambda module, args, given: tokens.append(given["input_ids"].numel()), with_kwargs=True
        )
        prompts = prompts_of("be kind")
        common = next(place for place, pair in enumerate(zip(*prompts.values(), strict=False)) if len(set(pair)) > 1)
        read = sum(map(len, prompts.values())) - common
        score(engine, list("abcdefghij"), "be kind", POOR)
        assert sum(tokens) == read
        score(engine, ["the answer"], "be kind", POOR)
        assert sum(tokens) == 2 * read + 2 * (len(engine.encode("the answer")) - 1)


@pytest.mark.parametrize(("steering", "most"), [(PAPER, 2), (POOR, 3), (POOR.replace(budget=1e9), 2)])
def test_the_tokens_of_a_pass_are_steered_together(engine, rounds, steering, most):
    score(engine, [TEXT * 5], "be kind", steering)  # its first token by the pass over the prompt
    assert len(rounds) <= most
    assert rounds[0] == 1


@pytest.mark.parametrize(
    ("name", "piece"), [("paper", 7), ("budget", 1), ("budget", 7), ("budget spent where contexts diverge", 1)]
)
def test_a_text_in_pieces_is_scored_as_a_whole_one(engine, monkeypatch, name, piece):
    whole = score(engine, [TEXT], RICH, POLICIES[name])
    monkeypatch.setattr(running_batch, "_ALONE", 4 * piece)
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=EngineSettings(prefill_chunk=4)) as pieces:
        got = score(pieces, [TEXT], RICH, POLICIES[name])
        assert pieces.stats().passes > len(engine.encode(TEXT)) / piece
    torch.testing.assert_close(got, whole, atol=50 * LOGPROB, rtol=0)


# --- company


async def test_texts_are_scored_in_company_as_they_are_alone(engine):
    texts, steerings = [TEXT, "yes"], [PAPER, POOR, OURS["plausible"]]
    kinds = [(user(f"question {n}"), ALIGNMENTS[1 + n % 7], steerings[n % 3]) for n in range(7)]
    expected = [
        engine.continuation_logprobs(question, texts, alignment=alignment, steering=steering)
        for question, alignment, steering in kinds
    ]
    asks = [Ask(f"question {n}", ALIGNMENTS[n], sampling=SAMPLED) for n in (0, 1, 4, 7)]
    alone = [engine.generate(**ask.arguments()) for ask in asks]
    answers, *scores = await asyncio.gather(
        asyncio.gather(*(engine.agenerate(**ask.arguments()) for ask in asks)),
        *(
            engine.acontinuation_logprobs(question, texts, alignment=alignment, steering=steering)
            for question, alignment, steering in kinds
        ),
    )
    for got, wanted in zip(scores, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=20 * LOGPROB, rtol=0)
    for answer, wanted in zip(answers, alone, strict=True):
        check_same(answer, wanted)


@pytest.mark.parametrize("budget", [None, Budget(8.0)], ids=["paper", "budget"])
@torch.inference_mode()
def test_a_text_that_had_to_let_go_of_its_rows_is_scored_from_its_beginning(monkeypatch, budget):
    monkeypatch.setattr(running_batch, "_ALONE", 12)  # four tokens of each row in a pass
    token_ids = SafeTokenizer(tiny_tokenizer()).encode(TEXT)

    def score_in_steps(suspended_after):
        batch = RunningBatch(ModelRunner(tiny_model()), EngineSettings(prefill_chunk=12), cache_tokens=1000)
        prompt = PromptState(contexts_of(POLITE), len(token_ids))
        task = SteeredScoreTask(prompt, TextSteering(1.0, 1.0, budget=budget), token_ids)
        batch.add(task)
        while batch.tasks:
            batch.step()
            if task._scored == suspended_after:
                suspended_after = None
                task.suspend()
        assert suspended_after is None
        return task.result()[STEERED]

    whole = score_in_steps(None)
    assert len(whole) == len(token_ids)
    for suspended_after in (1, 5, 17):
        torch.testing.assert_close(score_in_steps(suspended_after), whole, atol=10 * LOGPROB, rtol=0)


async def test_a_text_that_cannot_be_scored_fails_alone_and_leaves_nothing():
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        before = count_rows()
        expected = score(engine, ["yes it is"], "be kind", POOR)
        (evil,) = engine.encode("z")

        def spoil(module, args, given, output):
            start = 0
            for segment in given["forward_pass"].segments:
                if evil in segment.token_ids:
                    output.logits[0, start : start + segment.keep] = math.nan
                start += segment.keep

        engine.model.register_forward_hook(spoil, with_kwargs=True)
        bad, good = await asyncio.gather(
            engine.acontinuation_logprobs(QUESTION, ["a z b"], alignment="be kind", steering=POOR),
            engine.acontinuation_logprobs(QUESTION, ["yes it is"], alignment="be kind", steering=POOR),
            return_exceptions=True,
        )
        assert isinstance(bad, NumericalError)
        torch.testing.assert_close(good, expected, atol=10 * LOGPROB, rtol=0)
        check_nothing_is_left(engine)
        assert count_rows() == before


def test_a_deadline_ends_the_work_and_frees_the_rows(endless):
    with pytest.raises(RequestTimeoutError):
        endless.continuation_logprobs(QUESTION, [TEXT * 20] * 50, alignment=RICH, steering=POOR, timeout=0.05)
    check_nothing_is_left(endless)
    assert held_tokens(endless) == 0


async def test_an_event_loop_gets_the_same(engine):
    texts = [TEXT, "yes"]
    got = await engine.acontinuation_logprobs(QUESTION, texts, alignment=RICH, steering=POOR)
    torch.testing.assert_close(got, score(engine, texts, RICH, POOR), atol=20 * LOGPROB, rtol=0)


# --- what is refused, and what is pointed out


def test_revisions_give_a_text_no_probability(engine):
    with pytest.raises(ConfigError, match=r"'revise' gives texts no probability.*policy='budget'.*policy='paper'"):
        score(engine, ["yes"], "be kind", Steering(policy="revise"))


@pytest.mark.parametrize("evaluator", [ContrastiveEvaluator(), ScriptedEvaluator([70], needs_response=False)])
async def test_a_score_that_is_not_known_beforehand_is_refused(engine, evaluator):
    steering = Steering(evaluator=evaluator)
    with pytest.raises(ConfigError, match=r"no base response.*amplification.*FixedScore"):
        score(engine, ["yes"], "be kind", steering)
    with pytest.raises(ConfigError, match="FixedScore"):
        await engine.acontinuation_logprobs(QUESTION, ["yes"], alignment="be kind", steering=steering)


@pytest.mark.parametrize("wrong", [{"steering": None}, {"steering": {"gain": 1}}, {"alignment": 3}])
def test_arguments_of_another_type_are_refused(engine, wrong):
    with pytest.raises(ConfigError):
        engine.continuation_logprobs(QUESTION, ["yes"], **wrong)


def test_steering_that_changes_nothing_is_pointed_out(engine):
    with pytest.warns(NoEffectWarning, match="gain.*no alignment"):
        engine.continuation_logprobs(QUESTION, ["yes"], steering=Steering(gain=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(engine, ["yes"], "be kind", Steering(gain=1.0))


def test_messages_and_lengths_are_checked_for_all_contexts(engine):
    with pytest.raises(MessageError):
        engine.continuation_logprobs([], ["yes"], alignment="be kind")
    with SteeringEngine(tiny_model(context_window=64), tiny_tokenizer()) as small:
        room = 64 - small.count_prompt_tokens(QUESTION)
        small.continuation_logprobs(QUESTION, ["Z" * room])
        with pytest.raises(ContextLengthError):
            score(small, ["Z" * room], "be kind", PAPER)
        check_nothing_is_left(small)


def test_a_budget_that_a_token_leaves_a_rest_of_is_spent_by_the_next_ones(engine, monkeypatch):
    """Where the place on the path is found only roughly, the guess that nothing is left is wrong, and is not taken."""
    spent = []
    spend = steered_score_task.Purse.spend
    monkeypatch.setattr(
        steered_score_task.Purse, "spend", lambda purse, nats: spent.append(nats) or spend(purse, 0.9 * nats)
    )
    score(engine, [TEXT], "be kind", POOR)
    assert len(spent) == len(engine.encode(TEXT))
    rest = POOR.budget
    for nats in spent:
        assert nats <= rest + 1e-6
        rest -= 0.9 * nats
    assert sum(nats > 1e-6 for nats in spent[spent.index(max(spent)) :]) > 3
