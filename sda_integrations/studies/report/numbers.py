"""Figures as text: one way to write each unit, on the page and in Markdown."""

import math
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sda_integrations.studies.results import Measure, Unit

NOTHING = "-"
_UNITS: dict[str, str] = {
    "share": "%",
    "points": "points",
    "number": "",
    "tokens": "tokens",
    "words": "words",
    "seconds": "s",
    "nats": "nats",
}
_BETTER = {"higher": "higher is better", "lower": "lower is better", "neither": ""}
_LEAST_P = 0.001


def shown(value: float | None, unit: "Unit") -> str:
    """A value without its unit, which stands in the header; "-" where there is none.

    Percent and counts have no decimals, points one, nats two, seconds two significant digits, numbers three or more.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return significant(value) if unit == "seconds" else _fixed(_scaled(value, unit), _decimals(unit, abs(value)))


def interval(low: float | None, high: float | None, unit: "Unit") -> str:
    """Both ends of an interval, e.g. "55 to 71"; "" where there is none."""
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high):
        return ""
    if unit == "seconds":
        return f"{significant(low)} to {significant(high)}"
    decimals = _decimals(unit, max(abs(low), abs(high)))
    return " to ".join(_fixed(_scaled(end, unit), decimals) for end in (low, high))


def difference(value: float, unit: "Unit") -> str:
    """A difference with its sign, in the unit of `shown`; one that this would round to 0 keeps two digits."""
    text = shown(value, unit)
    if value and not any(digit in text for digit in "123456789"):
        text = significant(_scaled(value, unit))
    return text if value < 0 else f"+{text}"


def multiple(value: float | None, of: float | None) -> str:
    """How many times as much `value` is, e.g. "2.3x"; "-" where that cannot be told."""
    if value is None or not of:
        return NOTHING
    ratio = value / of
    return f"{significant(ratio) if abs(ratio) < 0.095 else _fixed(ratio, 1)}x"


def probability(p: float | None) -> str:
    """The p of a test with three decimals."""
    return NOTHING if p is None else f"<{_LEAST_P}" if p < _LEAST_P else f"{p:.3f}"


def percent(share: float | None) -> str:
    """A share in percent with its sign, for running text."""
    return NOTHING if share is None else f"{shown(share, 'share')}%"


def decimal(value: float | None) -> str:
    """A coefficient with two decimals."""
    return shown(value, "nats")


def plural(count: int, noun: str) -> str:
    """E.g. "1 sample", "2 samples"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def header(measure: "Measure") -> str:
    """A measure's title with its unit."""
    unit = _UNITS.get(measure.unit, measure.unit)
    return f"{measure.title} ({unit})" if unit else measure.title


def direction(measure: "Measure") -> str:
    """Which way is better, in words; "" where neither is."""
    return _BETTER[measure.better]


def tick(value: float, step: float, unit: "Unit") -> str:
    """A value on an axis whose ticks stand `step` apart."""
    return _fixed(_scaled(value, unit), max(0, -math.floor(math.log10(_scaled(step, unit)) + 1e-9)))


def significant(value: float, digits: int = 2) -> str:
    """A value with so many significant digits, never with an exponent, e.g. "0.013", "4.1", "130"."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)  # 0.999 becomes 1.0, which has one decimal less
    return _fixed(rounded, max(digits - 1 - math.floor(math.log10(abs(rounded))), 0))


def clean(text: str) -> str:
    """Text in which characters that could hide or turn others (controls, bidirectional marks) are Python escapes."""
    return "".join(char if _harmless(char) else char.encode("unicode_escape").decode() for char in text)


def clipped(text: str, length: int) -> str:
    """Text with at most `length` characters; a cut one ends with a sign of it."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _harmless(char: str) -> bool:
    if unicodedata.category(char) == "Cc":
        return char in "\n\t"
    return unicodedata.bidirectional(char) not in {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


def _scaled(value: float, unit: "Unit") -> float:
    return 100 * value if unit == "share" else value


def _decimals(unit: "Unit", size: float) -> int:
    if unit == "number":
        return 2 if size < 10 else 1 if size < 100 else 0
    return {"points": 1, "nats": 2}.get(unit, 0)


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text
