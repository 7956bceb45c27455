"""The length-controlled rate, against tables that have a closed form and against scikit-learn."""

import math
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sda_engine.errors import ConfigError
from sda_engine.evaluation.length_control import RIDGE, LengthControlled, length_controlled_rate
from sda_engine.evaluation.measures import Estimate
from sda_engine.evaluation.statistics import win_rate


def names(count):
    return [str(place) for place in range(count)]


def controlled(outcomes, differences, *, resamples=1):
    return length_controlled_rate(outcomes, differences, names(len(outcomes)), resamples=resamples)


def drawn(seed, *, quality, length, count=300, lean=0.0):
    """Outcomes of an arm whose log-odds of winning are quality + length * tanh(difference / 100)."""
    generator = np.random.default_rng(seed)
    differences = generator.normal(100 * lean, 100, count)
    chances = 1 / (1 + np.exp(-quality - length * np.tanh(differences / 100)))
    return np.where(generator.random(count) < chances, 1, -1), differences


@pytest.mark.parametrize(
    ("longer", "shorter", "rate"),
    [
        # (wins, losses, ties) of 10 answers longer by 50, and of 10 shorter by 50. With as many parameters as kinds,
        # the intercept is the middle of the two log-odds, log(wins / losses), and a tie is half of each.
        ((5, 5, 0), (5, 5, 0), 0),
        ((9, 1, 0), (1, 9, 0), 0),  # all of it is length
        ((9, 1, 0), (9, 1, 0), 0.8),  # none of it is: the plain rate
        ((8, 2, 0), (5, 5, 0), 1 / 3),  # the middle of log 4 and 0 is log 2: P is 2 in 3
        ((9, 1, 0), (5, 5, 0), 1 / 2),  # log 3: 3 in 4
        ((5, 5, 0), (1, 9, 0), -1 / 2),
        ((8, 2, 0), (2, 8, 0), 0),
        ((7, 1, 2), (5, 5, 0), 1 / 3),  # 7 wins and 2 ties are 8 wins
        ((0, 0, 10), (0, 0, 10), 0),
        ((8, 0, 2), (0, 0, 10), 1 / 2),
    ],
)
def test_the_rate_of_a_table_is_that_of_the_middle_log_odds(longer, shorter, rate):
    outcomes, differences = [], []
    for (wins, losses, ties), difference in ((longer, 50), (shorter, -50)):
        outcomes += 100 * ([1] * wins + [-1] * losses + [0] * ties)
        differences += 1000 * [difference]
    assert controlled(outcomes, differences).rate.value == pytest.approx(rate, abs=1e-3)  # the ridge is light


def test_the_length_effect_is_the_slope_of_the_log_odds():
    outcomes = 1000 * [1, 1, 1, -1, 1, -1, -1, -1]  # 3 in 4 of the longer ones, 1 in 4 of the shorter ones
    slope = controlled(outcomes, 1000 * ([50] * 4 + [-50] * 4)).length_effect
    assert slope == pytest.approx(math.log(3) / math.tanh(1), rel=1e-3)  # one deviation is 50


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_that_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    differences, outcomes = generator.normal(40, 120, 150), generator.choice([-1, 0, 1], size=150)
    outcomes[differences > 200] = 1
    ours = controlled(outcomes, differences)
    longer = np.tanh(differences / differences.std())
    theirs = LogisticRegression(C=1 / RIDGE, solver="newton-cholesky", tol=1e-10).fit(
        np.tile(longer, 2)[:, None],
        np.repeat([1, 0], 150),
        sample_weight=np.concatenate([1 + outcomes, 1 - outcomes]) / 2,
    )
    assert ours.length_effect == pytest.approx(theirs.coef_[0, 0], rel=1e-3)
    chance = theirs.predict_proba([[0.0]])[0, 1]
    assert ours.rate.value == pytest.approx(2 * chance - 1, abs=1e-4)


def test_an_arm_that_wins_by_length_alone_is_no_better():
    outcomes, differences = drawn(0, quality=0, length=3, lean=1)
    assert win_rate(outcomes, names(300), resamples=1).value > 0.5
    found = controlled(outcomes, differences, resamples=100)
    assert found.rate.low < 0 < found.rate.high
    assert found.length_effect == pytest.approx(3, abs=1)


def test_an_arm_that_is_better_at_any_length_keeps_its_rate():
    outcomes, differences = drawn(1, quality=1, length=0)
    found = controlled(outcomes, differences)
    assert found.rate.value == pytest.approx(win_rate(outcomes, names(300), resamples=1).value, abs=0.02)
    assert found.length_effect == pytest.approx(0, abs=0.5)


