"""Requirements 18 to 20: logits that are no distribution, greedy answers in company, strength 0.

Requirement 19, for all kinds of requests, is tests/sda_engine/decoding/test_company.py.
"""

import asyncio
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sda_engine import Constraint, Output, Sampling, Steering, SteeringEngine
from sda_engine.errors import NumericalError
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.output import TokenConstraint
from sda_engine.steering import constant_schedule, steered_step
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB
from tests.sda_engine.decoding.company import (
    ALIGNMENTS,
    POISON,
    Ask,
    ask_beside_seven_others,
    check_nothing_is_left,
    check_same,
)
from tests.sizes import ALL, size

GREEDY = Sampling(temperature=0, max_new_tokens=size(10, 5))
SAMPLED = Sampling(temperature=1.0, max_new_tokens=size(10, 5), seed=1)


def everywhere(value: float):
    return lambda logits: logits.fill_(value)


def at_one_token(value: float):
    return lambda logits: logits[:, 17].fill_(value)


FAULTS = {
    "NaN everywhere": everywhere(math.nan),
    "one NaN": at_one_token(math.nan),
    "+inf everywhere": everywhere(math.inf),
    "one +inf": at_one_token(math.inf),
    "-inf everywhere": everywhere(-math.inf),
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


def spoil(engine: SteeringEngine, fault):
    """Change the logits of every row that has the poisoned letter in it."""
    (poison,) = engine.encode(POISON)

    def change(module, args, kwargs, output):
        start = 0
        for segment in kwargs["forward_pass"].segments:
            if poison in (*segment.row.token_ids, *segment.token_ids):
                fault(output.logits[0, start : start + segment.keep])
            start += segment.keep

    return engine.model.register_forward_hook(change, with_kwargs=True)


@pytest.fixture
def engine():
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as engine:
        yield engine


# --- 18


@faults
@pytest.mark.parametrize(
    ("alignment", "sampling"),
    list(itertools.product([None, "be kind", f"be a {POISON}"], [GREEDY, SAMPLED]))
    if ALL
    else [(None, GREEDY), (None, SAMPLED), ("be kind", SAMPLED), (f"be a {POISON}", GREEDY)],
)
async def test_logits_without_a_distribution_fail_their_own_request_alone(engine, fault, alignment, sampling):
    hook = spoil(engine, fault)
    text = "question 3" if alignment and POISON in alignment else f"question 3 {POISON}"
    error = await ask_beside_seven_others(engine, Ask(text, alignment, sampling=sampling))
    assert isinstance(error, NumericalError)
    hook.remove()
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as other:  # nothing wrong has been kept
        ask = Ask(text, alignment, sampling=sampling)
        check_same(engine.generate(**ask.arguments()), other.generate(**ask.arguments()))


@faults
async def test_an_evaluator_that_needs_the_models_own_logprobs_changes_nothing_about_that(engine, fault):
    spoil(engine, fault)
    steering = lambda: Steering(evaluator=ContrastiveEvaluator(), on_evaluator_error="instruct_only")  # noqa: E731
    ask = Ask(f"question 3 {POISON}", "be kind", steering, GREEDY)
    assert isinstance(await ask_beside_seven_others(engine, ask), NumericalError)


@faults
async def test_a_text_that_cannot_be_scored_fails_its_own_request_alone(engine, fault):
    spoil(engine, fault)
    asks = [Ask(f"question {number}", ALIGNMENTS[number % 5], sampling=GREEDY) for number in range(4)]
    evil = user(f"question {POISON}")
    results = await asyncio.gather(
        *(engine.agenerate(**ask.arguments()) for ask in asks),
        engine.acontinuation_logprobs(evil, ["yes", "no"]),
        engine.acontinuation_logprobs(user("who?"), [f"ye{POISON}s"]),
        engine.arate(evil, "the answer", "be kind", ContrastiveEvaluator()),
        engine.arate(user("who?"), "the answer", f"be a {POISON}", ContrastiveEvaluator()),
        engine.acontinuation_logprobs(user("who?"), ["yes", "no"]),
        return_exceptions=True,
    )
    *answers, first, second, third, fourth, fine = results
    for error in (first, second, third, fourth):
        assert isinstance(error, NumericalError), error
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as other:
        for ask, answer in zip(asks, answers, strict=True):
            check_same(answer, other.generate(**ask.arguments()))
        expected = other.continuation_logprobs(user("who?"), ["yes", "no"])
        torch.testing.assert_close(fine, expected, atol=3 * LOGPROB, rtol=0)  # of up to three tokens
    check_nothing_is_left(engine)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("alignment", [None, "be kind"])
async def test_a_constraint_that_masks_every_token_fails_its_own_request_alone(
    engine, alignment, sampling, monkeypatch
):
    def mask_all(constraint: TokenConstraint, logits: Tensor) -> Tensor:
        return torch.full_like(logits, -math.inf)

    monkeypatch.setattr(TokenConstraint, "apply_mask", mask_all)
    output = Output(constraint=Constraint.regex("[a-z]{4,9}"), schema_in_prompt=False)
    ask = Ask(f"question {POISON}", alignment, sampling=sampling, output=output)
    assert isinstance(await ask_beside_seven_others(engine, ask), NumericalError)


# --- 19


async def test_greedy_answers_in_float32_are_the_same_alone_and_in_company_of_every_size(engine):
    asks = [Ask(f"question {number} " * (number + 1), ALIGNMENTS[number % 6], sampling=GREEDY) for number in range(16)]
    with SteeringEngine(tiny_model(), tiny_tokenizer()) as other:
        alone = [other.generate(**ask.arguments()).token_ids for ask in asks]
    for count in (1, 2, 5, 16):
        for start in range(0, len(asks), count):
            some = asks[start : start + count]
            done = await asyncio.gather(*(engine.agenerate(**ask.arguments()) for ask in some))
            assert [completion.token_ids for completion in done] == alone[start : start + count]


# --- 20


def logits(seed: int, spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base, instructed = (spread * torch.randn((3, 320), generator=generator) for _ in range(2))
    return base, instructed


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(1, 40))
def test_strength_0_is_the_instructed_distribution_to_the_bit(seed, spread):
    base, instructed = logits(seed, spread)
    step = steered_step(base, instructed, strength=0.0, temperature=0.7, schedule=constant_schedule)
    plain = steered_step(instructed, None, strength=0.0, temperature=0.7, schedule=constant_schedule)
    assert torch.equal(step.steered_logprobs, torch.log_softmax(instructed, dim=-1))
    assert torch.equal(step.steered_logprobs, plain.steered_logprobs)
    assert torch.equal(step.logprobs, plain.logprobs)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_request_of_strength_0_draws_from_the_instructed_distribution_to_the_bit(engine, sampling, monkeypatch):
    steps = []
    monkeypatch.setattr(
        "sda_engine.decoding.step_batch.steered_step",
        lambda *given, **settings: steps.append((given, steered_step(*given, **settings))) or steps[-1][1],
    )
    steering = Steering(amplification=0.0, temperature_schedule="constant")
    done = engine.generate(user("who?"), "be kind", steering=steering, sampling=sampling)
    assert len(steps) == len(done.token_ids)
    for (base, instructed), step in steps:
        assert not torch.equal(base, instructed)
        assert torch.equal(step.steered_logprobs, torch.log_softmax(instructed, dim=-1))
    assert done.token_ids == engine.generate(user("who?\nbe kind"), sampling=sampling).token_ids
