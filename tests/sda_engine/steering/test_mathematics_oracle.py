"""The mathematics against an independent float64 computation: 1,000 rows, a vocabulary of 50,000."""

import numpy as np
import pytest
import torch

from sda_engine.steering import LOG_2, js_divergence, mix_logits, steered_step
from tests.oracles import (
    combined_logprobs64,
    js_divergence64,
    log_softmax64,
    mixture64,
    steered_logprobs64,
    temperature64,
)
from tests.sizes import size

ROWS, VOCAB, BATCH = size(1000, 150), 50_000, 50
TOLERANCE = 1e-5


@pytest.mark.parametrize("part", range(ROWS // BATCH))
def test_steering_agrees_with_float64_on_a_real_vocabulary(part):
    random = np.random.default_rng(part)
    base = random.normal(0, 4, (BATCH, VOCAB)).astype(np.float32)
    instructed = (base + random.normal(0, 1.5, (BATCH, VOCAB))).astype(np.float32)
    strength = random.uniform(0, 4, BATCH).astype(np.float32)
    temperature = random.uniform(0.2, 1.2, BATCH).astype(np.float32)
    sensitivity = random.uniform(0.01, 2, BATCH).astype(np.float32)

    step = steered_step(
        torch.from_numpy(base),
        torch.from_numpy(instructed),
        strength=torch.from_numpy(strength),
        temperature=torch.from_numpy(temperature),
        sensitivity=torch.from_numpy(sensitivity),
        min_temperature=0.05,
    )

    steered = steered_logprobs64(base, instructed, strength[:, None].astype(np.float64))
    divergence = js_divergence64(base, instructed)
    used = temperature64(divergence, temperature, sensitivity, 0.05)
    sampled = log_softmax64(steered / used[:, None])
    sampled_at_its_temperature = log_softmax64(steered / step.temperature.double().numpy()[:, None])
    np.testing.assert_allclose(step.steered_logprobs, steered, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(step.divergence, divergence, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(step.temperature, used, atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_allclose(step.logprobs.exp(), np.exp(sampled), atol=TOLERANCE, rtol=0)
    # down to -150 nats and below, where the last digit of the float32 temperature would show
    np.testing.assert_allclose(step.logprobs, sampled_at_its_temperature, atol=TOLERANCE, rtol=1e-7)


def test_divergence_agrees_with_float64_from_equal_to_disjoint_distributions():
    random = np.random.default_rng(7)
    rows = size(200, 50)
    base = random.normal(0, 3, (rows, VOCAB)).astype(np.float32)
    distance = np.geomspace(1e-4, 30, rows)[:, None]
    instructed = (base + distance * random.normal(0, 1, (rows, VOCAB))).astype(np.float32)
    logprobs = [torch.from_numpy(logits).log_softmax(-1) for logits in (base, instructed)]
    divergence = js_divergence(*logprobs).numpy()
    np.testing.assert_allclose(divergence, js_divergence64(base, instructed), atol=TOLERANCE, rtol=0)
    assert divergence.max() > 0.9 * LOG_2
    assert divergence.min() < 1e-6


@pytest.mark.parametrize("contexts", [1, 2, 3, 5])
@pytest.mark.parametrize("part", range(size(4, 1)))
def test_several_contexts_agree_with_float64_on_a_real_vocabulary(contexts, part):
    random = np.random.default_rng(100 * contexts + part)
    base = random.normal(0, 4, (BATCH, VOCAB)).astype(np.float32)
    several = [(base + random.normal(0, 1.5, (BATCH, VOCAB))).astype(np.float32) for _ in range(contexts)]
    weights = random.uniform(0.1, 3, contexts)
    strength = random.uniform(0, 4, BATCH).astype(np.float32)

    mixed = mix_logits([torch.from_numpy(logits) for logits in several], weights.tolist())
    step = steered_step(torch.from_numpy(base), mixed, strength=torch.from_numpy(strength), temperature=0.8)

    mixture = mixture64(several, weights)
    steered = combined_logprobs64(base, several, weights, strength[:, None].astype(np.float64))
    np.testing.assert_allclose(step.steered_logprobs, steered, atol=TOLERANCE, rtol=0)
    # of one context alone, this is a log-softmax in float32
    np.testing.assert_allclose(step.instructed_logprobs, np.log(mixture), atol=3 * TOLERANCE, rtol=0)
    divergence = js_divergence64(base, np.log(mixture))
    np.testing.assert_allclose(step.divergence, divergence, atol=TOLERANCE, rtol=0)
    used = temperature64(divergence, 0.8, 2 * np.log(2), 0.0)
    np.testing.assert_allclose(step.temperature, used, atol=TOLERANCE, rtol=TOLERANCE)
