"""The plane and the bars."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sda_integrations.studies.report.bars import category_bars, stage_bars
from sda_integrations.studies.report.labels import Box, Label, place_labels
from sda_integrations.studies.report.plane import HEIGHT, WIDTH, planes_of
from sda_integrations.studies.report.readings import Readings
from sda_integrations.studies.report.svg import Axis, text_width
from sda_integrations.studies.results import Arm, Figure, Measure
from tests.sda_integrations.studies.report.made_up import MEASURES, made_up_results

AREA = Box(0, 0, 300, 200)


def parsed(svg):
    return ElementTree.fromstring(svg)  # noqa: S314, our own text


def text_box(text):
    """Where a text of a drawing lies."""
    x, y, width = float(text.get("x")), float(text.get("y")), text_width(text.text, 12)
    kind = text.get("class").split()
    left = x - width if "end" in kind else x - width / 2 if "middle" in kind else x
    return Box(left, y - 11, left + width, y + 3)


def plane_of(points, **arms):
    """The only plane of a study whose arms lie at (effect, side effect)."""
    figures = [
        Figure(arm=arm, task="t", measure=measure, value=value, low=None, high=None, count=1)
        for arm, place in points.items()
        for measure, value in zip(("helpful", "facts"), place, strict=True)
    ]
    known = tuple(Arm(name=name, kind="steered", settings={}, **arms.get(name, {})) for name in points)
    results = made_up_results(
        arms=known, figures=tuple(figures), tasks={"t": 1}, comparisons=(), baseline=next(iter(points))
    )
    (plane,) = planes_of(Readings(results))
    return parsed(plane.svg)


def test_texts_of_the_plane_lie_inside_it_and_apart():
    planes = planes_of(Readings(made_up_results()))
    assert len(planes) == 5
    for plane in planes:
        texts = list(parsed(plane.svg).iter("text"))
        boxes = [text_box(text) for text in texts]
        for box in boxes:
            assert box.left >= 0
            assert box.top >= 0
            assert box.right <= WIDTH
            assert box.bottom <= HEIGHT
        labels = [box for text, box in zip(texts, boxes, strict=True) if "label" in text.get("class")]
        assert len(labels) == 7
        assert not any(one.overlap(two) for one, two in combinations(labels, 2))


def test_a_long_name_of_an_arm_stays_inside():
    svg = plane_of({"a" * 80: (1.0, 0.5), "W" * 80: (2.0, 0.6)})
    labels = [text for text in svg.iter("text") if "label" in text.get("class")]
    assert all(text_box(text).left >= 0 and text_box(text).right <= WIDTH for text in labels)


def test_a_sweep_is_joined_by_strength_and_not_in_the_order_of_the_study():
    sweep = {"sweep": "s"}
    svg = plane_of(
        {"four": (50.0, 0.1), "one": (10.0, 0.9), "two": (30.0, 0.5)},
        four={**sweep, "strength": 4.0},
        one={**sweep, "strength": 1.0},
        two={**sweep, "strength": 2.0},
    )
    (curve,) = svg.iter("polyline")
    places = [tuple(map(float, place.split(","))) for place in curve.get("points").split()]
    assert places == sorted(places)  # both the effect and the pixels of the side effect grow with strength here
    labels = [text.text for text in svg.iter("text") if "label" in text.get("class")]
    assert labels == ["s 4", "1", "2"]


def test_points_lie_where_their_values_are():
    svg = plane_of({"low": (0.0, 0.0), "mid": (5.0, 0.5), "high": (10.0, 1.0)})
    places = [re.findall(r"[\d.]+", group.get("transform")) for group in svg.iter("g")]
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in places]
    assert x0 < x1 < x2
    assert y0 > y1 > y2  # up is more
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)


def test_an_arm_without_one_of_the_measures_is_named_and_not_drawn():
    results = made_up_results()
    kept = tuple(f for f in results.figures if (f.arm, f.measure) != ("corrector", "facts"))
    plane = next(p for p in planes_of(Readings(made_up_results(figures=kept))) if p.task == "kept-facts")
    assert plane.missing == ("corrector",)
    assert "corrector" not in plane.svg


def test_a_rate_of_wins_is_an_effect_beside_which_the_baseline_lies_at_nothing():
    results = made_up_results()
    measures = tuple(measure for measure in MEASURES if measure.name in ("win_rate", "facts"))
    readings = Readings(
        made_up_results(measures=measures, figures=tuple(f for f in results.figures if f.measure == "facts"))
    )
    assert "plain: Win rate 0, Facts kept" in planes_of(readings)[0].svg


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200), st.floats(5, 150)), min_size=1, max_size=12))
def test_labels_never_leave_the_area(spots):
    labels = [Label(x, y, width, 14) for x, y, width in spots]
    for label, box in zip(labels, place_labels(labels, area=AREA, obstacles=[], lines=[]), strict=True):
        assert box.right - box.left == pytest.approx(label.width)
        assert box.left >= -1e-9
        assert box.top >= -1e-9
        assert box.right <= AREA.right + 1e-9
        assert box.bottom <= AREA.bottom + 1e-9


def test_labels_of_the_same_point_do_not_hide_each_other():
    boxes = place_labels([Label(150, 100, 60, 14)] * 6, area=AREA, obstacles=[Box(143, 93, 157, 107)], lines=[])
    assert not any(one.overlap(two) for one, two in combinations(boxes, 2))


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [0.1, 0.9], [-3.0, 1200.0], [1e-4, 2e-4]])
def test_axes_hold_their_values_between_round_ticks(values):
    axis = Axis.around(values, start=0.0, end=100.0)
    assert all(0 < axis.at(value) < 100 for value in values)
    assert 3 <= len(axis.ticks()) <= 9
    assert all(axis.low <= value <= axis.high for value in axis.ticks())


def test_bars_begin_at_zero_and_are_as_long_as_their_values():
    measure = Measure(name="m", title="M", about="", unit="share", better="higher", kind="effect")
    figures = tuple(
        Figure(arm="plain", task="t", measure="m", value=value, low=low, high=high, count=5, category=name)
        for name, value, low, high in (("a", 0.5, 0.3, 0.7), ("b", 0.0, None, None))
    )
    results = made_up_results(measures=(measure,), figures=figures, tasks={"t": 10}, comparisons=())
    ((bars,), left_out) = category_bars(Readings(results), room=10_000)
    ((arm, panel),) = bars.panels
    svg = parsed(panel)
    assert (arm, left_out, bars.ends) == ("plain", [], "0 to 100")
    fills = [rect for rect in svg.iter("rect") if rect.get("class") == "fill"]
    assert [(rect.get("x"), rect.get("width")) for rect in fills] == [("0.0%", "50.0%"), ("0.0%", "0.0%")]
    (reach,) = svg.iter("line")
    assert (reach.get("x1"), reach.get("x2")) == ("30.0%", "70.0%")


def test_bars_of_losses_go_the_other_way():
    measure = Measure(name="m", title="M", about="", unit="number", better="higher", kind="effect")
    figures = tuple(
        Figure(arm="plain", task="t", measure="m", value=value, low=None, high=None, count=5, category=str(value))
        for value in (-1.0, 3.0)
    )
    results = made_up_results(measures=(measure,), figures=figures, tasks={"t": 10}, comparisons=())
    ((bars,), _) = category_bars(Readings(results), room=10_000)
    fills = [rect for rect in parsed(bars.panels[0][1]).iter("rect") if rect.get("class") == "fill"]
    assert [(rect.get("x"), rect.get("width")) for rect in fills] == [("0.0%", "25.0%"), ("25.0%", "75.0%")]


def test_bars_without_room_are_named():
    drawn, left_out = category_bars(Readings(made_up_results()), room=100)
    assert not drawn
    assert left_out == ["ifeval, Instruction followed"]


def test_stages_stand_in_the_order_of_a_request_and_fill_the_arm_they_belong_to():
    stages = (
        {"arm": "steered 1", "stage": "answer", "seconds": 3.0, "share": 0.75},
        {"arm": "steered 1", "stage": "judge", "seconds": 1.0, "share": 0.25},
        {"arm": "plain", "stage": "answer", "seconds": 2.0, "share": 1.0},
    )
    svg = parsed(stage_bars(Readings(made_up_results(stages=stages))))
    rects = [(rect.get("class"), rect.get("x"), rect.get("width")) for rect in svg.iter("rect")]
    assert rects == [("s2", "0.0%", "50.0%"), ("s1", "0.0%", "25.0%"), ("s2", "25.0%", "75.0%")]
    assert "steered 1: 4.0 s, 2.0x (answer 75%, judge 25%)" in svg.get("aria-label")


def test_no_stages_no_bars():
    assert stage_bars(Readings(made_up_results(stages=()))) is None
