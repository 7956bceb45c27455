"""Proposals from the prompt change how many forward passes an answer takes, and nothing else about it."""

import itertools
import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from sda_engine import Alignment, Constraint, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.decoding.decode_task import DecodeTask
from sda_engine.decoding.row_group import RowGroup
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB
from tests.oracles import js_divergence64, log_softmax64, steered_logprobs64, temperature64
from tests.sizes import ALL, size

CYCLE = " the quick brown fox jumps over a lazy dog"
PHRASES = (
    "the fox and the dog and the fox and the dog",
    "what is in the library? what is in the library? what is",
    "a b c a b c a b c a b",
    f"say{CYCLE}{CYCLE} again:{CYCLE}",
    "the answer is the answer is the answer is the",
)
ASKED = PHRASES[-size(5, 3) :]
KIND = Alignment(instruction="be kind", name="kind")
POLITE = Alignment(instruction="be polite", avoid="be rude", name="polite")
PLAIN_SAMPLING = Sampling(temperature=0, max_new_tokens=30)


def cyclic_model(*, sharpness: float = 3.5, context: float = 0.02, eos: tuple[int, ...] = ()):
    """A Llama that goes on with the words of CYCLE, over and over: a line break starts it, each token calls the next.

    Args:
        sharpness: how sure it is of the next token.
        context: how much everything before the last token counts.
        eos: tokens that end an answer.
    """
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.generation_config.eos_token_id = list(eos)
    cycle = cycle_ids()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(context)
            layer.mlp.down_proj.weight.mul_(context)
        calls = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=-1)
        model.lm_head.weight.mul_(0.2)
        (line_break,) = tokenizer.encode("\n", add_special_tokens=False)
        for before, after in zip([line_break, *cycle], [*cycle, cycle[0]], strict=True):
            model.lm_head.weight[after] += sharpness * calls[before]
    return model


def cycle_ids() -> list[int]:
    cycle = tiny_tokenizer().encode(CYCLE, add_special_tokens=False)
    assert len(set(cycle)) == len(cycle), "one successor each"
    return cycle


def random_model(seed: int = 0):
    """A Gemma 3 that soon repeats itself, with an answer that never ends by itself."""
    model = tiny_model(architecture="gemma3", seed=seed)
    model.generation_config.eos_token_id = []
    return model


