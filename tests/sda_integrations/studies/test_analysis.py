"""Figures from answers and verdicts that a reader can work out in the head."""

import pytest

from sda_integrations.studies.analysis import compare, make_figures, measures_of, values_of
from sda_integrations.studies.examples import pick_examples
from sda_integrations.studies.records import Answer, Verdict
from sda_integrations.studies.reliance import agreements, report_on

BASE = "plain"


def answer(arm, sample, *, task="t", category=None, text="a b", **measures):
    return Answer(task, arm, sample, category, f"question {sample}", text, measures)


def pair(arm, sample, first, second, *, judge="j", other=BASE, task="t"):
    return Verdict(task, arm, sample, judge, other, pair=(first, second), count=2)


def points(arm, sample, value, *, judge="j", task="t"):
    return Verdict(task, arm, sample, judge, points=value, count=1, unreadable=int(value is None))


def both(count, **measures):
    """Answers of plain and sda to so many samples; measures -> (plain's, sda's)."""
    return [
        answer(arm, str(sample), **{name: values[place] for name, values in measures.items()})
        for place, arm in enumerate((BASE, "sda"))
        for sample in range(count)
    ]


def figure(figures, arm, measure, category=None):
    (found,) = [one for one in figures if (one.arm, one.measure, one.category) == (arm, measure, category)]
    return found


def test_a_figure_is_the_mean_over_samples():
    answers = [answer("plain", "1", follows=1.0), answer("plain", "2", follows=0.0)]
    found = figure(make_figures(values_of(answers, [], [], BASE), answers, BASE), "plain", "follows")
    assert (found.value, found.count) == (0.5, 2)
    assert found.low <= 0.5 <= found.high


def test_categories_are_told_of_effects_that_have_enough_samples():
    answers = [answer("plain", str(n), category="many" if n < 3 else "few", follows=1.0, words=2.0) for n in range(5)]
    figures = make_figures(values_of(answers, [], [], BASE), answers, BASE)
    assert figure(figures, "plain", "follows", "many").count == 3
    assert {one.category for one in figures} == {None, "many"}
    assert {one.measure for one in figures if one.category} == {"follows"}


def test_an_arm_is_compared_on_the_samples_that_both_have():
    answers = [answer(BASE, "1", follows=0.0), answer(BASE, "2", follows=1.0)]
    answers += [answer("sda", "1", follows=1.0), answer("sda", "3", follows=1.0)]
    (found,) = compare(values_of(answers, [], [], BASE), BASE)
    assert (found.value, found.count, found.wins, found.losses, found.ties) == (1.0, 1, 1, 0, 0)
    assert found.p is None, "one sample tells nothing"


def test_the_same_answers_differ_in_nothing():
    (found,) = compare(values_of(both(6, follows=(1.0, 1.0)), [], [], BASE), BASE)
    assert (found.value, found.p, found.adjusted_p, found.ties) == (0.0, None, None, 6)


def test_holms_correction_runs_over_the_arms_and_tasks_of_one_measure():
    answers = both(8, follows=(0.0, 1.0), words=(1.0, 2.0))
    answers += [answer("other", str(n), follows=1.0, words=3.0) for n in range(8)]
    found = {(one.arm, one.measure): one for one in compare(values_of(answers, [], [], BASE), BASE)}
    assert len(found) == 4
    p = found["sda", "follows"].p
    assert p == 2 / 2**8, "all eight differences have one sign"
    assert {one.adjusted_p for one in found.values()} == {2 * p}


def test_a_win_rate_counts_what_both_orders_agree_on():
    answers = both(4)
    verdicts = [
        pair("sda", "0", "first", "second"),  # wins in both orders
        pair("sda", "1", "second", "first"),  # loses in both
        pair("sda", "2", "first", "first"),  # the judge likes what stands first
        pair("sda", "3", "first", "second"),
    ]
    values = values_of(answers, verdicts, ["j"], BASE)
    found = figure(make_figures(values, answers, BASE), "sda", "win_rate")
    assert found.value == pytest.approx((2 - 1) / 4)
    (comparison,) = compare(values, BASE)
    assert (comparison.wins, comparison.losses, comparison.ties) == (2, 1, 1)
    told = report_on("j", verdicts, answers, BASE)
    assert told.order_bias == 0.25
    assert told.first_share == pytest.approx(5 / 8)
    assert (told.verdicts, told.unreadable) == (8, 0)


