"""The plane: an effect against a side effect, a point per arm, a curve per sweep."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from sda_integrations.studies.report.labels import Box, Label, place_labels
from sda_integrations.studies.report.numbers import clean, clipped, direction, header, interval, shown, tick
from sda_integrations.studies.report.readings import Reading, Readings
from sda_integrations.studies.report.svg import Axis, drawing, element, joined, text_width
from sda_integrations.studies.results import Arm, Measure

WIDTH, HEIGHT = 420, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 410.0, 34.0, 312.0  # the frame of the plot
_FONT, _SMALL = 12.0, 11.0
_RADIUS = 5.0
_LONGEST_LABEL, _LONGEST_TITLE = 28, 62
_MARKS = {  # outlines around (0, 0), by kind of arm
    "plain": "M0-6 6 0 0 6-6 0Z",
    "prompt": "M-5-5H5V5H-5Z",
    "steered": "M-5 0A5 5 0 0 1 5 0 5 5 0 0 1-5 0Z",
    "corrector": "M0-6 6 5H-6Z",
}
_OTHER_MARK = "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z"


@dataclass(frozen=True, slots=True)
class Point:
    """An arm in the plane."""

    arm: Arm
    effect: Reading
    side: Reading


@dataclass(frozen=True, slots=True)
class Plane:
    """A drawing of one task.

    Attributes:
        task: its name.
        svg: the drawing.
        missing: arms that lack one of the two measures.
    """

    task: str
    svg: Markup
    missing: tuple[str, ...]


def planes_of(readings: Readings) -> list[Plane]:
    """A plane for each task with an effect and a side effect: the first of each that an arm has both of.

    A side effect of which neither way is better comes last.
    """
    return [plane for task in readings.results.tasks if (plane := _plane(readings, task)) is not None]


def legend_of(readings: Readings) -> list[tuple[str, Markup]]:
    """Each kind of arm with its mark."""
    kinds = dict.fromkeys(arm.kind for arm in readings.results.arms)
    box = {"viewBox": "-8 -8 16 16", "width": "16", "height": "16", "aria_hidden": "true"}
    return [(kind, element("svg", _mark(kind), **box)) for kind in kinds]


def _plane(readings: Readings, task: str) -> Plane | None:
    for _, effect in _of_task(readings, task, "effect"):
        for _, side in sorted(_of_task(readings, task, "side effect"), key=lambda one: one[1].better == "neither"):
            points = [
                Point(arm, x, y)
                for arm in readings.results.arms
                if (x := readings.at(arm.name, task, effect.name)) and (y := readings.at(arm.name, task, side.name))
            ]
            if points:
                drawn = {point.arm.name for point in points}
                missing = tuple(arm.name for arm in readings.results.arms if arm.name not in drawn)
                return Plane(task, _draw(points, task, (effect, side), readings.results.baseline), missing)
    return None


def _of_task(readings: Readings, task: str, kind: str) -> Iterator[tuple[str, Measure]]:
    wanted = readings.columns("effect" if kind == "effect" else "side effect")
    return (column for column in wanted if column[0] == task)


def _draw(points: list[Point], task: str, measures: tuple[Measure, Measure], baseline: str) -> Markup:
    effect, side = measures
    x = Axis.around(_ends(point.effect for point in points), start=_LEFT, end=_RIGHT)
    y = Axis.around(_ends(point.side for point in points), start=_BOTTOM, end=_TOP)
    content = [
        _axes(x, y, effect, side),
        *(_crosshair(x.at(p.effect.value), y.at(p.side.value)) for p in points if p.arm.name == baseline),
        *(_bars(point, x, y) for point in points),
        *(_curve(sweep, x, y) for sweep in _sweeps(points)),
        *(
            element("g", _mark(p.arm.kind), transform=f"translate({x.at(p.effect.value):.1f} {y.at(p.side.value):.1f})")
            for p in points
        ),
        *_labels(points, x, y),
    ]
    description = "; ".join(_told(point, effect, side) for point in points)
    title = f"{task}: {header(effect)} against {header(side)}"
    return drawing(clean(title), clean(description), joined(content), viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="plane")


def _ends(readings: Iterator[Reading]) -> Iterator[float]:
    for reading in readings:
        yield from (end for end in (reading.value, reading.low, reading.high) if end is not None)


def _axes(x: Axis, y: Axis, effect: Measure, side: Measure) -> Markup:
    grid = "".join(f"M{x.at(value):.1f} {_TOP:.0f}V{_BOTTOM:.0f}" for value in x.ticks())
    grid += "".join(f"M{_LEFT:.0f} {y.at(value):.1f}H{_RIGHT:.0f}" for value in y.ticks())
    across = [
        element("text", tick(value, x.step, effect.unit), x=x.at(value), y=_BOTTOM + 16, class_="tick middle")
        for value in x.ticks()
    ]
    up = [
        element("text", tick(value, y.step, side.unit), x=_LEFT - 6, y=y.at(value) + 4, class_="tick end")
        for value in y.ticks()
    ]
    titles = [
        element("text", _axis_title(effect), x=_RIGHT, y=_BOTTOM + 38, class_="axis end"),
        element("text", _axis_title(side), x="2", y="16", class_="axis"),
    ]
    return joined([element("path", d=grid, class_="grid"), *across, *up, *titles])


def _axis_title(measure: Measure) -> str:
    way = direction(measure)
    return clipped(clean(f"{header(measure)}{', ' if way else ''}{way}"), _LONGEST_TITLE)


def _crosshair(x: float, y: float) -> Markup:
    """Lines through the baseline: what lies beyond each is above or below it."""
    return element("path", d=f"M{x:.1f} {_TOP:.0f}V{_BOTTOM:.0f}M{_LEFT:.0f} {y:.1f}H{_RIGHT:.0f}", class_="zero")


def _bars(point: Point, x: Axis, y: Axis) -> Markup:
    """The intervals of a point."""
    column, row = x.at(point.effect.value), y.at(point.side.value)
    lines = ""
    if point.effect.low is not None and point.effect.high is not None:
        lines += f"M{x.at(point.effect.low):.1f} {row:.1f}H{x.at(point.effect.high):.1f}"
    if point.side.low is not None and point.side.high is not None:
        lines += f"M{column:.1f} {y.at(point.side.low):.1f}V{y.at(point.side.high):.1f}"
    return element("path", d=lines, class_=f"bar {_colour(point.arm.kind)}")


def _sweeps(points: list[Point]) -> list[list[Point]]:
    """The arms of each sweep by strength."""
    sweeps: defaultdict[str, list[Point]] = defaultdict(list)
    for point in points:
        if point.arm.sweep is not None:
            sweeps[point.arm.sweep].append(point)
    return [sorted(sweep, key=_strength) for sweep in sweeps.values()]


def _strength(point: Point) -> float:
    return point.arm.strength or 0.0


def _curve(sweep: list[Point], x: Axis, y: Axis) -> Markup:
    places = " ".join(f"{x.at(point.effect.value):.1f},{y.at(point.side.value):.1f}" for point in sweep)
    return element("polyline", points=places, class_=f"curve {_colour(sweep[0].arm.kind)}")


def _labels(points: list[Point], x: Axis, y: Axis) -> list[Markup]:
    """Names beside the points; along a sweep the strengths, with its name at the last."""
    names = {point.arm.name: point.arm.name for point in points}
    for sweep in _sweeps(points):
        names |= {point.arm.name: f"{_strength(point):g}" for point in sweep}
        names[sweep[-1].arm.name] = f"{sweep[-1].arm.sweep} {_strength(sweep[-1]):g}"
    texts = [clipped(clean(names[point.arm.name]), _LONGEST_LABEL) for point in points]
    spots = [(x.at(point.effect.value), y.at(point.side.value)) for point in points]
    labels = [Label(*spot, text_width(text, _FONT), _FONT + 3) for spot, text in zip(spots, texts, strict=True)]
    boxes = place_labels(
        labels,
        area=Box(_LEFT + 2, _TOP + 2, _RIGHT - 2, _BOTTOM - 2),
        obstacles=[Box(column - 7, row - 7, column + 7, row + 7) for column, row in spots],
        lines=[box for point in points for box in _bar_boxes(point, x, y)] + _curve_boxes(points, x, y),
    )
    drawn = []
    for (column, row), text, box in zip(spots, texts, boxes, strict=True):
        middle = (box.left + box.right) / 2
        drawn.append(_leader(column, row, box))
        drawn.append(element("text", text, x=middle, y=box.bottom - 4, class_="label middle"))
    return drawn


def _bar_boxes(point: Point, x: Axis, y: Axis) -> list[Box]:
    column, row = x.at(point.effect.value), y.at(point.side.value)
    boxes = []
    if point.effect.low is not None and point.effect.high is not None:
        boxes.append(Box(x.at(point.effect.low), row - 2, x.at(point.effect.high), row + 2))
    if point.side.low is not None and point.side.high is not None:
        boxes.append(Box(column - 2, y.at(point.side.high), column + 2, y.at(point.side.low)))
    return boxes


def _curve_boxes(points: list[Point], x: Axis, y: Axis) -> list[Box]:
    """Small boxes along the curves."""
    boxes = []
    for sweep in _sweeps(points):
        for one, two in pairwise(sweep):
            for step in range(1, 12):
                column = x.at(one.effect.value + step / 12 * (two.effect.value - one.effect.value))
                row = y.at(one.side.value + step / 12 * (two.side.value - one.side.value))
                boxes.append(Box(column - 3, row - 3, column + 3, row + 3))
    return boxes


def _leader(x: float, y: float, box: Box) -> Markup:
    """A thin line from a point to a label that had to go further away."""
    near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
    if abs(near_x - x) + abs(near_y - y) < 14:
        return Markup("")
    return element("path", d=f"M{x:.1f} {y:.1f}L{near_x:.1f} {near_y:.1f}", class_="leader")


def _mark(kind: str) -> Markup:
    return element("path", d=_MARKS.get(kind, _OTHER_MARK), class_=f"mark {_colour(kind)}")


def _colour(kind: str) -> str:
    return f"k-{kind}" if kind in _MARKS else "k-other"


def _told(point: Point, effect: Measure, side: Measure) -> str:
    def value(reading: Reading, measure: Measure) -> str:
        ends = interval(reading.low, reading.high, measure.unit)
        return f"{measure.title} {shown(reading.value, measure.unit)}{f' ({ends})' if ends else ''}"

    return f"{point.arm.name}: {value(point.effect, effect)}, {value(point.side, side)}"
