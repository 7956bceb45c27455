import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sda_engine.steering.sampling import make_generator, sample

LOGPROBS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()  # best first: 1, 3, 2, 0


def draw(uniform, logprobs=LOGPROBS, **limits):
    limits = {name: torch.tensor([value]) for name, value in limits.items()}
    return sample(logprobs, torch.tensor([uniform], dtype=torch.float64), **limits).item()


def possible(logprobs=LOGPROBS, **limits):
    """The tokens that any of 400 uniform numbers draws."""
    uniform = torch.linspace(0, 1 - 1e-9, 400).double()
    limits = {name: torch.tensor([value]).expand(400) for name, value in limits.items()}
    return set(sample(logprobs.expand(400, -1), uniform, **limits).tolist())


def test_a_uniform_number_walks_down_the_most_likely_tokens():
    assert [draw(uniform) for uniform in (0.0, 0.39, 0.41, 0.69, 0.71, 0.89, 0.91, 0.999999)] == [
        1,
        1,
        3,
        3,
        2,
        2,
        0,
        0,
    ]


def test_top_k_keeps_the_most_likely_tokens():
    assert possible(top_k=2) == {1, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    assert possible(top_p=0.65) == {1, 3}
    assert possible(top_p=0.75) == {1, 3, 2}
    assert possible(top_p=0.01) == {1}
    assert possible(top_p=1.0) == {0, 1, 2, 3}


def test_min_p_is_relative_to_the_most_likely_token():
    assert possible(min_p=0.49) == {1, 3, 2}  # 0.2 is half of 0.4
    assert possible(min_p=0.51) == {1, 3}
    assert possible(min_p=1.0) == {1}


def test_a_one_hot_row_always_gives_its_argmax():
    one_hot = torch.full((1, 4), -torch.inf)
    one_hot[0, 2] = 0.0
    assert possible(one_hot, top_p=0.9) == possible(one_hot) == {2}


def test_masked_tokens_are_never_drawn():
    masked = LOGPROBS.clone()
    masked[0, 1] = -torch.inf
    assert possible(masked.log_softmax(-1)) == {0, 2, 3}


def test_each_row_has_its_own_limits():
    logprobs = LOGPROBS.repeat(3, 1)
    drawn = sample(
        logprobs,
        torch.tensor([0.99, 0.99, 0.99], dtype=torch.float64),
        top_k=torch.tensor([1, 2, 4]),
        top_p=torch.tensor([1.0, 1.0, 0.85]),
    )
    assert drawn.tolist() == [1, 3, 2]


@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.5),
)
def test_the_kept_set_is_that_of_transformers(seed, top_k, top_p, min_p):
    generator = torch.Generator().manual_seed(seed)
    logprobs = (torch.randn(1, 40, generator=generator) * 2).log_softmax(-1)
    scores = logprobs
    for warper in (TopKLogitsWarper(top_k), TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)):
        scores = warper(None, scores)
    expected = set(torch.nonzero(scores[0].isfinite()).flatten().tolist())
    assert possible(logprobs, top_k=top_k, top_p=top_p, min_p=min_p) <= expected
    probabilities = scores.softmax(-1)[0]
    heavy = {token for token in expected if probabilities[token] > 1 / 300}
    assert heavy <= possible(logprobs, top_k=top_k, top_p=top_p, min_p=min_p)


@pytest.mark.parametrize("top_k", [50, 64, 65, 100, 2000])
@pytest.mark.parametrize("top_p", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_token_that_may_be_drawn_of_a_large_vocabulary_is_that_of_transformers(top_k, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    logprobs = (torch.randn(1, 20_000, generator=generator) * 1.5).double().log_softmax(-1)
    scores = logprobs
    for warper in (TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        scores = warper(None, scores)
    kept = torch.where(scores.isfinite(), logprobs, torch.inf)[0]
    assert draw(1 - 1e-12, logprobs, top_k=top_k, top_p=top_p) == int(kept.argmin())


@pytest.mark.parametrize(("top_p", "size"), [(None, 5000), (0.9, 4500), (0.3, 1500)])
def test_a_flat_distribution_over_a_large_vocabulary_is_not_cut_to_the_candidates(top_p, size):
    flat = (torch.arange(5000) * -1e-9).double().log_softmax(-1).unsqueeze(0)  # best first, and nearly equal
    limits = {} if top_p is None else {"top_p": top_p}
    assert draw(0.0, flat, **limits) == 0
    assert draw(1 - 1e-12, flat, **limits) == pytest.approx(size - 1, abs=2)
    assert draw(0.5, flat, **limits) == pytest.approx(size / 2, abs=2)


def test_drawing_follows_the_distribution():
    generator = make_generator(3)
    drawn = [draw(float(torch.rand(1, generator=generator, dtype=torch.float64))) for _ in range(4000)]
    frequencies = torch.bincount(torch.tensor(drawn), minlength=4) / 4000
    torch.testing.assert_close(frequencies, torch.tensor([0.1, 0.4, 0.2, 0.3]), atol=0.03, rtol=0)


def test_the_same_seed_repeats_and_no_seed_is_fresh():
    first, again = (torch.rand(4, generator=make_generator(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(torch.rand(4, generator=make_generator(None)), torch.rand(4, generator=make_generator(None)))


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    make_generator(1)
    draw(0.5, top_p=0.9)
    assert torch.equal(before, torch.get_rng_state())
