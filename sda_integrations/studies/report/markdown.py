"""The report in Markdown, with columns of equal width so that it also reads well in a terminal."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from sda_integrations.studies.report.numbers import (
    clean,
    decimal,
    difference,
    direction,
    header,
    interval,
    percent,
    plural,
    probability,
)
from sda_integrations.studies.report.readings import Readings, standing
from sda_integrations.studies.report.tables import Cell, Table, multiples_of, tables_of
from sda_integrations.studies.report.verdicts import AGREEMENT_COLUMNS, JUDGE_COLUMNS, READING, verdicts, warnings
from sda_integrations.studies.results import Kind, StudyResults

_KINDS: dict[Kind, str] = {"effect": "Effects", "side effect": "Side effects", "cost": "Costs"}
_MOST_FAILURES = 20
_SPECIAL = re.compile(r"[\\`*|\[\]]|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w)|^[#>+-](?=\s)")


def markdown_of(results: StudyResults) -> str:
    """Verdicts, tables of arms, comparisons, judges, failures, notes and the protocol's digest."""
    readings = Readings(results)
    blocks = [
        f"# {_escaped(results.title)}",
        _escaped(results.question),
        _list(f"**{_escaped(title)}**: {_escaped(sentence)}" for title, sentence in verdicts(readings)),
        READING if results.comparisons else "",
        _list(f"Beware: {_escaped(warning)}" for warning in warnings(results)),
        *_arms(readings),
        *_multiples(readings),
        *_comparisons(readings),
        *_judges(results),
        *_rest(results),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _arms(readings: Readings) -> list[str]:
    blocks = []
    for kind, title in _KINDS.items():
        tables = tables_of(readings, kind)
        if tables:
            blocks += [f"## {title}", _ABOUT, *(block for table in tables for block in _arm_table(table, readings))]
    return blocks


_ABOUT = "Mean and 95% interval; a signed number is the difference to the baseline where one can be told."


def _arm_table(table: Table, readings: Readings) -> list[str]:
    tasks = [task for task, columns, _ in table.groups for _ in range(columns)]
    several = len(table.groups) > 1
    heads = [
        f"{task}: {header(measure)}" if several else header(measure)
        for task, measure in zip(tasks, table.columns, strict=True)
    ]
    baseline = readings.results.baseline
    rows = [
        [f"{arm} (baseline)" if arm == baseline else arm, *(_cell(cell) for cell in cells)] for arm, cells in table.rows
    ]
    ways = {f"{measure.title}: {direction(measure)}" for measure in table.columns if direction(measure)}
    return [
        _escaped(f"{table.caption}. {'; '.join(sorted(ways))}".rstrip(". ") + "."),
        markdown_table(["Arm", *heads], rows),
    ]


def _cell(cell: Cell) -> str:
    reach = f"({cell.interval})" if cell.interval else ""
    return " ".join(part for part in (cell.value, reach, cell.change, cell.standing or "", cell.count) if part)


def _multiples(readings: Readings) -> list[str]:
    measures, rows = multiples_of(readings)
    if not measures:
        return []
    heads = ["Arm", *(measure.title for measure in measures)]
    return ["Multiples of the baseline, over all tasks:", markdown_table(heads, [[arm, *cells] for arm, cells in rows])]


def _comparisons(readings: Readings) -> list[str]:
    rows = []
    for row in readings.results.comparisons:
        measure = readings.measures[row.measure]
        reach = interval(row.low, row.high, measure.unit)
        rows.append(
            [
                row.arm,
                row.baseline,
                row.task,
                header(measure),
                difference(row.value, measure.unit),
                reach or "-",
                f"{row.wins}/{row.ties}/{row.losses}",
                probability(row.p),
                probability(row.adjusted_p),
                standing(row, measure) or "-",
            ]
        )
    heads = ["Arm", "Against", "Task", "Measure", "More", "95% interval", "Won/tied/lost", "p", "p (Holm)", "Told"]
    return ["## Comparisons", markdown_table(heads, rows)] if rows else []


def _judges(results: StudyResults) -> list[str]:
    blocks = ["## Judges"] if results.judges or results.agreements else []
    if results.judges:
        rows = [
            [
                judge.name,
                str(judge.verdicts),
                str(judge.unreadable),
                percent(judge.order_bias),
                percent(judge.first_share),
                decimal(judge.length_effect),
            ]
            for judge in results.judges
        ]
        blocks += [markdown_table(["Judge", "Verdicts", *JUDGE_COLUMNS], rows), _explained(JUDGE_COLUMNS)]
    if results.agreements:
        rows = [
            [*pair.judges, str(pair.count), decimal(pair.kappa), decimal(pair.rank_correlation)]
            for pair in results.agreements
        ]
        heads = ["Judge", "Other judge", "Pairs", *AGREEMENT_COLUMNS]
        blocks += [markdown_table(heads, rows), _explained(AGREEMENT_COLUMNS)]
    return blocks


def _rest(results: StudyResults) -> list[str]:
    blocks = []
    if results.failures:
        shown = results.failures[:_MOST_FAILURES]
        rows = [[failure.task, failure.arm, failure.sample, failure.error] for failure in shown]
        blocks += ["## Failures", markdown_table(["Task", "Arm", "Sample", "Error"], rows)]
        if len(results.failures) > len(shown):
            blocks.append(f"And {plural(len(results.failures) - len(shown), 'more failure')}, see results.json.")
    if results.notes:
        blocks += ["## Notes", _list(map(_escaped, results.notes))]
    digest = results.protocol.get("digest")
    if digest is not None:
        blocks += ["## Protocol", f"Digest: `{clean(str(digest)).replace('`', '')}`. The whole is in results.json."]
    return blocks


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with columns of equal width; special characters are escaped, so that a cell stays a cell."""
    lines = [[_escaped(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(3, *map(_width, column)) for column in zip(*lines, strict=True)]
    written = [
        "| " + " | ".join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([written[0], rule, *written[1:]])


def _width(text: str) -> int:
    """Columns of a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _explained(columns: dict[str, str]) -> str:
    return _list(f"{name}: {about}" for name, about in columns.items())


def _escaped(text: str) -> str:
    """Text on one line that means nothing to Markdown."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(clean(text).split()))
