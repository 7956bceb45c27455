"""Reports on ratings that are given."""

import json
import math

import pytest

from sda_engine.evaluation.evaluator_report import EvaluatorRatings, Latency, Rating, Spread, make_report
from sda_engine.evaluators.protocol import EvaluatorUsage
from tests.sda_engine.evaluation.ratings import pair, rated


def figures_of(pairs, *repeats_of_pairs):
    (figures,) = make_report(pairs, [rated("one", *repeats_of_pairs)], resamples=10).evaluators
    return figures


def test_a_pairs_score_is_the_mean_of_its_repeats():
    figures = figures_of([pair(), pair()], [10, 30], [60, 60])
    assert figures.mean == 40
    assert figures.deviation == pytest.approx(math.sqrt(800))  # of 20 and 60


def test_spread_is_the_standard_deviation_of_repeats():
    figures = figures_of([pair()] * 3, [10, 20, 30], [50, 50, 50], [40, 60, None])
    assert figures.spread == Spread(median=10, largest=pytest.approx(math.sqrt(200)))


def test_one_repeat_has_no_spread():
    assert figures_of([pair()], [10]).spread is None


def test_failures_are_counted_with_the_commonest_error():
    errors = ["EvaluationError: a", "TimeoutError: b", "TimeoutError: b"]
    ratings = [[Rating(50, 1.0), *(Rating(None, 1.0, error) for error in errors)]]
    (figures,) = make_report([pair()], [EvaluatorRatings("one", ratings)]).evaluators
    assert (figures.rated, figures.calls, figures.failures) == (1, 4, 3)
    assert figures.failure_rate == 0.75
    assert figures.commonest_error == "TimeoutError: b"


def test_an_evaluator_that_always_fails_has_figures_all_the_same():
    figures = figures_of([pair(label=True, score=30)] * 2, [None], [None])
    assert (figures.rated, figures.failures, figures.failure_rate) == (0, 2, 1.0)
    assert figures.mean is figures.spread is figures.latency is figures.labels is figures.people is None


def test_latency_is_that_of_each_pairs_first_success():
    ratings = [[Rating(None, 9.0, "no"), Rating(50, 2.0), Rating(50, 0.1)], [Rating(50, 4.0), Rating(50, 0.1)]]
    (figures,) = make_report([pair(), pair()], [EvaluatorRatings("one", ratings)]).evaluators
    assert figures.latency == Latency(median=3.0, p95=pytest.approx(3.9))


def test_only_labelled_pairs_with_a_score_count_against_labels():
    pairs = [pair("a", True), pair("b", False), pair("c"), pair("d", False)]
    labels = figures_of(pairs, [80], [40], [1], [None]).labels
    assert (labels.pairs, labels.acceptable, labels.auc.value) == (2, 1, 1.0)
    assert labels.brier == pytest.approx((0.2**2 + 0.4**2) / 2)
    assert [(one.count, one.outcome) for one in labels.bins] == [(1, 0.0), (1, 1.0)]


def test_labels_of_one_kind_have_losses_and_no_auc():
    labels = figures_of([pair(label=False)] * 2, [80], [40]).labels
    assert labels.auc is None
    assert labels.brier == pytest.approx((0.64 + 0.16) / 2)


def test_peoples_ratings_are_compared_in_rank_and_in_points():
    people = figures_of([pair("a", score=10), pair("b", score=50), pair("c", score=90)], [20], [50], [70]).people
    assert people.spearman.value == pytest.approx(1)
    assert people.mean_absolute_difference == 10
    assert [one.outcome for one in people.bins] == pytest.approx([0.1, 0.5, 0.9])


def test_each_two_evaluators_are_compared_on_what_both_have_rated():
    three = [rated("a", [10], [20], [30], [None]), rated("b", [20], [30], [40], [1]), rated("c", [5], [4], [3], [2])]
    agreements = make_report([pair()] * 4, three).agreements
    told = [(one.first, one.second, one.pairs, one.kendall_tau) for one in agreements]
    assert told == [
        ("a", "b", 3, pytest.approx(1)),
        ("a", "c", 3, pytest.approx(-1)),
        ("b", "c", 4, pytest.approx(0)),
    ]
    assert agreements[0].mean_absolute_difference == 10


def test_evaluators_with_no_pair_in_common_have_no_agreement():
    (agreement,) = make_report([pair()] * 2, [rated("a", [10], [None]), rated("b", [None], [10])]).agreements
    assert (agreement.pairs, agreement.kendall_tau, agreement.mean_absolute_difference) == (0, None, None)


def test_usage_is_added_up_where_it_is_told():
    usage = EvaluatorUsage(calls=1, prompt_tokens=10, completion_tokens=2, cost=0.5)
    ratings = [[Rating(50, 1.0, usage=usage), Rating(50, 1.0, usage=usage), Rating(50, 1.0)]]
    (figures,) = make_report([pair()], [EvaluatorRatings("one", ratings)]).evaluators
    assert figures.usage == EvaluatorUsage(calls=2, prompt_tokens=20, completion_tokens=4, cost=1.0)
    assert figures_of([pair()], [50]).usage is None


def test_a_report_is_plain_json():
    pairs = [pair("a", True, 90), pair("a", False, 10)]
    report = make_report(pairs, [rated("a", [80, 90], [20, None]), rated("b", [50], [50])], resamples=10)
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [one["name"] for one in told["evaluators"]] == ["a", "b"]
    assert told["evaluators"][0]["failure_rate"] == 0.25
    assert told["evaluators"][0]["labels"]["prompt_auc"]["value"] == 1.0
    assert told["agreements"][0]["kendall_tau"] is None