def test_the_interval_holds_the_true_rate_of_most_studies_and_the_plain_ones_does_not():
    """With as few as 50 draws it holds the rate in 91 of 100 (of 400 tried); fewer than 15 of 20 are then 2% likely."""
    true = math.tanh(0.5 / 2)
    studies = [drawn(seed, quality=0.5, length=1, count=120, lean=1) for seed in range(20)]
    rates = [controlled(*study, resamples=50).rate for study in studies]
    plain = [win_rate(outcomes, names(120), resamples=50) for outcomes, _ in studies]
    assert sum(rate.low <= true <= rate.high for rate in rates) >= 15
    assert sum(rate.low <= true <= rate.high for rate in plain) <= 12


@pytest.mark.parametrize("difference", [0, 37, -5])
def test_lengths_that_do_not_vary_leave_the_plain_rate(difference):
    outcomes = [1, 1, -1, 0, 1]
    plain = win_rate(outcomes, names(5), resamples=50)
    assert controlled(outcomes, [difference] * 5, resamples=50) == LengthControlled(plain, 0.0)


def test_lengths_that_hardly_vary_leave_the_plain_rate():
    """All differences are squashed to 1, and the ridge gives the slope nothing of what the intercept can explain."""
    found = controlled([1, 1, -1, 0, 1], [1000, 1001, 1002, 1001, 1000])
    assert found.rate.value == pytest.approx(0.4, abs=1e-3)
    assert found.length_effect == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("outcome", [1, -1])
def test_outcomes_all_alike_are_the_rate(outcome):
    found = controlled([outcome] * 4, [5, -3, 2, 8], resamples=20)
    assert found == LengthControlled(Estimate(outcome, outcome, outcome), 0.0)


def test_ties_throughout_are_a_rate_of_zero():
    found = controlled([0] * 4, [5, -3, 2, 8], resamples=20)
    assert (found.rate.value, found.rate.low, found.rate.high, found.length_effect) == pytest.approx((0, 0, 0, 0))


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_a_length_that_tells_every_winner_gives_a_finite_slope(count):
    differences = np.linspace(-100, 100, count)
    found = controlled(np.where(differences > 0, 1, -1), differences, resamples=20)
    assert 0.5 < found.length_effect < 100
    assert found.rate.value == pytest.approx(0, abs=1e-3)  # as many either way
    assert -1 <= found.rate.low <= found.rate.high <= 1


def test_the_other_arm_has_the_negative_rate_and_the_same_length_effect():
    outcomes, differences = drawn(2, quality=0.5, length=1, lean=0.5)
    one, other = controlled(outcomes, differences), controlled(-outcomes, -differences)
    assert other.rate.value == pytest.approx(-one.rate.value, abs=1e-5)
    assert other.length_effect == pytest.approx(one.length_effect, abs=1e-4)


def test_words_and_characters_give_the_same_rate():
    outcomes, differences = drawn(3, quality=0.5, length=1)
    words, characters = (controlled(outcomes, unit * differences, resamples=20).rate for unit in (1, 6))
    assert (words.value, words.low) == pytest.approx((characters.value, characters.low), abs=1e-4)


def test_one_answer_twice_as_long_as_the_longest_does_not_decide():
    outcomes, differences = drawn(4, quality=0, length=2)
    place = int(differences.argmax())
    longer = differences.copy()
    longer[place] *= 2
    assert controlled(outcomes, longer).rate.value == pytest.approx(
        controlled(outcomes, differences).rate.value, abs=0.01
    )


def test_a_controlled_rate_is_the_same_every_time_and_draws_whole_prompts():
    outcomes, differences = drawn(5, quality=0.5, length=1, count=60)
    groups = [str(place // 3) for place in range(60)]
    first, second = (length_controlled_rate(outcomes, differences, groups, resamples=20) for _ in range(2))
    assert first == second
    assert first.rate.low < first.rate.value < first.rate.high
    assert length_controlled_rate(outcomes, differences, ["same"] * 60).rate.low is None


@pytest.mark.parametrize(
    ("outcomes", "differences"),
    [([], []), ([1, 0.5], [1, 2]), ([1, 0], [1]), ([1, 0], [1, float("nan")]), ([1], [1, 2])],
)
def test_samples_without_an_outcome_or_a_length_are_refused(outcomes, differences):
    with pytest.raises(ConfigError):
        controlled(outcomes, differences)


def test_a_missing_package_is_told_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"sda-integrations\[report\]"):
        controlled([1, -1], [1, 2])
