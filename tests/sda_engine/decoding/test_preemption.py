"""Answers that had to let go of their rows, since memory ran out, go on as if they had not."""

import asyncio
import time

import pytest

from sda_engine import EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.decoding import running_batch
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.testing import tiny_model, tiny_tokenizer
from tests.conftest import user

TEXTS = [
    f"{name} has {number} foxes and {number + 7} owls. What does {name} have?" for number, name in enumerate("ABCDEF")
]
PLENTY = EngineSettings(cache_tokens=10**6, proposals=4)


@pytest.fixture(autouse=True)
def no_look_ahead(monkeypatch):
    """Tasks join where there is room for what is read, so that it runs out as answers grow."""
    monkeypatch.setattr(running_batch, "_AHEAD", 1)


def endless_engine(settings):
    model = tiny_model()
    model.generation_config.eos_token_id = []
    return SteeringEngine(model, tiny_tokenizer(), settings=settings)


async def answers(engine, steering, max_new_tokens):
    sampling = Sampling(temperature=0.8, seed=5, max_new_tokens=max_new_tokens, logprobs=2)
    asked = [engine.agenerate(user(text), "be kind", steering=steering, sampling=sampling) for text in TEXTS]
    return await asyncio.gather(*asked)


@pytest.mark.default_policy
@pytest.mark.parametrize(
    ("steering", "max_new_tokens", "cache_tokens"),
    [
        (Steering(policy="paper", amplification=1.0), 150, 700),
        (Steering(policy="budget", amplification=1.0), 150, 700),
        (Steering(policy="paper", evaluator=ContrastiveEvaluator()), 150, 700),
        (Steering(policy="revise", amplification=1.0), 60, 2600),
    ],
    ids=["paper", "budget", "rated", "revise"],
)
async def test_answers_are_those_of_an_engine_with_memory_for_all(steering, max_new_tokens, cache_tokens):
    with endless_engine(PLENTY) as engine:
        expected = await answers(engine, steering, max_new_tokens)
        assert engine.stats().preemptions == 0
    with endless_engine(EngineSettings(cache_tokens=cache_tokens, proposals=4)) as engine:
        engine.model.register_forward_hook(lambda *_: time.sleep(0.002))  # so that all have come before one has ended
        done = await answers(engine, steering, max_new_tokens)
        assert engine.stats().preemptions > 0
        assert engine.stats().held_tokens == 0
    for completion, right in zip(done, expected, strict=True):
        assert completion.token_ids == right.token_ids
        assert completion.text == right.text
        assert len(completion.attempts) == len(right.attempts)
        assert completion.trace.divergence == pytest.approx(right.trace.divergence, abs=1e-4)
