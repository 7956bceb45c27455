"""The tables of docs/reference/models.md: between its markers, one for each group."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

import torch
import transformers

from .examining import VERDICTS, Finding
from .families import ONE_OF_ITS_KIND, family_of
from .types import Group

_COLUMNS = ("family", "types", "verdict", "runner", "why")


def count(findings: Sequence[Finding]) -> str:
    """How many of each verdict, in one line."""
    return ", ".join(f"{verdict} {sum(one.verdict == verdict for one in findings)}" for verdict in VERDICTS)


def by_family(findings: Iterable[Finding]) -> list[Finding]:
    """In the order of families and types; those of no family last."""

    def place(finding: Finding) -> tuple[bool, str, str]:
        family = family_of(finding.model_type)
        return family == ONE_OF_ITS_KIND, family.lower(), finding.model_type

    return sorted(findings, key=place)


def fill_page(page: str, group: Group, findings: Sequence[Finding]) -> str:
    """A page with the counts and the table of a group in place of what was between its markers.

    Raises:
        ValueError: the page has no such markers.
    """
    begin, end = f"<!-- census: {group} -->", "<!-- census: end -->"
    between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not between.search(page):
        raise ValueError(f"The page has no lines {begin!r} and {end!r}: the table of this group goes between them.")
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    lines = [begin, "", f"{len(findings)}: **{count(findings)}** ({versions}).", "", *_table(findings), "", end]
    return between.sub(lambda _: "\n".join(lines), page, count=1)


def _table(findings: Sequence[Finding]) -> list[str]:
    """A row for all types of a family that came out alike; the family is named once."""
    lines = [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    for family, members in groupby(by_family(findings), key=lambda finding: family_of(finding.model_type)):
        alike: dict[tuple[str, str, str], list[str]] = {}
        for finding in members:
            outcome = (finding.verdict, finding.runner, _cell(finding.reason))
            alike.setdefault(outcome, []).append(f"`{finding.model_type}`")
        names = [family] + [""] * (len(alike) - 1)
        ordered = sorted(alike.items(), key=lambda item: VERDICTS.index(item[0][0]))  # type: ignore[arg-type]
        lines += [
            _row((name, " ".join(types), *outcome)) for name, (outcome, types) in zip(names, ordered, strict=True)
        ]
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text that neither ends a cell nor is taken for HTML."""
    return text.replace("|", "/").replace("<", "&lt;").replace("_", "\\_")
