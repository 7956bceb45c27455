"""What a study found, by arm, task and measure; and which differences can be told."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sda_integrations.studies.results import Comparison, Figure, Kind, Measure, StudyResults

Standing = Literal["better", "worse", "more", "less"]

LEVEL = 0.05  # of p after Holm's correction
_RATE = "win_rate"  # how the names of all measures begin that are rates of wins
_OVER = " over "  # in the name of one against another arm than the baseline


@dataclass(frozen=True, slots=True)
class Reading:
    """What one arm has of one measure in one task.

    Attributes:
        value, low, high: the mean and its 95% interval, in the measure's unit; None where there is one sample only.
        count: samples.
        relative: whether it is already a difference to the baseline, as a rate of wins is.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    relative: bool = False


class Readings:
    """Looks up what `StudyResults` lists.

    Attributes:
        results: what the study found.
        measures: all measures by name, in the study's order; those that only comparisons name come last.
    """

    def __init__(self, results: StudyResults) -> None:
        self.results = results
        self.measures = {measure.name: measure for measure in results.measures}
        for name in (row.measure for rows in (results.comparisons, results.figures) for row in rows):
            self.measures.setdefault(name, _unlisted(name))
        self._figures: dict[tuple[str, str, str], Figure] = {}
        self._categories: defaultdict[tuple[str, str, str], list[Figure]] = defaultdict(list)
        for figure in results.figures:
            key = figure.arm, figure.task, figure.measure
            if figure.category is None:
                self._figures[key] = figure
            else:
                self._categories[key].append(figure)
        self._comparisons = {
            (row.arm, row.task, row.measure): row
            for row in results.comparisons
            if row.baseline == results.baseline or _OVER in row.measure
        }
        self._held_against = {(task, measure) for _, task, measure in (*self._figures, *self._comparisons)}

    def at(self, arm: str, task: str, measure: str) -> Reading | None:
        """What the arm has: its figure, or of a rate of wins also its comparison; the baseline beside itself has 0."""
        relative = measure.startswith(_RATE)
        figure = self._figures.get((arm, task, measure))
        if figure is None and relative and arm == self.results.baseline and _OVER not in measure:
            count = self.results.tasks.get(task, 0)
            return Reading(0.0, None, None, count, relative) if (task, measure) in self._held_against else None
        row = figure or (self._comparisons.get((arm, task, measure)) if relative else None)
        return None if row is None else Reading(row.value, row.low, row.high, row.count, relative)

    def comparison(self, arm: str, task: str, measure: str) -> Comparison | None:
        """The arm beside the study's baseline, or beside the arm that the measure names."""
        return self._comparisons.get((arm, task, measure))

    def columns(self, kind: Kind) -> list[tuple[str, Measure]]:
        """Each task with each measure of the kind that some arm has there, in the study's order."""
        arms = [arm.name for arm in self.results.arms]
        measures = [measure for measure in self.measures.values() if measure.kind == kind]
        return [
            (task, measure)
            for task in self.results.tasks
            for measure in measures
            if any(self.at(arm, task, measure.name) for arm in arms)
        ]

    def categories(self) -> Iterator[tuple[str, Measure, dict[str, list[Figure]]]]:
        """Each task and measure with figures per category: arm -> its figures, effects first."""
        for kind in ("effect", "side effect", "cost"):
            for measure in self.measures.values():
                for task in self.results.tasks if measure.kind == kind else ():
                    keys = {arm.name: (arm.name, task, measure.name) for arm in self.results.arms}
                    found = {arm: self._categories[key] for arm, key in keys.items() if key in self._categories}
                    if found:
                        yield task, measure, found

    def overall(self, arm: str, measure: str, tasks: list[str]) -> float | None:
        """The mean over all samples of these tasks; None where one of them lacks the measure."""
        readings = [self.at(arm, task, measure) for task in tasks]
        found = [reading for reading in readings if reading is not None]
        samples = sum(reading.count for reading in found)
        if len(found) < len(tasks) or not samples:
            return None
        return sum(reading.value * reading.count for reading in found) / samples


def standing(comparison: Comparison | None, measure: Measure) -> Standing | None:
    """How an arm stands to its baseline after Holm's correction; None where nothing can be told."""
    if comparison is None or comparison.adjusted_p is None or comparison.adjusted_p >= LEVEL or not comparison.value:
        return None
    above = comparison.value > 0
    if measure.better == "neither":
        return "more" if above else "less"
    return "better" if above == (measure.better == "higher") else "worse"


def _unlisted(name: str) -> Measure:
    """A measure that the study does not describe; only the rate of wins is expected here."""
    rate = name.startswith(_RATE)
    return Measure(
        name=name,
        title=name.replace("_", " ").capitalize(),
        about="Wins less losses against the baseline, as a share of all samples." if rate else "",
        unit="share" if rate else "number",
        better="higher" if rate else "neither",
        kind="effect",
    )
