"""Figures that a reader can work out by hand."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.evaluation.measures import (
    Bin,
    auc,
    binned,
    brier_score,
    kendall_tau,
    log_loss,
    prompt_auc,
    spearman,
)


def array(*values):
    return np.array(values, dtype=float)


def names(count):
    return [str(place) for place in range(count)]


def test_auc_is_the_share_of_couples_in_the_right_order_and_a_tie_counts_half():
    scores, labels = array(90, 50, 50, 10), array(1, 1, 0, 0)  # 90>50, 90>10, 50=50, 50>10
    assert auc(scores, labels, names(4), resamples=10).value == 3.5 / 4


def test_auc_of_labels_of_one_kind_is_none():
    assert auc(array(1, 2), array(1, 1), names(2)) is None


def test_an_interval_holds_the_figure_and_is_the_same_every_time():
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=60).astype(float)
    scores = labels + generator.normal(0, 1, 60)
    first, second = (auc(scores, labels, names(60), resamples=200) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high


def test_pairs_on_the_same_prompt_are_drawn_together():
    """A hundred copies of a pair tell nothing new: the interval must not shrink."""
    scores, labels = array(80, 30, 60, 40, 20, 70, 55), array(1, 0, 0, 1, 0, 1, 0)
    alone = auc(scores, labels, names(7), resamples=100)
    copied = auc(np.repeat(scores, 100), np.repeat(labels, 100), list(np.repeat(names(7), 100)), resamples=100)
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_one_prompt_alone_has_no_interval():
    estimate = auc(array(1, 2, 3), array(0, 1, 0), ["same"] * 3)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, None, None)


def test_prompt_auc_compares_answers_to_the_same_prompt_only():
    scores = array(20, 10, 90, 80)  # the false answer to b scores above the true one to a
    labels, prompts = array(1, 0, 1, 0), ["a", "a", "b", "b"]
    assert prompt_auc(scores, labels, prompts, resamples=10).value == 1.0
    assert auc(scores, labels, prompts, resamples=10).value == 0.75


def test_prompt_auc_counts_couples_alike():
    scores = array(5, 5, 1, 2, 3)  # a: a tie; b: 1 of 1 and 3 against 2 is none of the labels' couples
    assert prompt_auc(scores, array(1, 0, 0, 1, 1), ["a", "a", "b", "b", "b"], resamples=10).value == 2.5 / 3


def test_prompt_auc_without_a_couple_is_none():
    assert prompt_auc(array(1, 2), array(1, 0), ["a", "b"]) is None


def test_spearman_is_one_for_the_same_order_and_none_for_a_constant():
    assert spearman(array(1, 2, 30), array(4, 5, 6), names(3), resamples=10).value == pytest.approx(1)
    assert spearman(array(1, 2, 3), array(9, 5, 1), names(3), resamples=10).value == pytest.approx(-1)
    assert spearman(array(7, 7, 7), array(4, 5, 6), names(3)) is None


def test_kendall_tau_is_concordant_minus_discordant_couples():
    assert kendall_tau(array(1, 2, 3), array(1, 3, 2)) == pytest.approx(1 / 3)
    assert kendall_tau(array(1, 2, 3), array(5, 5, 5)) is None
    assert kendall_tau(array(), array()) is None


def test_brier_score_and_log_loss_of_a_coin():
    half, labels = array(0.5, 0.5), array(1, 0)
    assert brier_score(half, labels) == 0.25
    assert log_loss(half, labels) == pytest.approx(math.log(2))


def test_losses_of_labels_of_one_kind_are_told():
    assert brier_score(array(0.8), array(1)) == pytest.approx(0.04)
    assert log_loss(array(0.8), array(1)) == pytest.approx(-math.log(0.8))


def test_bins_hold_their_lower_end_and_the_last_one_holds_one():
    assert binned(array(0.1, 0.15, 0.2, 1.0), array(1, 0, 1, 1)) == (
        Bin(0.1, 0.2, 2, pytest.approx(0.125), 0.5),
        Bin(0.2, pytest.approx(0.3), 1, 0.2, 1.0),
        Bin(0.9, 1.0, 1, 1.0, 1.0),
    )


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_bins_hold_every_pair_once(pairs):
    rated, outcomes = (array(*values) for values in zip(*pairs, strict=True))
    bins = binned(rated, outcomes)
    assert sum(one.count for one in bins) == len(pairs)
    assert sum(one.count * one.outcome for one in bins) == pytest.approx(outcomes.sum())


@pytest.mark.parametrize(
    ("module", "figure"),
    [
        ("sklearn.metrics", lambda: auc(array(1, 2), array(0, 1), names(2))),
        ("sklearn.metrics", lambda: brier_score(array(1), array(1))),
        ("scipy.stats", lambda: kendall_tau(array(1, 2), array(0, 1))),
        ("scipy.stats", lambda: spearman(array(1, 2), array(0, 1), names(2))),
    ],
)
def test_a_missing_package_is_told_with_the_extra(monkeypatch, module, figure):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"sda-integrations\[report\]"):
        figure()
