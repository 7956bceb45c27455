"""Bars: a measure per category, and the stages of a request. They are as wide as there is room, with texts unscaled."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sda_integrations.studies.report.numbers import clean, clipped, interval, multiple, percent, shown
from sda_integrations.studies.report.readings import Readings
from sda_integrations.studies.report.svg import drawing, element, joined
from sda_integrations.studies.results import Figure, Measure, Stage

_MOST_CATEGORIES = 30
_LONGEST_CATEGORY, _LONGEST_ARM = 24, 32  # characters that fit beside a value on the narrowest screen
_ROW, _BAR = 32, 9  # pixels
_STAGE_ROW, _STAGE_BAR = 46, 18
_LEGIBLE = 0.1  # of the widest bar: below, no percentage fits into a stage
_KNOWN_STAGES = ("base response", "judge", "answer", "correction")
_FULL = {"share": 1.0, "points": 100.0}


@dataclass(frozen=True, slots=True)
class CategoryBars:
    """A measure of a task, by category.

    Attributes:
        task, measure: what is drawn.
        ends: the values at both ends of a bar's track.
        panels: each arm with its drawing.
        left_out: categories that are not drawn, since they have the fewest samples.
    """

    task: str
    measure: Measure
    ends: str
    panels: tuple[tuple[str, Markup], ...]
    left_out: int


def category_bars(readings: Readings, *, room: int) -> tuple[list[CategoryBars], list[str]]:
    """The bars of each measure with categories, as far as `room` characters suffice, and what is left out for them."""
    drawn: list[CategoryBars] = []
    left_out: list[str] = []
    for task, measure, by_arm in readings.categories():
        bars = _category_bars(task, measure, by_arm) if room > 0 else None
        room -= sum(len(panel) for _, panel in bars.panels) if bars else 0
        if bars and room >= 0:
            drawn.append(bars)
        else:
            left_out.append(f"{task}, {measure.title}")
    return drawn, left_out


def _category_bars(task: str, measure: Measure, by_arm: dict[str, list[Figure]]) -> CategoryBars:
    counts: dict[str, int] = {}
    for figure in (figure for figures in by_arm.values() for figure in figures):
        counts[figure.category or ""] = max(counts.get(figure.category or "", 0), figure.count)
    largest = set(sorted(counts, key=lambda name: -counts[name])[:_MOST_CATEGORIES])
    names = [name for name in counts if name in largest]
    ends = [
        end
        for figures in by_arm.values()
        for figure in figures
        for end in (figure.value, figure.low, figure.high)
        if end is not None
    ]
    low, high = min(0.0, *ends), max(_FULL.get(measure.unit, 0.0), *ends) or 1.0
    panels = tuple(
        (arm, _panel(f"{arm}, {task}, {measure.title}", figures, names, (low, high), measure))
        for arm, figures in by_arm.items()
    )
    return CategoryBars(task, measure, interval(low, high, measure.unit), panels, len(counts) - len(names))


def _panel(
    title: str, figures: Sequence[Figure], names: list[str], ends: tuple[float, float], measure: Measure
) -> Markup:
    """One arm: a row per category with its name, its value, a bar from 0 and its interval."""
    known = {figure.category: figure for figure in figures}
    content, told = [], []
    for index, name in enumerate(names):
        figure, top = known.get(name), index * _ROW
        value = shown(figure.value if figure else None, measure.unit)
        content += [
            element("text", clipped(clean(name), _LONGEST_CATEGORY), x="0", y=float(top + 12), class_="tick"),
            element("text", value, x="100%", y=float(top + 12), class_="tick end"),
            *(_bar(figure, top + 17, ends) if figure else ()),
        ]
        reach = interval(figure.low, figure.high, measure.unit) if figure else ""
        told.append(f"{name}: {value}{f' ({reach})' if reach else ''}")
    return drawing(
        clean(title),
        clean("; ".join(told)),
        joined(content),
        width="100%",
        height=str(len(names) * _ROW),
        class_="bars",
    )


def _bar(figure: Figure, top: int, ends: tuple[float, float]) -> list[Markup]:
    low, high = ends

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    left, right = sorted((at(0.0), at(figure.value)))
    parts = [
        element("rect", x="0", y=str(top), width="100%", height=str(_BAR), class_="track"),
        element("rect", x=_wide(left), y=str(top), width=_wide(right - left), height=str(_BAR), class_="fill"),
    ]
    if figure.low is not None and figure.high is not None:
        middle = str(top + _BAR / 2)
        parts.append(
            element("line", x1=_wide(at(figure.low)), x2=_wide(at(figure.high)), y1=middle, y2=middle, class_="reach")
        )
    return parts


def stage_bars(readings: Readings) -> Markup | None:
    """Seconds per answer of each arm, stacked by stage; None where no stages were measured."""
    results = readings.results
    by_arm = {arm.name: [stage for stage in results.stages if stage.arm == arm.name] for arm in results.arms}
    by_arm = {arm: stages for arm, stages in by_arm.items() if stages}
    if not by_arm:
        return None
    totals = {arm: sum(stage.seconds for stage in stages) for arm, stages in by_arm.items()}
    longest = max(totals.values()) or 1.0
    classes = stage_classes(readings)
    content, told = [], []
    for index, (arm, stages) in enumerate(by_arm.items()):
        top = index * _STAGE_ROW
        whole = f"{shown(totals[arm], 'seconds')} s"
        if results.baseline in totals and arm != results.baseline:
            whole += f", {multiple(totals[arm], totals[results.baseline])}"
        content += [
            element("text", clipped(clean(arm), _LONGEST_ARM), x="0", y=float(top + 14), class_="label"),
            element("text", whole, x="100%", y=float(top + 14), class_="label end"),
            *_stacked(stages, top + 20, longest, classes),
        ]
        parts = ", ".join(f"{stage.stage} {percent(stage.share)}" for stage in stages)
        told.append(f"{arm}: {whole} ({parts})")
    return drawing(
        "Seconds per answer by stage",
        clean("; ".join(told)),
        joined(content),
        width="100%",
        height=str(len(by_arm) * _STAGE_ROW),
        class_="bars stages",
    )


def stage_classes(readings: Readings) -> dict[str, str]:
    """Each stage that occurs with the class of its colour, in the order of a request."""
    found = dict.fromkeys(stage.stage for stage in readings.results.stages)
    ordered = [stage for stage in _KNOWN_STAGES if stage in found] + [s for s in found if s not in _KNOWN_STAGES]
    return {stage: f"s{_KNOWN_STAGES.index(stage)}" if stage in _KNOWN_STAGES else "s4" for stage in ordered}


def _stacked(stages: Sequence[Stage], top: int, longest: float, classes: dict[str, str]) -> list[Markup]:
    order = list(classes)
    parts, left = [], 0.0
    for stage in sorted(stages, key=lambda stage: order.index(stage.stage)):
        width = 100 * stage.seconds / longest
        parts.append(
            element(
                "rect",
                x=_wide(left),
                y=str(top),
                width=_wide(width),
                height=str(_STAGE_BAR),
                class_=classes[stage.stage],
            )
        )
        if width >= 100 * _LEGIBLE:
            middle = _wide(left + width / 2)
            parts.append(element("text", percent(stage.share), x=middle, y=float(top + 13), class_="inside middle"))
        left += width
    return parts


def _wide(share: float) -> str:
    return f"{share:.1f}%"
