"""Figures that a reader can work out by hand, and scipy as an oracle."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, ttest_rel

from sda_engine.errors import ConfigError
from sda_engine.evaluation.measures import Estimate
from sda_engine.evaluation.statistics import PairedDifference, holm, mean, paired_difference, win_rate

OUTCOMES = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=30)


def names(count):
    return [str(place) for place in range(count)]


def width(estimate):
    return estimate.high - estimate.low


# the mean


@pytest.mark.parametrize(
    ("values", "groups", "value"),
    [
        ([3], "a", 3),
        ([1, 2, 6], "abc", 3),
        ([-4, 4], "ab", 0),
        ([0.25, 0.5], "ab", 0.375),
        ([True, False, False, True], "abcd", 0.5),
        ([1, 1, 1, 5], "aaab", 2),  # samples count alike, not prompts
        ([1, 5, 1, 1], "abaa", 2),  # wherever the samples of a prompt stand
    ],
)
def test_the_mean_is_over_all_samples(values, groups, value):
    assert mean(values, list(groups), resamples=10).value == pytest.approx(value)


def test_a_constant_has_an_interval_without_width():
    assert mean([7, 7, 7], names(3), resamples=20) == Estimate(7, 7, 7)


def test_one_prompt_alone_has_a_mean_and_no_interval():
    assert mean([1, 2, 6], ["same"] * 3) == Estimate(3, None, None)


def test_two_prompts_are_drawn_twice_alike_half_of_the_time():
    """Draws are (0, 0), (0, 1), (1, 0), (1, 1), so a quarter of them at each end: more than the 2.5% cut off."""
    assert mean([0, 1], names(2), resamples=200) == Estimate(0.5, 0, 1)


def test_the_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).gamma(2, 10, size=80)
    ours = mean(values, names(80), resamples=2000)
    theirs = bootstrap(
        (values,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(9)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * width(ours))


def test_the_interval_of_a_mean_of_many_is_two_standard_errors_wide_on_either_side():
    values = np.random.default_rng(1).normal(50, 10, size=1000)
    estimate = mean(values, names(1000), resamples=1000)
    assert width(estimate) == pytest.approx(2 * 1.96 * values.std() / 1000**0.5, rel=0.1)


def test_more_answers_alike_to_the_same_prompts_tell_nothing_new():
    values = np.array([3.0, 9, 4, 8, 1, 1, 7])
    alone = mean(values, names(7), resamples=100)
    copied = mean(np.repeat(values, 20), list(np.repeat(names(7), 20)), resamples=100)
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_a_mean_and_its_interval_are_the_same_every_time_and_leave_the_global_state_alone():
    before = np.random.get_state()[1].tolist()
    values = [1, 5, 2, 8, 3]
    assert mean(values, names(5), resamples=50) == mean(values, names(5), resamples=50)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(
    ("values", "groups", "said"),
    [
        ([], [], "one sample at least"),
        ([1, 2], ["a"], "groups of 1 samples"),
        ([[1, 2]], ["a"], r"shape \(1, 2\)"),
        ([1, float("nan")], ["a", "b"], "sample 1 is nan"),
        ([float("inf"), 1], ["a", "b"], "sample 0 is inf"),
    ],
)
def test_a_mean_of_no_figures_or_of_what_is_none_is_refused(values, groups, said):
    with pytest.raises(ConfigError, match=said):
        mean(values, groups)


# the paper's rate


@pytest.mark.parametrize(
    ("wins", "losses", "ties", "rate"),
    [
        (1, 0, 0, 1),
        (0, 1, 0, -1),
        (0, 0, 3, 0),
        (2, 1, 1, 0.25),
        (3, 1, 0, 0.5),
        (1, 0, 3, 0.25),  # ties count among all
        (0, 2, 3, -0.4),
        (5, 5, 0, 0),
        (45, 25, 30, 0.2),
    ],
)
def test_the_win_rate_is_wins_minus_losses_by_all(wins, losses, ties, rate):
    outcomes = [1] * wins + [-1] * losses + [0] * ties
    assert win_rate(outcomes, names(len(outcomes)), resamples=10).value == pytest.approx(rate)


@settings(max_examples=30)
@given(OUTCOMES)
def test_the_other_arm_has_the_negative_rate(outcomes):
    groups = names(len(outcomes))
    one = win_rate(outcomes, groups, resamples=5)
    other = win_rate([-outcome for outcome in outcomes], groups, resamples=5)
    assert other.value == -one.value
    assert -1 <= one.value <= 1


def test_the_interval_of_a_win_rate_is_that_of_scipy():
    outcomes = np.random.default_rng(2).choice([-1, 0, 1], p=[0.2, 0.3, 0.5], size=150)
    ours = win_rate(outcomes, names(150), resamples=2000)
    theirs = bootstrap(
        (outcomes,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(9)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * width(ours))


@pytest.mark.parametrize("strange", [0.5, 2, -3])
def test_an_outcome_that_is_none_is_refused(strange):
    with pytest.raises(ConfigError, match=f"outcome is {strange}"):
        win_rate([1, strange], names(2))


# paired differences


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([5], 1),  # 5, -5
        ([1, 1], 2 / 4),
        ([3, -1], 1),  # 4, 2, -2, -4: none is nearer to zero than 2
        ([1, 1, 1], 2 / 8),
        ([1, 2, -3], 1),  # no sum is nearer to zero than 0
        ([4, 2, -1], 4 / 8),  # 7, 5, 3, 1 and their negatives
        ([-4, -2, 1], 4 / 8),
        ([1, 1, 1, 1, -1], 12 / 32),  # 5 once, 3 five times, and the negatives
        ([1, 1, 1, 1, 1, 1], 2 / 64),
        ([1, 1, 0, 0, 1, 0], 2 / 8),  # prompts that do not differ tell nothing
        ([0.1, 0.1, 0.2, -0.1], 8 / 16),  # 0.5, 0.3 (three times) and the negatives, however floats round them
    ],
)
def test_p_of_few_prompts_is_the_share_of_signs_that_bring_as_large_a_difference(differences, p):
    found = paired_difference(differences, [0] * len(differences), names(len(differences)), resamples=10)
    assert found.p == pytest.approx(p)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(7, 2, 4), (3, 3, 0), (9, 0, 1), (1, 6, 2), (8, 5, 9)])
def test_p_of_a_win_rate_is_that_of_the_sign_test(wins, losses, ties):
    outcomes = [1] * wins + [-1] * losses + [0] * ties
    found = paired_difference(outcomes, np.zeros(len(outcomes)), names(len(outcomes)), resamples=10)
    assert found.p == pytest.approx(binomtest(wins, wins + losses).pvalue)
    assert (found.wins, found.losses, found.ties, found.count) == (wins, losses, ties, len(outcomes))
    assert found.value == win_rate(outcomes, names(len(outcomes)), resamples=10).value


def test_a_paired_difference_has_the_mean_of_the_differences_and_its_interval():
    arm, baseline, groups = [70, 40, 55, 90], [60, 50, 55, 50], ["a", "b", "c", "c"]
    found = paired_difference(arm, baseline, groups, resamples=100)
    expected = mean([10, -10, 0, 40], groups, resamples=100)
    assert (found.value, found.low, found.high) == (10, expected.low, expected.high)
    assert (found.wins, found.losses, found.ties, found.count) == (2, 1, 1, 4)
    assert found.p == 6 / 8  # 10, -10 and 40: 60, 40 (twice), 20 and their negatives


def test_the_samples_of_a_prompt_are_turned_together():
    """Ten answers to three prompts are three observations, however many answers there are."""
    found = paired_difference([1] * 30, [0] * 30, list("abc") * 10, resamples=10)
    assert found.p == 2 / 8
    assert paired_difference([1] * 30, [0] * 30, ["a"] * 30).p == 1


def test_differences_that_cancel_in_every_prompt_are_no_evidence():
    found = paired_difference([1, 0, 1, 0], [0, 1, 0, 1], ["a", "a", "b", "b"], resamples=10)
    assert (found.value, found.wins, found.losses, found.p) == (0, 2, 2, 1)


def test_the_other_way_round_it_is_the_negative_with_the_same_p():
    generator = np.random.default_rng(3)
    arm, baseline = generator.normal(0.3, 1, 50), generator.normal(0, 1, 50)
    one = paired_difference(arm, baseline, names(50), resamples=50, flips=199)
    other = paired_difference(baseline, arm, names(50), resamples=50, flips=199)
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))
    assert (other.wins, other.losses, other.p) == (one.losses, one.wins, one.p)


def test_signs_drawn_at_random_come_near_to_all_of_them():
    differences = np.random.default_rng(4).normal(0.5, 1, 13)
    exact, drawn = (
        paired_difference(differences, np.zeros(13), names(13), resamples=10, flips=flips).p for flips in (2**13, 8000)
    )
    assert exact * 2**13 == pytest.approx(round(exact * 2**13))
    assert drawn == pytest.approx(exact, abs=4 * (exact / 8000) ** 0.5)
    assert drawn != exact


def test_p_drawn_at_random_is_never_zero():
    found = paired_difference([1] * 40, [0] * 40, names(40), resamples=10, flips=99)
    assert found.p == pytest.approx(2 / 100)  # the signs seen are one of the hundred, at either end


@pytest.mark.parametrize(("shift", "seed"), [(0.0, 0), (0.1, 1), (0.2, 2)])
def test_p_of_many_prompts_is_near_that_of_the_paired_t_test(shift, seed):
    generator = np.random.default_rng(seed)
    baseline = generator.normal(0, 1, 300)
    arm = baseline + generator.normal(shift, 1, 300)
    p = paired_difference(arm, baseline, names(300), resamples=10, flips=4999).p
    assert p == pytest.approx(ttest_rel(arm, baseline).pvalue, abs=0.03)


def test_the_same_answers_differ_by_nothing_and_are_not_tested():
    scores = np.random.default_rng(5).normal(50, 10, 30)
    found = paired_difference(scores, scores.copy(), names(30), resamples=20)
    assert found == PairedDifference(value=0, low=0, high=0, wins=0, losses=0, ties=30, count=30, p=None)


def test_a_paired_difference_is_the_same_every_time():
    arm, baseline = np.random.default_rng(6).normal(0, 1, (2, 40))
    first, second = (paired_difference(arm, baseline, names(40), resamples=20, flips=99) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arm", "baseline"), [([1, 2], [1]), ([1], [1, 2]), ([1, float("nan")], [1, 2]), ([1, 2], [float("nan"), 2])]
)
def test_samples_without_a_figure_in_both_arms_are_refused(arm, baseline):
    with pytest.raises(ConfigError):
        paired_difference(arm, baseline, names(2))


def test_a_missing_package_is_told_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"sda-integrations\[report\]"):
        paired_difference([1, 2], [0, 0], names(2), resamples=1)


# Holm's correction


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ((), ()),
        ((0.05,), (0.05,)),
        ((0.01, 0.04), (0.02, 0.04)),
        ((0.01, 0.04, 0.03), (0.03, 0.06, 0.06)),  # 0.04 * 1 is below 0.03 * 2
        ((0.01, 0.02, 0.03, 0.04), (0.04, 0.06, 0.06, 0.06)),
        ((0.5, 0.6), (1, 1)),
        ((0.02, 0.02), (0.04, 0.04)),
        ((0, 1), (0, 1)),
        ((0.3, 0.001, 0.2, 0.004), (0.4, 0.004, 0.4, 0.012)),
        ((None, 0.02, None, 0.03), (None, 0.04, None, 0.04)),  # two tests, not four
        ((None,), (None,)),
    ],
)
def test_holms_p_is_times_the_tests_that_are_left(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holms_correction_is_the_closed_test_with_bonferronis(p_values):
    """Another definition: the largest of Bonferroni's p over all sets of tests that have the test among them."""

    def closed(place):
        others = [p for other, p in enumerate(p_values) if other != place]
        sets = itertools.chain.from_iterable(itertools.combinations(others, size) for size in range(len(p_values)))
        return max(min(1, (len(some) + 1) * min((p_values[place], *some))) for some in sets)

    assert holm(p_values) == pytest.approx([closed(place) for place in range(len(p_values))])


@pytest.mark.parametrize("strange", [-0.1, 1.2, float("nan")])
def test_what_is_no_p_value_is_refused(strange):
    with pytest.raises(ConfigError, match="p value is"):
        holm([0.5, strange])
