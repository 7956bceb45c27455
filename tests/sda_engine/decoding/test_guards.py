import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.decoding.guards import (
    COLLAPSE_WINDOW,
    GRAM,
    GRAM_WINDOW,
    MAX_PERIOD,
    MAX_REPEATED_GRAMS,
    MIN_LOOP,
    MIN_REPEATS,
    CollapseDetector,
    GramDetector,
    Guard,
    LoopDetector,
    find_repetition,
)
from sda_engine.steering import steered_step

FEW_TOKENS = st.lists(st.integers(0, 2), min_size=40, max_size=200)


def found_at(detector, tokens):
    """The places at which a detector says something."""
    return [place for place, token in enumerate(tokens) if detector.push(token) is not None]


def cycle(period, count):
    return [place % period for place in range(count)]


def random_tokens(count, vocab, seed=0):
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def entropies_of(probabilities, *, base=None, temperature=1.0):
    """The entropies of a step that draws from these probabilities; the base context's own ones may differ."""
    logits = torch.tensor([probabilities]).log()
    base_logits = logits if base is None else torch.tensor([base]).log()
    step = steered_step(base_logits, logits, strength=0.0, temperature=temperature, schedule=lambda s: s.temperature)
    return None if temperature == 0 else (step.drawn_entropy.item(), step.base.entropy.item())


UNSURE = entropies_of([0.25] * 4)
COLLAPSED = entropies_of([1 - 3e-6, 1e-6, 1e-6, 1e-6], base=[0.25] * 4)
SURE_ANYHOW = entropies_of([1 - 3e-6, 1e-6, 1e-6, 1e-6])


@pytest.mark.parametrize("period", [1, 2, 5, 7, 8, 9, 20, MAX_PERIOD])
def test_a_loop_is_found_with_the_token_that_completes_it(period):
    needed = max(MIN_LOOP, MIN_REPEATS * period)
    before = [1000, 1001, 1002]
    assert found_at(LoopDetector(), before + cycle(period, needed)) == [len(before) + needed - 1]
    assert found_at(LoopDetector(), before + cycle(period, needed - 1) + before) == []


def test_what_is_said_of_a_loop_names_its_length_and_its_shortest_period():
    detector = LoopDetector()
    said = [detector.push(token) for token in cycle(5, 24)]
    assert said[-1] == "the last 24 chosen tokens repeat a sequence of 5 tokens"
    detector = LoopDetector()
    assert [detector.push(7) for _ in range(24)][-1] == "the last 24 chosen tokens repeat one token"


def test_a_sequence_longer_than_the_longest_period_is_no_loop():
    assert found_at(LoopDetector(), cycle(MAX_PERIOD + 1, 500)) == []


@given(FEW_TOKENS)
def test_loops_are_those_that_a_look_at_the_whole_text_finds(tokens):
    def loops(text):
        for period in range(1, MAX_PERIOD + 1):
            needed = max(MIN_LOOP, MIN_REPEATS * period)
            last = text[-needed:]
            if len(last) == needed and last[period:] == last[:-period]:
                return True
        return False

    expected = [place for place in range(len(tokens)) if loops(tokens[: place + 1])]
    assert found_at(LoopDetector(), tokens) == expected


@given(FEW_TOKENS)
def test_repeated_grams_are_those_that_a_look_at_the_window_counts(tokens):
    def share(text):
        grams = [tuple(text[start : start + GRAM]) for start in range(len(text) - GRAM + 1)][-GRAM_WINDOW:]
        return 0.0 if len(grams) < GRAM_WINDOW else 1 - len(set(grams)) / GRAM_WINDOW

    expected = [place for place in range(len(tokens)) if share(tokens[: place + 1]) >= MAX_REPEATED_GRAMS]
    assert found_at(GramDetector(), tokens) == expected


@pytest.mark.parametrize("seed", range(5))
def test_random_text_repeats_nothing(seed):
    tokens = random_tokens(3000, 200, seed)
    assert found_at(LoopDetector(), tokens) == []
    assert found_at(GramDetector(), tokens) == []


def test_a_window_of_tokens_without_chance_is_a_collapse_if_the_base_context_is_unsure():
    detector = CollapseDetector()
    said = [detector.push(0.01, 2.0) for _ in range(COLLAPSE_WINDOW)]
    assert said[:-1] == [None] * (COLLAPSE_WINDOW - 1)
    assert "0.010 nats" in said[-1]
    assert "2.00" in said[-1]


@pytest.mark.parametrize(("sampled", "base"), [(0.5, 2.0), (0.01, 0.1), (0.0, 0.0)])
def test_chance_that_is_left_or_was_never_there_is_no_collapse(sampled, base):
    detector = CollapseDetector()
    assert {detector.push(sampled, base) for _ in range(3 * COLLAPSE_WINDOW)} == {None}


def test_a_guard_tells_repetition_from_collapse():
    repeating, collapsing = Guard(), Guard()
    kinds = [finding.kind for _ in range(100) if (finding := repeating.watch(7, UNSURE))]
    assert set(kinds) == {"repetition"}
    tokens = random_tokens(100, 1000)
    kinds = [finding.kind for token in tokens if (finding := collapsing.watch(token, COLLAPSED))]
    assert kinds == ["collapse"] * (100 // COLLAPSE_WINDOW)


@pytest.mark.parametrize("entropies", [UNSURE, SURE_ANYHOW], ids=["unsure", "sure anyhow"])
def test_a_guard_has_nothing_to_say_about_random_text(entropies):
    guard = Guard()
    assert {guard.watch(token, entropies) for token in random_tokens(1000, 1000)} == {None}


def test_greedy_decoding_is_no_collapse():
    greedy = entropies_of([0.7, 0.1, 0.1, 0.1], temperature=0.0)
    guard = Guard()
    assert {guard.watch(token, greedy) for token in random_tokens(300, 1000)} == {None}


def test_after_a_finding_a_guard_starts_afresh():
    guard = Guard()
    found = [place for place in range(100) if guard.watch(7, UNSURE) is not None]
    assert found == [MIN_LOOP - 1, 2 * MIN_LOOP - 1, 3 * MIN_LOOP - 1, 4 * MIN_LOOP - 1]


def test_half_a_loop_before_a_finding_and_half_after_it_are_no_finding():
    guard = Guard()
    assert [guard.watch(7, UNSURE) is not None for _ in range(MIN_LOOP + 20)].count(True) == 1
    assert {guard.watch(token, UNSURE) for token in random_tokens(60, 1000)} == {None}


def test_a_masked_token_leaves_the_entropy_a_number():
    entropies = entropies_of([0.5, 0.5, 0.0, 0.0])
    guard = Guard()
    assert {guard.watch(token, entropies) for token in random_tokens(100, 1000)} == {None}
    assert entropies == pytest.approx((math.log(2), math.log(2)))


def test_a_whole_text_is_searched_for_what_repeats():
    assert find_repetition(range(200)) is None
    assert find_repetition([]) is None
    assert "repeat" in find_repetition([*range(10), *[1, 2, 3] * 8])