@contextmanager
def engine_with(model, proposals: int):
    """An engine, and the numbers of tokens that its forward passes take in."""
    settings = EngineSettings(proposals=proposals, prefix_cache=False)
    passes: list[int] = []
    with SteeringEngine(model, tiny_tokenizer(), settings=settings) as engine:
        hook = model.register_forward_pre_hook(
            lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        try:
            yield engine, passes
        finally:
            hook.remove()


def both(model, requests, proposals: int = 8):
    """What an engine without proposals answers, what one with them does, and how many passes each took."""
    answers, passes = [], []
    for most in (0, proposals):
        with engine_with(model, most) as (engine, taken):
            answers.append([engine.generate(**request) for request in requests])
            passes.append(len(taken))
    for plain, proposed in zip(*answers, strict=True):
        check_same(plain, proposed)
    return answers[1], passes


def check_same(plain, proposed):
    assert proposed.token_ids == plain.token_ids
    assert proposed.text == plain.text
    assert proposed.finish_reason == plain.finish_reason
    assert proposed.usage == plain.usage
    assert proposed.trace.divergence == pytest.approx(plain.trace.divergence, abs=LOGPROB)
    assert [token.text for token in proposed.trace.tokens] == [token.text for token in plain.trace.tokens]


def request(text: str, alignment=None, sampling=PLAIN_SAMPLING, **more):
    return {"messages": user(text), "alignment": alignment, "sampling": sampling, **more}


MODELS = pytest.mark.parametrize("make_model", [cyclic_model, random_model])


@MODELS
@pytest.mark.parametrize("alignment", [None, KIND, POLITE])
def test_greedy_answers_are_the_same_in_fewer_passes(make_model, alignment):
    _, (plain, proposed) = both(make_model(), [request(phrase, alignment) for phrase in ASKED])
    assert proposed < 0.75 * plain


@MODELS
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_sampled_answers_with_a_seed_are_the_same_in_fewer_passes(make_model, temperature):
    requests = [
        request(phrase, alignment, Sampling(temperature=temperature, top_p=0.9, seed=seed, max_new_tokens=30))
        for seed, (phrase, alignment) in enumerate(zip(ASKED, itertools.cycle((POLITE, None, KIND)), strict=False))
    ]
    _, (plain, proposed) = both(make_model(), requests)
    assert proposed < 0.9 * plain


@pytest.mark.parametrize("proposals", [1, 2, 64])
def test_any_number_of_proposals_gives_the_same_answers(proposals):
    requests = [request(phrase, KIND, Sampling(temperature=0.5, seed=1, max_new_tokens=40)) for phrase in ASKED]
    _, (plain, proposed) = both(cyclic_model(), requests, proposals)
    assert proposed < plain


def test_a_random_model_that_repeats_nothing_answers_the_same():
    model = tiny_model(seed=3)
    requests = [request(phrase, KIND, Sampling(temperature=1.0, seed=2, max_new_tokens=30)) for phrase in ASKED]
    both(model, requests)


# --- where an answer ends inside a run of right proposals


def test_an_answer_ends_at_its_token_limit_inside_a_run_of_right_proposals():
    limits = range(1, 25, 1 if ALL else 2)
    requests = [request(PHRASES[3], KIND, Sampling(temperature=0, max_new_tokens=limit)) for limit in limits]
    answers, (plain, proposed) = both(cyclic_model(), requests)
    assert [len(answer.token_ids) for answer in answers] == list(limits)
    assert {answer.finish_reason for answer in answers} == {"length"}
    assert proposed < 0.5 * plain


def test_a_stop_string_is_found_inside_a_run_of_right_proposals():
    with engine_with(cyclic_model(), 0) as (engine, _):
        whole = engine.generate(**request(PHRASES[3], KIND)).text
    places = range(1, 34, 1 if ALL else 3)
    requests = [
        request(PHRASES[3], KIND, Sampling(temperature=0, max_new_tokens=30, stop=(whole[place : place + 3],)))
        for place in places
    ]
    answers, (plain, proposed) = both(cyclic_model(), requests)
    for place, answer in zip(places, answers, strict=True):
        assert answer.text == whole[: whole.index(whole[place : place + 3])]
        assert answer.finish_reason == "stop"
    assert proposed < 0.6 * plain


@pytest.mark.parametrize("place", range(len(cycle_ids())))
def test_an_end_of_sequence_token_inside_a_run_of_right_proposals_ends_the_answer(place):
    end = cycle_ids()[place]
    (answer,), (plain, proposed) = both(cyclic_model(eos=(end,)), [request(PHRASES[3], KIND)])
    assert answer.token_ids == tuple(cycle_ids()[: place + 1])
    assert answer.finish_reason == "stop"
    assert proposed < plain or place < 4, "a proposal needs two tokens to go by"


def test_what_an_answer_leaves_in_the_prefix_store_is_right_however_it_ended():
    """A wrong proposal that stayed in a row would come to light in the next request that begins with it."""
    model = cyclic_model(sharpness=0.9)
    questions = [request(phrase, KIND, Sampling(temperature=0.7, seed=1, max_new_tokens=20)) for phrase in ASKED]
    with engine_with(model, 0) as (engine, _):
        expected = []
        for question in questions:
            first = engine.generate(**question)
            expected.append((first.token_ids, engine.generate(**follow_up(question, first)).token_ids))
    settings = EngineSettings(proposals=8)
    with SteeringEngine(model, tiny_tokenizer(), settings=settings) as engine:
        for question, (token_ids, then) in zip(questions, expected, strict=True):
            first = engine.generate(**question)
            second = engine.generate(**follow_up(question, first))
            assert (first.token_ids, second.token_ids) == (token_ids, then)
            assert second.usage.cached_prompt_tokens > first.usage.prompt_tokens - 10


def follow_up(question, answer):
    messages = [*question["messages"], {"role": "assistant", "content": answer.text}, *user("go on")]
    return {**question, "messages": messages}


# --- what goes with every token


@MODELS
def test_usage_trace_logprobs_and_stream_have_one_entry_per_token(make_model):
    sampling = Sampling(temperature=0, max_new_tokens=30, logprobs=2)
    with engine_with(make_model(), 8) as (engine, passes):
        pieces = list(engine.stream(**request(PHRASES[3], KIND, sampling)))
    done = pieces[-1].completion
    assert len(passes) < 25, "nothing was accepted"
    assert done.usage.completion_tokens == len(done.token_ids) == len(done.trace.tokens) == len(done.logprobs) == 30
    assert [piece.token_ids for piece in pieces[:-1]] == [(token_id,) for token_id in done.token_ids]
    assert [entry for piece in pieces for entry in piece.logprobs] == list(done.logprobs)
    assert [token.token_id for token in done.trace.tokens] == list(done.token_ids)
    assert [entry.chosen.token_id for entry in done.logprobs] == list(done.token_ids)
    assert "".join(piece.text for piece in pieces) == "".join(token.text for token in done.trace.tokens) == done.text


# --- constraints


CONSTRAINTS = {
    "a choice the prompt shows": (
        Constraint.regex(r"( the quick brown (fox|dog|cow)| jumps over a (lazy|busy) dog)+"),
        3,
    ),
    "text that is forced for the most part": (Constraint.regex(r"(the library opens at [0-9]+\. ){3}"), 1),
    "json": (
        Constraint.json_schema(
            {
                "type": "object",
                "properties": {"animal": {"enum": ["quick brown fox", "quick brown dog"]}, "n": {"type": "integer"}},
                "required": ["animal", "n"],
            }
        ),
        0,
    ),
    "free text in json": (
        Constraint.json_schema(
            {"type": "object", "properties": {"text": {"type": "string", "maxLength": 40}}, "required": ["text"]}
        ),
        3,
    ),
}


@MODELS
@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_constrained_answers_are_the_same(make_model, name, temperature):
    constraint, phrase = CONSTRAINTS[name]
    model = make_model()
    model.generation_config.eos_token_id = [2]
    requests = [
        request(
            PHRASES[phrase],
            alignment,
            Sampling(temperature=temperature, seed=seed, max_new_tokens=limit),
            output=Output(constraint=constraint, schema_in_prompt=False),
        )
        for seed, (alignment, limit) in enumerate(itertools.product((None, POLITE), (7, 40)))
    ]
    _, (plain, proposed) = both(model, requests)
    assert proposed <= plain


def test_a_constrained_answer_accepts_proposals():
    model = cyclic_model()
    model.generation_config.eos_token_id = [2]
    constraint, phrase = CONSTRAINTS["a choice the prompt shows"]
    output = Output(constraint=constraint)
    _, (plain, proposed) = both(model, [request(PHRASES[phrase], KIND, output=output)])
    assert proposed < 0.75 * plain


# --- the distribution


class Distribution:
    """The first tokens of a steered answer: drawn by the engine, and computed in float64 without it."""

    TOP_K = 3
    TOKENS = 3
    QUESTION, INSTRUCTION = "again", "be kind"
    EARLIER = (*user("say"), {"role": "assistant", "content": CYCLE})
    SHARPNESS, CONTEXT = 0.5, 0.05
    SAMPLING = Sampling(temperature=1.0, top_p=None, top_k=TOP_K, max_new_tokens=TOKENS + 1)
    STEERING = Steering(amplification=0.5, gain=2.0)

    def __init__(self) -> None:
        self.model = cyclic_model(sharpness=self.SHARPNESS, context=self.CONTEXT)
        self.expected = self._exact()

    def _exact(self) -> dict[tuple[int, ...], float]:
        model = cyclic_model(sharpness=self.SHARPNESS, context=self.CONTEXT).double()
        prompts = [self._prompt(self.QUESTION), self._prompt(f"{self.QUESTION}\n{self.INSTRUCTION}")]
        found = {(): 1.0}
        for _ in range(self.TOKENS):
            found = {
                (*tokens, token_id): chance * share
                for tokens, chance in found.items()
                for token_id, share in self._next(model, prompts, tokens).items()
            }
        return found

    def _next(self, model, prompts, tokens) -> dict[int, float]:
        with torch.inference_mode():
            base, instructed = (model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].numpy() for prompt in prompts)
        settings = self.STEERING
        temperature = temperature64(
            js_divergence64(base, instructed),
            self.SAMPLING.temperature,
            settings.temperature_sensitivity,
            settings.min_temperature,
        )
        steered = steered_logprobs64(base, instructed, settings.gain * settings.amplification)
        best = np.argsort(-steered)[: self.TOP_K]
        shares = np.exp(log_softmax64(steered[best] / temperature))
        return dict(zip(best.tolist(), shares.tolist(), strict=True))

    def _prompt(self, text: str) -> list[int]:
        messages = [*self.EARLIER, *user(text)]
        return tiny_tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def draw(self, samples: int) -> tuple[Counter[tuple[int, ...]], int]:
        """Counts of the first tokens over seeds, and how many forward passes they took."""
        drawn: Counter[tuple[int, ...]] = Counter()
        with SteeringEngine(self.model, tiny_tokenizer(), settings=EngineSettings(proposals=8)) as engine:
            passes: list[int] = []
            hook = self.model.register_forward_hook(lambda *_: passes.append(1))
            for seed in range(samples):
                done = engine.generate(
                    [*self.EARLIER, *user(self.QUESTION)],
                    self.INSTRUCTION,
                    steering=self.STEERING,
                    sampling=self.SAMPLING.replace(seed=seed),
                )
                drawn[done.token_ids[: self.TOKENS]] += 1
            hook.remove()
        return drawn, len(passes)

    def p_value(self, drawn: Counter[tuple[int, ...]]) -> float:
        """Pearson's chi-squared test; outcomes that are expected less than five times count as one."""
        samples = drawn.total()
        assert set(drawn) <= set(self.expected), "a token that cannot be drawn"
        common = [tokens for tokens, chance in self.expected.items() if chance * samples >= 5]
        cells = [(drawn[tokens], samples * self.expected[tokens]) for tokens in common]
        cells.append((samples - sum(seen for seen, _ in cells), samples - sum(wanted for _, wanted in cells)))
        statistic = sum((seen - wanted) ** 2 / max(wanted, 1e-9) for seen, wanted in cells)
        return chi_squared_tail(statistic, len(cells) - 1)


