"""The path from base to steered distribution, and steps that a budget cuts short, by hand and against float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sda_engine.steering import (
    divergence_from_base,
    furthest_position,
    path_logprobs,
    steered_step,
)
from tests.oracles import furthest_position64, kl_divergence64, log_softmax64, path_logprobs64, steered_logprobs64

INF = math.inf
BASE = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
STEERED = torch.tensor([[0.125, 0.125, 0.25, 0.5]]).log()


def logits_of(seed: int, rows: int = 1, vocab: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    base = random.normal(0, 3, (rows, vocab)).astype(np.float32)
    return torch.from_numpy(base), torch.from_numpy(base + random.normal(0, 2, (rows, vocab)).astype(np.float32))


def step_of(base, instructed, budget, **changes):
    return steered_step(base, instructed, strength=2.0, temperature=0.7, budget=budget, **changes)


def test_the_ends_of_the_path_are_the_distributions_to_the_bit():
    assert torch.equal(path_logprobs(BASE, STEERED, torch.zeros(1)), BASE)
    assert torch.equal(path_logprobs(BASE, STEERED, torch.ones(1)), STEERED)


def test_halfway_stands_the_normalised_geometric_mean():
    halfway = path_logprobs(BASE, STEERED, torch.tensor([0.5])).exp()
    means = torch.tensor([[0.25, math.sqrt(1 / 32), math.sqrt(1 / 32), 0.25]])
    torch.testing.assert_close(halfway, means / means.sum())


def test_a_token_masked_in_either_distribution_is_masked_on_the_way():
    base = torch.tensor([[0.5, 0.5, 0.0]]).log()
    steered = torch.tensor([[0.5, 0.0, 0.5]]).log()
    between = path_logprobs(base, steered, torch.tensor([0.5])).exp()
    assert between.tolist() == [[1.0, 0.0, 0.0]]
    assert torch.equal(path_logprobs(base, steered, torch.zeros(1)), base), "the base distribution is never cut"


def test_what_a_distribution_spends_is_its_divergence_from_the_base():
    assert divergence_from_base(BASE, BASE).tolist() == [0.0]
    expected = 0.125 * math.log(1 / 4) + 0.125 * math.log(1 / 2) + 0.25 * math.log(2) + 0.5 * math.log(4)
    assert divergence_from_base(STEERED, BASE).item() == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.floats(1e-3, 20))
def test_no_more_is_spent_than_the_budget_and_no_less_than_what_it_pays_for(seed, budget):
    base, steered = (logits.log_softmax(-1).double() for logits in logits_of(seed))
    most = torch.tensor([budget], dtype=torch.float64)
    position = furthest_position(base, steered, most)
    spent = divergence_from_base(path_logprobs(base, steered, position), base)
    assert spent.item() <= budget + 1e-9
    if position.item() < 1:
        assert spent.item() == pytest.approx(budget, abs=1e-4)
        assert position.item() == pytest.approx(furthest_position64(base.numpy(), steered.numpy(), budget), abs=1e-5)


def test_each_row_has_a_budget_of_its_own():
    base, instructed = logits_of(1, rows=4)
    step = step_of(base, instructed, torch.tensor([0.0, 0.1, 1.0, INF]))
    assert step.position[0] == 0
    assert 0 < step.position[1] < step.position[2] < 1
    assert step.position[3] == 1
    for row, budget in enumerate((0.0, 0.1, 1.0, INF)):
        alone = step_of(base[row : row + 1], instructed[row : row + 1], budget)
        torch.testing.assert_close(alone.steered_logprobs, step.steered_logprobs[row : row + 1])


def test_a_budget_of_0_is_the_plain_answer_to_the_bit():
    base, instructed = logits_of(2)
    step, plain = step_of(base, instructed, 0.0), steered_step(base, None, strength=0.0, temperature=0.7)
    for field in ("logprobs", "steered_logprobs", "temperature"):
        assert torch.equal(getattr(step, field), getattr(plain, field)), field
    assert step.spent.tolist() == [0.0]


@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_a_budget_that_pays_for_everything_gives_the_published_formulas_to_the_bit(strength):
    base, instructed = logits_of(3)
    free = steered_step(base, instructed, strength=strength, temperature=0.7, budget=INF)
    paper = steered_step(base, instructed, strength=strength, temperature=0.7)
    for field in ("logprobs", "steered_logprobs", "temperature", "divergence"):
        assert torch.equal(getattr(free, field), getattr(paper, field)), field
    assert (free.position.item(), paper.position) == (1.0, None)


def test_steps_agree_with_float64_on_a_real_vocabulary():
    base, instructed = logits_of(4, rows=20, vocab=50_000)
    budget = torch.linspace(0.01, 5, 20)
    step = step_of(base, instructed, budget)
    base64 = log_softmax64(base.numpy())
    steered64 = steered_logprobs64(base.numpy(), instructed.numpy(), 2.0)
    for row in range(20):
        place = furthest_position64(base64[row : row + 1], steered64[row : row + 1], float(budget[row]))
        expected = path_logprobs64(base64[row : row + 1], steered64[row : row + 1], place)
        assert step.position[row].item() == pytest.approx(place, abs=1e-5)
        np.testing.assert_allclose(step.steered_logprobs[row : row + 1].exp(), np.exp(expected), atol=1e-5, rtol=0)
        assert step.spent[row].item() == pytest.approx(kl_divergence64(expected, base64[row : row + 1]), abs=1e-4)


def test_nothing_is_spent_where_contexts_hardly_diverge():
    base, instructed = logits_of(5)
    divergence = steered_step(base, instructed, strength=2.0, temperature=0.7).divergence.item()
    quiet = step_of(base, instructed, 3.0, quiet_divergence=divergence + 0.01)
    loud = step_of(base, instructed, 3.0, quiet_divergence=divergence - 0.01)
    assert (quiet.position.item(), quiet.spent.item()) == (0.0, 0.0)
    assert loud.position.item() > 0


def test_what_is_avoided_lies_on_the_path_too():
    base, avoided = logits_of(6)
    away = steered_step(
        base, None, strength=0.0, temperature=0.7, avoided_logits=avoided, avoid_strength=1.5, budget=0.2
    )
    assert 0 < away.position.item() < 1
    assert away.spent.item() == pytest.approx(0.2, abs=1e-3)


def test_a_row_of_nan_stays_alone():
    base, instructed = logits_of(7, rows=2)
    base[0, 3] = math.nan
    step = step_of(base, instructed, 1.0)
    assert step.logprobs[0].isnan().any()
    torch.testing.assert_close(step.logprobs[1:], step_of(base[1:], instructed[1:], 1.0).logprobs)
