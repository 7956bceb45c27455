"""Agreement of two judges, by hand and against the formulas."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sda_engine.errors import ConfigError
from sda_engine.evaluation.agreement import kappa, rank_correlation

COUPLES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40)


def table(both_yes, yes_no, no_yes, both_no):
    first = ["yes"] * (both_yes + yes_no) + ["no"] * (no_yes + both_no)
    return first, ["yes"] * both_yes + ["no"] * yes_no + ["yes"] * no_yes + ["no"] * both_no


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ((1, 0, 0, 1), 1),
        ((0, 1, 1, 0), -1),  # by chance half of them would agree, and none does
        ((1, 1, 1, 1), 0),
        ((20, 5, 10, 15), 0.4),  # they agree in 0.7, by chance in 0.5
        ((45, 15, 25, 15), 0.06 / 0.46),  # 0.6 and 0.54
        ((25, 35, 5, 35), 0.14 / 0.54),  # 0.6 and 0.46
        ((3, 1, 0, 0), 0),  # one judge says yes throughout: 0.75 either way
        ((0, 5, 0, 0), 0),  # each says one thing throughout, and not the same
        ((4, 0, 2, 4), 0.32 / 0.52),  # 0.8 and 0.4 * 0.6 + 0.6 * 0.4
    ],
)
def test_kappa_is_the_agreement_beyond_chance_by_what_there_could_be(counts, value):
    assert kappa(*table(*counts)) == pytest.approx(value)


def test_kappa_of_three_verdicts():
    first = ["first", "first", "second", "tie", "tie", "second"]
    second = ["first", "second", "second", "tie", "first", "tie"]
    assert kappa(first, second) == pytest.approx((3 / 6 - 1 / 3) / (1 - 1 / 3))  # each says each twice


def test_kappa_takes_outcomes():
    assert kappa([1, 0, -1, 1], [1, 0, -1, 1]) == 1


@pytest.mark.parametrize("verdicts", [[], ["tie"], ["first"] * 7])
def test_kappa_of_one_verdict_throughout_is_not_defined(verdicts):
    assert kappa(verdicts, verdicts) is None


@settings(max_examples=30)
@given(COUPLES)
def test_kappa_is_that_of_the_formula_and_the_same_either_way(couples):
    first, second = (list(verdicts) for verdicts in zip(*couples, strict=True))
    agreed = sum(one == other for one, other in couples) / len(couples)
    by_chance = sum(first.count(verdict) * second.count(verdict) for verdict in "abc") / len(couples) ** 2
    if by_chance == 1:
        assert kappa(first, second) is None
    else:
        assert kappa(first, second) == pytest.approx((agreed - by_chance) / (1 - by_chance))
        assert kappa(second, first) == pytest.approx(kappa(first, second))


def test_judges_of_unequally_many_pairs_are_refused():
    with pytest.raises(ConfigError, match="has 1 verdicts and the other 2"):
        kappa(["tie"], ["tie", "tie"])


def arms(*figures):
    return {f"arm {place}": figure for place, figure in enumerate(figures)}


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        # 1 - 6 * (sum of the squared differences of ranks) / (n ** 3 - n) where no ranks are tied
        ((1, 2, 3), (10, 20, 30), 1),
        ((1, 2, 3), (3, 2, 1), -1),
        ((1, 2, 3), (1, 3, 2), 1 - 6 * 2 / 24),
        ((1, 2, 3), (2, 3, 1), 1 - 6 * 6 / 24),
        ((1, 2, 3, 4), (2, 1, 4, 3), 1 - 6 * 4 / 60),
        ((1, 2, 3, 4), (4, 3, 1, 2), 1 - 6 * 18 / 60),
        ((1, 2, 3, 4, 5), (5, 1, 2, 3, 4), 0),
        ((0.1, 0.2, 0.9), (-5, 0, 1000), 1),  # ranks, not distances
        ((1, 1, 2), (1, 2, 3), 1.5 / (1.5 * 2) ** 0.5),  # tied arms have rank 1.5 each
    ],
)
def test_rank_correlation_by_hand(first, second, value):
    assert rank_correlation(arms(*first), arms(*second)) == pytest.approx(value)


def test_rank_correlation_goes_by_name_over_the_arms_that_both_have():
    first = {"plain": 1, "steered": 3, "prompted": 2, "only here": 99}
    second = {"only there": -7, "prompted": 5, "plain": 4, "steered": 6}
    assert rank_correlation(first, second) == pytest.approx(1)


@pytest.mark.parametrize(
    ("first", "second"),
    [((), ()), ((1, 2), (1, 2)), ((5, 5, 5), (1, 2, 3)), ((1, 2, 3), (0, 0, 0)), ((1, 2, 3), (1, 2))],
)
def test_rank_correlation_of_too_few_arms_or_of_a_constant_is_not_defined(first, second):
    assert rank_correlation(arms(*first), arms(*second)) is None


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_is_that_of_scipy(seed):
    first, second = np.random.default_rng(seed).integers(0, 6, (2, 8)).tolist()
    assert rank_correlation(arms(*first), arms(*second)) == pytest.approx(spearmanr(first, second).statistic)


def test_a_figure_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="must be finite"):
        rank_correlation(arms(1, 2, float("nan")), arms(1, 2, 3))


@pytest.mark.parametrize(
    ("module", "figure"),
    [
        ("sklearn.metrics", lambda: kappa(["tie"], ["tie"])),
        ("scipy.stats", lambda: rank_correlation(arms(1, 2, 3), arms(1, 2, 3))),
    ],
)
def test_a_missing_package_is_told_with_the_extra(monkeypatch, module, figure):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"sda-integrations\[report\]"):
        figure()
