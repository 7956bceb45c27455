"""Verdicts in both orders: every couple of them, and the shares that tell how far order decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sda_engine.errors import ConfigError
from sda_engine.evaluation.measures import Estimate
from sda_engine.evaluation.pairwise import Settled, first_share, order_bias, settle

VERDICTS = st.sampled_from(["first", "second", "tie"])
TURNED, KEPT = Settled(0, turned=True), Settled(1, turned=False)


@pytest.mark.parametrize(
    ("first", "second", "outcome", "turned"),
    [
        ("first", "second", 1, False),  # the arm stood first, then second
        ("second", "first", -1, False),
        ("tie", "tie", 0, False),
        ("first", "first", 0, True),  # whichever stood first
        ("second", "second", 0, True),
        ("first", "tie", 0, False),  # half agreement
        ("tie", "second", 0, False),
        ("second", "tie", 0, False),
        ("tie", "first", 0, False),
    ],
)
def test_an_arm_wins_where_both_orders_say_so(first, second, outcome, turned):
    assert settle(first, second) == Settled(outcome, turned)


@given(VERDICTS, VERDICTS)
def test_the_other_arm_has_the_negative_outcome(first, second):
    one, other = settle(first, second), settle(second, first)  # its answer stood first in the other order
    assert (other.outcome, other.turned) == (-one.outcome, one.turned)


@pytest.mark.parametrize("verdicts", [("First", "tie"), ("tie", "A")])
def test_what_is_no_verdict_is_refused(verdicts):
    with pytest.raises(ConfigError, match="'first', 'second' or 'tie'"):
        settle(*verdicts)


@pytest.mark.parametrize(
    ("turned", "pairs", "bias"),
    [
        (0, 1, 0),
        (1, 1, 1),
        (0, 5, 0),
        (5, 5, 1),
        (1, 2, 0.5),
        (1, 4, 0.25),
        (3, 10, 0.3),
        (2, 3, 2 / 3),
        (7, 100, 0.07),
    ],
)
def test_order_bias_is_the_share_of_pairs_that_turned(turned, pairs, bias):
    settled = [TURNED] * turned + [KEPT] * (pairs - turned)
    assert order_bias(settled, resamples=10).value == pytest.approx(bias)


def test_a_tie_is_no_order_bias():
    settled = [settle("tie", "first"), settle("tie", "tie"), settle("first", "first"), settle("second", "first")]
    assert order_bias(settled, resamples=10).value == 1 / 4


def test_a_judge_who_always_takes_the_first_is_nothing_but_biased():
    assert order_bias([settle("first", "first")] * 9, resamples=10) == Estimate(1, 1, 1)


def test_the_interval_of_an_order_bias_is_near_the_normal_one():
    estimate = order_bias([TURNED] * 120 + [KEPT] * 280, resamples=500)
    half = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert (estimate.low, estimate.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.01)


def test_pairs_on_the_same_prompt_are_drawn_together():
    settled = [TURNED, KEPT, KEPT, TURNED, KEPT]
    alone = order_bias(settled, resamples=100)
    copied = order_bias(
        [one for one in settled for _ in range(30)], groups=list(np.repeat(list("abcde"), 30)), resamples=100
    )
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_an_order_bias_of_one_prompt_has_no_interval():
    assert order_bias([TURNED, KEPT], groups=["a", "a"]) == Estimate(0.5, None, None)


@pytest.mark.parametrize(("settled", "groups"), [([], None), ([KEPT], ["a", "b"]), ([KEPT, KEPT], ["a"])])
def test_an_order_bias_without_a_pair_or_without_its_prompt_is_refused(settled, groups):
    with pytest.raises(ConfigError):
        order_bias(settled, groups=groups)


@pytest.mark.parametrize(
    ("firsts", "seconds", "ties", "value"),
    [
        (1, 0, 0, 1),
        (0, 1, 0, 0),
        (1, 1, 0, 0.5),
        (1, 1, 8, 0.5),  # ties are none of the verdicts with a winner
        (3, 1, 0, 0.75),
        (3, 1, 4, 0.75),
        (2, 3, 1, 0.4),
        (60, 40, 20, 0.6),
        (0, 4, 2, 0),
    ],
)
def test_the_first_share_is_that_of_the_verdicts_with_a_winner(firsts, seconds, ties, value):
    verdicts = ["tie"] * ties + ["first"] * firsts + ["second"] * seconds
    assert first_share(verdicts, resamples=10).value == pytest.approx(value)


@pytest.mark.parametrize("verdicts", [[], ["tie"], ["tie"] * 5])
def test_ties_alone_have_no_first_share(verdicts):
    assert first_share(verdicts) is None


def test_a_judge_to_whom_order_is_nothing_has_a_half_without_a_doubt_where_both_orders_are_drawn_together():
    verdicts, groups = ["first", "second", "second", "first"] * 10, [str(place // 2) for place in range(40)]
    assert first_share(verdicts, groups=groups, resamples=100) == Estimate(0.5, 0.5, 0.5)
    apart = first_share(verdicts, resamples=100)
    assert apart.low < 0.4 < 0.6 < apart.high


def test_prompts_with_ties_alone_are_not_drawn():
    with_ties = first_share(["first", "tie", "second", "first"], groups=list("abcd"), resamples=50)
    assert with_ties == first_share(["first", "second", "first"], groups=list("acd"), resamples=50)


@settings(max_examples=30)
@given(st.lists(VERDICTS, min_size=1, max_size=20))
def test_the_second_has_the_rest(verdicts):
    swapped = [{"first": "second", "second": "first", "tie": "tie"}[verdict] for verdict in verdicts]
    one, other = first_share(verdicts, resamples=5), first_share(swapped, resamples=5)
    assert one is other is None or one.value + other.value == pytest.approx(1)


@pytest.mark.parametrize(("verdicts", "groups"), [(["one"], None), (["first"], []), (["first", "tie"], ["a"])])
def test_a_first_share_of_what_is_no_verdict_or_has_no_prompt_is_refused(verdicts, groups):
    with pytest.raises(ConfigError):
        first_share(verdicts, groups=groups)
