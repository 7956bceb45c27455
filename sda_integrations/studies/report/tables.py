"""The tables of arms, for the page and for Markdown alike."""

from dataclasses import dataclass

from sda_integrations.studies.report.numbers import difference, interval, multiple, plural, shown
from sda_integrations.studies.report.readings import Readings, Standing, standing
from sda_integrations.studies.results import Kind, Measure

_MOST_COLUMNS = 8  # of a table with several tasks
_MANY_TASKS = 3  # from which an effect has a table of its own, with a column a task, as papers show it


@dataclass(frozen=True, slots=True)
class Cell:
    """What one arm has of one measure.

    Attributes:
        value: the mean; "-" where there is none.
        interval: its 95% interval; "" where there is none.
        change: the difference to the baseline, if one can be told after correction, else "".
        standing: what that difference means; None where none can be told.
        count: samples, where they are fewer than were asked; else "".
    """

    value: str
    interval: str = ""
    change: str = ""
    standing: Standing | None = None
    count: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Arms by measures.

    Attributes:
        caption: what it holds.
        groups: each task with how many of the columns are its own, and its samples in words.
        columns: the measures.
        rows: each arm with its cells.
    """

    caption: str
    groups: tuple[tuple[str, int, str], ...]
    columns: tuple[Measure, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def tables_of(readings: Readings, kind: Kind) -> list[Table]:
    """The tables for a kind of measure: as many whole tasks in each as stay readable, at least one.

    An effect that many tasks have comes first, in a table of its own.
    """
    columns = readings.columns(kind)
    groups = [[column for column in columns if column[1] == measure] for measure in _shared(columns)]
    columns = [column for column in columns if not any(column in group for group in groups)]
    alone = len(groups)
    for task in dict.fromkeys(task for task, _ in columns):
        own = [column for column in columns if column[0] == task]
        if len(groups) > alone and len(groups[-1]) + len(own) <= _MOST_COLUMNS:
            groups[-1] += own
        else:
            groups.append(own)
    return [_table(readings, group) for group in groups]


def _shared(columns: list[tuple[str, Measure]]) -> list[Measure]:
    """The effects that many tasks have."""
    effects = [measure for _, measure in columns if measure.kind == "effect"]
    return [measure for measure in dict.fromkeys(effects) if effects.count(measure) >= _MANY_TASKS]


def multiples_of(readings: Readings) -> tuple[tuple[Measure, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """The costs of each arm as multiples of the baseline's, over all tasks that measure them for both."""
    baseline = readings.results.baseline
    measures = tuple(dict.fromkeys(measure for _, measure in readings.columns("cost")))
    rows = []
    for arm in readings.results.arms:
        cells = []
        for measure in measures:
            both = [
                task
                for task in readings.results.tasks
                if readings.at(arm.name, task, measure.name) and readings.at(baseline, task, measure.name)
            ]
            value, of = (readings.overall(name, measure.name, both) for name in (arm.name, baseline))
            cells.append(multiple(value, of))
        rows.append((arm.name, tuple(cells)))
    return measures, tuple(rows)


def _table(readings: Readings, columns: list[tuple[str, Measure]]) -> Table:
    tasks = [task for task, _ in columns]
    asked = {task: plural(readings.results.tasks[task], "sample") for task in tasks}
    return Table(
        caption=", ".join(f"{task}: {samples}" for task, samples in asked.items()),
        groups=tuple((task, tasks.count(task), samples) for task, samples in asked.items()),
        columns=tuple(measure for _, measure in columns),
        rows=tuple(
            (arm.name, tuple(_cell(readings, arm.name, task, measure) for task, measure in columns))
            for arm in readings.results.arms
        ),
    )


def _cell(readings: Readings, arm: str, task: str, measure: Measure) -> Cell:
    reading = readings.at(arm, task, measure.name)
    if reading is None:
        return Cell(shown(None, measure.unit))
    comparison = readings.comparison(arm, task, measure.name)
    told = standing(comparison, measure)
    change = ""
    if comparison is not None and told is not None and not reading.relative:
        change = difference(comparison.value, measure.unit)
    return Cell(
        value=shown(reading.value, measure.unit),
        interval=interval(reading.low, reading.high, measure.unit),
        change=change,
        standing=told,
        count=f"n={reading.count}" if reading.count < readings.results.tasks[task] else "",
    )
