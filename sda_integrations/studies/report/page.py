"""The page of a report: what the template shows, and in which order."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import JsonValue

from sda_integrations.studies.report import numbers
from sda_integrations.studies.report.bars import category_bars, stage_bars, stage_classes
from sda_integrations.studies.report.plane import legend_of, planes_of
from sda_integrations.studies.report.readings import Readings
from sda_integrations.studies.report.tables import multiples_of, tables_of
from sda_integrations.studies.report.verdicts import AGREEMENT_COLUMNS, JUDGE_COLUMNS, READING, verdicts, warnings
from sda_integrations.studies.results import Example, Kind, ShownToken, StudyResults

_MAX_DIVERGENCE = math.log(2)  # nats
_ROOM = {"categories": 250_000, "examples": 350_000}  # characters of a page of less than 1 MB
_LONGEST_TEXT = 6_000  # characters of an answer
_TOKEN_MARKUP = 35  # characters around a token
_MOST_FAILURES = 200
_KINDS: dict[Kind, str] = {"effect": "Effects", "side effect": "Side effects", "cost": "Costs"}


def page_of(results: StudyResults) -> str:
    """The whole page as HTML; it needs nothing but itself, and all that it shows is escaped."""
    readings = Readings(results)
    tables = {title: tables_of(readings, kind) for kind, title in _KINDS.items()}
    categories, undrawn = category_bars(readings, room=_ROOM["categories"])
    examples, more_examples = _examples(results)
    planes, stages = planes_of(readings), stage_bars(readings)
    sections = {
        "verdict": ("Verdict", True),
        "tables": ("Arms and measures", any(tables.values())),
        "plane": ("Effect against side effect", planes),
        "categories": ("By category", categories),
        "costs": ("Costs beside the baseline", tables["Costs"] or stages),
        "judges": ("Judges", results.judges or results.agreements),
        "examples": ("Examples", examples),
        "failures": ("Failures", results.failures),
        "notes": ("Notes", results.notes),
        "protocol": ("Protocol", results.protocol),
    }
    return _template().render(
        results=results,
        sections={name: title for name, (title, shown) in sections.items() if shown},
        verdicts=verdicts(readings),
        reading=READING,
        warnings=warnings(results),
        tables={title: found for title, found in tables.items() if found},
        measures=list(readings.measures.values()),
        planes=planes,
        plane_legend=legend_of(readings),
        categories=categories,
        undrawn=undrawn,
        multiples=multiples_of(readings),
        stages=stages,
        stage_classes=stage_classes(readings),
        judge_columns=JUDGE_COLUMNS,
        agreement_columns=AGREEMENT_COLUMNS,
        examples=examples,
        more_examples=more_examples,
        titles={measure.name: measure.title for measure in readings.measures.values()},
        shaded=any(example.tokens for shown in examples.values() for example in shown),
        failures=results.failures[:_MOST_FAILURES],
        max_divergence=_MAX_DIVERGENCE,
    )


def _examples(results: StudyResults) -> tuple[dict[str, list[Example]], int]:
    """Examples by arm, as many as there is room for, every arm's first before any arm's second; and how many more."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for example in results.examples:
        seen[example.arm, example.outcome] += 1
        ranked.append((seen[example.arm, example.outcome], example))
    room = _ROOM["examples"]
    kept: defaultdict[str, list[Example]] = defaultdict(list)
    for _, example in sorted(ranked, key=lambda pair: pair[0]):
        room -= _size(example)
        if room < 0:
            break
        kept[example.arm].append(example)
    shown = sum(map(len, kept.values()))
    return {arm.name: kept[arm.name] for arm in results.arms if arm.name in kept}, len(results.examples) - shown


def _size(example: Example) -> int:
    texts = (example.question, example.baseline_answer, example.answer)
    tokens = sum(len(token.text) + _TOKEN_MARKUP for token in example.tokens)
    return sum(min(len(text), _LONGEST_TEXT) for text in texts[:2]) + (tokens or min(len(texts[2]), _LONGEST_TEXT))


def _shade(token: ShownToken) -> str:
    """How far its divergence is from 0 to ln 2, in [0, 1]; "" where it would not be seen."""
    share = min(max((token.divergence or 0.0) / _MAX_DIVERGENCE, 0.0), 1.0)
    return "" if math.isnan(share) or share < 0.005 else f"{share:.2f}".removeprefix("0")


def _changed(tokens: tuple[ShownToken, ...]) -> str:
    """The shading in words."""
    changed = sum(token.changed for token in tokens)
    known = [token.divergence for token in tokens if token.divergence is not None]
    mean = f", mean divergence {numbers.decimal(sum(known) / len(known))} nats" if known else ""
    return f"{changed} of {numbers.plural(len(tokens), 'token')} changed{mean}"


def _scalar(value: JsonValue) -> str:
    """A value of the protocol that has no parts."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_scalar(part) for part in value)
    return numbers.clean(str(value))


def _nested(value: JsonValue) -> Mapping[str, JsonValue] | None:
    """The parts of a value that are worth a list of their own; None for a plain one."""
    if isinstance(value, dict) and value:
        return value
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        return {str(number): part for number, part in enumerate(value, start=1)}
    return None


def _settings(settings: Mapping[str, JsonValue]) -> str:
    """An arm's settings on one line."""
    parts = []
    for name, value in settings.items():
        within = _nested(value)
        parts.append(f"{numbers.clean(name)}: {f'({_settings(within)})' if within else _scalar(value)}")
    return ", ".join(parts)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("sda_integrations.studies.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clean=numbers.clean,
        clipped=lambda text, length=_LONGEST_TEXT: numbers.clipped(text, length),
        header=numbers.header,
        direction=numbers.direction,
        percent=numbers.percent,
        decimal=numbers.decimal,
        difference=numbers.difference,
        shown=numbers.shown,
        interval=lambda row, unit: numbers.interval(row.low, row.high, unit),
        probability=numbers.probability,
        shade=_shade,
        changed=_changed,
        scalar=_scalar,
        nested=_nested,
        settings=_settings,
        plural=numbers.plural,
    )
    return environment.get_template("report.html.j2")