def chi_squared_tail(statistic: float, freedom: int) -> float:
    """The chance of at least this statistic: the regularised upper incomplete gamma function."""
    half = torch.tensor(freedom / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half, torch.tensor(statistic / 2, dtype=torch.float64)))


@pytest.fixture(scope="module")
def distribution():
    return Distribution()


def test_the_distribution_is_one_on_which_proposals_are_tried_and_are_right_in_part(distribution):
    assert math.fsum(distribution.expected.values()) == pytest.approx(1)
    assert len(distribution.expected) == 27
    as_proposed = distribution.expected[tuple(cycle_ids()[:3])]
    assert 0.1 < as_proposed < 0.6
    assert sum(chance > 0.01 for chance in distribution.expected.values()) > 10


def test_answers_are_drawn_from_the_exact_steered_distribution(distribution):
    samples = size(600, 250)
    drawn, passes = distribution.draw(samples)
    assert distribution.p_value(drawn) > 0.001
    assert passes < 0.92 * samples * (Distribution.TOKENS + 1), "nothing was accepted"


@pytest.mark.parametrize("rule", ["always accept", "another chance for the proposal"])
def test_a_wrong_rule_of_acceptance_would_show(distribution, monkeypatch, rule):
    proposed: list[int] = []
    take, advance = DecodeTask._take, RowGroup.advance

    def take_with_proposals(task, logits):
        proposed[:] = task._proposed
        return take(task, logits)

    def advance_wrongly(group, logits):
        choosing = advance(group, logits)
        (wanted,) = next(choosing)
        (chosen,) = yield [wanted]
        proposal = proposed.pop(0) if proposed else None
        if proposal is not None and chosen.token_id != proposal:
            if rule == "always accept":
                chosen = replace(chosen, token_id=proposal)
            else:
                proposed.clear()
                again = torch.rand(1, generator=group._generator, dtype=torch.float64).item()
                (chosen,) = yield [replace(wanted, uniform=again)]  # as if nothing were known from the first time
        with pytest.raises(StopIteration) as end:
            choosing.send([chosen])
        return end.value.value

    monkeypatch.setattr(DecodeTask, "_take", take_with_proposals)
    monkeypatch.setattr(RowGroup, "advance", advance_wrongly)
    drawn, _ = distribution.draw(200)
    allowed = Counter({tokens: count for tokens, count in drawn.items() if tokens in distribution.expected})
    assert allowed.total() < 200 or distribution.p_value(allowed) < 1e-6
