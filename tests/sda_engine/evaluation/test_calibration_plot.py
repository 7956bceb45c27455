"""The picture of what scores mean."""

import sys

import pytest

from sda_engine.evaluation.calibration_plot import plot_calibration, save_calibration
from sda_engine.evaluation.evaluator_report import make_report
from tests.sda_engine.evaluation.ratings import pair, rated

LABELLED = [pair("a", True), pair("b", False), pair("c", True)]


def labelled_report(*names):
    return make_report(LABELLED, [rated(name, [80], [82], [10]) for name in names], resamples=5)


def test_a_point_is_a_bins_mean_score_and_its_share_of_acceptable_ones_with_its_count():
    (axes,) = plot_calibration(labelled_report("one")).axes
    _, points = axes.lines
    assert [tuple(point) for point in points.get_xydata()] == [(0.1, 1.0), (pytest.approx(0.81), 0.5)]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert axes.get_title().startswith("one\nAUC ")


def test_labels_and_peoples_ratings_differ_in_marker_and_have_a_legend():
    pairs = [pair("a", True, 90), pair("b", False, 20)]
    (axes,) = plot_calibration(make_report(pairs, [rated("one", [80], [30])], resamples=5)).axes
    assert [line.get_marker() for line in axes.lines] == ["None", "o", "s"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["acceptable", "people's rating"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_evaluator_has_a_panel(count):
    names = [f"$evaluator_{place} " + "x" * 60 for place in range(count)]
    figure = plot_calibration(labelled_report(*names))
    assert sum(axes.get_visible() for axes in figure.axes) == count
    figure.canvas.draw()  # any name can be drawn


def test_an_evaluator_without_a_score_has_an_empty_panel(tmp_path):
    save_calibration(make_report(LABELLED, [rated("one", [None], [None], [None])]), tmp_path / "empty.svg")
    assert (tmp_path / "empty.svg").stat().st_size > 0


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_report_gives_the_same_file(tmp_path, suffix):
    first, second = (tmp_path / f"{name}{suffix}" for name in "ab")
    for path in (first, second):
        save_calibration(labelled_report("one"), path)
    assert first.stat().st_size > 0
    if suffix == ".svg":
        assert first.read_bytes() == second.read_bytes()


def test_a_missing_matplotlib_is_told_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"sda-integrations\[report\]"):
        plot_calibration(labelled_report("one"))