def test_a_win_rate_over_another_arm_stands_beside_that_over_the_baseline():
    answers = [*both(1), answer("corrector", "0")]
    verdicts = [pair("sda", "0", "first", "second"), pair("sda", "0", "second", "first", other="corrector")]
    values = values_of(answers, verdicts, ["j"], BASE)
    figures = make_figures(values, answers, BASE)
    assert figure(figures, "sda", "win_rate").value == 1.0
    assert figure(figures, "sda", "win_rate over corrector").value == -1.0
    baselines = {one.measure: one.baseline for one in compare(values, BASE)}
    assert baselines == {"win_rate": BASE, "win_rate over corrector": "corrector"}
    assert [one.name for one in measures_of(values)] == [
        "win_rate",
        "win_rate over corrector",
        "win_rate_alike",
        "win_rate_alike over corrector",
    ]


def test_answers_that_are_longer_where_they_win_win_less_at_the_same_length():
    answers = [answer(BASE, str(n), text="a") for n in range(40)]
    answers += [answer("sda", str(n), text="a " * (60 if n % 4 else 1)) for n in range(40)]
    verdicts = [pair("sda", str(n), *(("first", "second") if n % 4 else ("second", "first"))) for n in range(40)]
    figures = make_figures(values_of(answers, verdicts, ["j"], BASE), answers, BASE)
    assert figure(figures, "sda", "win_rate").value == 0.5
    assert figure(figures, "sda", "win_rate_alike").value < 0.0
    assert report_on("j", verdicts, answers, BASE).length_effect > 1


def test_judges_are_told_apart_where_there_are_several_and_agree_as_far_as_they_do():
    answers = both(4)
    verdicts = [pair("sda", str(n), *(("first", "second") if n else ("second", "first")), judge="a") for n in range(4)]
    verdicts += [points("sda", str(n), 80.0 if n else 20.0, judge="b") for n in range(4)]
    verdicts += [points(BASE, str(n), 50.0, judge="b") for n in range(4)]
    values = values_of(answers, verdicts, ["a", "b"], BASE)
    names = {one.name for one in measures_of(values)}
    assert names == {"win_rate by a", "win_rate_alike by a", "points by b"}
    (found,) = agreements(["a", "b"], verdicts, BASE)
    assert (found.judges, found.kappa, found.count) == (("a", "b"), 1.0, 4)
    assert found.rank_correlation is None, "one arm has no rank"


def test_verdicts_that_cannot_be_read_are_counted_and_left_out():
    verdicts = [points("sda", "0", None), points("sda", "1", 70.0)]
    told = report_on("j", verdicts, both(2), BASE)
    assert (told.verdicts, told.unreadable, told.order_bias) == (1, 1, None)
    found = figure(make_figures(values_of(both(2), verdicts, ["j"], BASE), both(2), BASE), "sda", "points")
    assert (found.value, found.count) == (70.0, 1)


def test_answers_that_are_the_same_say_nothing_of_a_judge():
    same = Verdict("t", "sda", "0", "j", BASE, pair=("tie", "tie"), asked=False)
    told = report_on("j", [same], both(1), BASE)
    assert (told.verdicts, told.order_bias) == (0, None)
    assert figure(make_figures(values_of(both(1), [same], ["j"], BASE), both(1), BASE), "sda", "win_rate").value == 0.0


def test_examples_are_a_win_and_a_loss_of_each_arm_by_its_first_effect():
    answers = [answer(BASE, str(n), follows=float(n == 1), words=1.0) for n in range(3)]
    answers += [answer("sda", str(n), follows=float(n == 2), words=9.0) for n in range(3)]
    found = pick_examples(values_of(answers, [], [], BASE), answers, BASE)
    assert [(one.outcome, one.sample, one.measure) for one in found] == [
        ("loss", "1", "follows"),
        ("win", "2", "follows"),
    ]
