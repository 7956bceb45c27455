"""Small pieces of SVG: elements with escaped text, and axes with round ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from markupsafe import Markup, escape

_STEPS = (1.0, 2.0, 5.0, 10.0)
_NARROW, _WIDE = frozenset(" ijlftrI.,:;'|!()[]-"), frozenset("mwMW@%…")


def element(name: str, content: str = "", **attributes: str | float) -> Markup:
    """One element; text content and attributes are escaped, `Markup` content is not. `class_` becomes "class"."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value) if isinstance(value, float) else value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{escape(content)}</{name}>")  # noqa: S704, both parts are escaped


def joined(parts: Iterable[Markup]) -> Markup:
    """Elements one after the other."""
    return Markup("").join(parts)


def drawing(title: str, description: str, content: Markup, **attributes: str | float) -> Markup:
    """An image with a name and with everything that it shows told in words."""
    return element("svg", content, role="img", aria_label=f"{title}. {description}.", **attributes)


def text_width(text: str, size: float) -> float:
    """How wide a text is drawn, by a guess that holds for the wider ones of common systems' fonts."""
    return sum(map(_char_width, text)) * size


@dataclass(frozen=True, slots=True)
class Axis:
    """Values along a line of pixels.

    Attributes:
        low, high: values at its ends.
        start, end: pixels of its ends; start > end for one that points up.
        step: distance of ticks.
    """

    low: float
    high: float
    start: float
    end: float
    step: float

    @classmethod
    def around(cls, values: Iterable[float], *, start: float, end: float, ticks: int = 5) -> "Axis":
        """An axis with a margin around all values."""
        known = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(known), max(known)
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
        power = 10.0 ** math.floor(math.log10((high - low) / ticks))
        step = min((power * factor for factor in _STEPS), key=lambda step: abs((high - low) / step - ticks))
        return cls(low, high, start, end, step)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """The round values within."""
        first = math.ceil(self.low / self.step)
        within = (index * self.step for index in count(first))
        return [value for value, _ in zip(within, range(first, math.floor(self.high / self.step) + 1), strict=False)]


def _char_width(char: str) -> float:
    """Parts of the font size."""
    if char in _NARROW:
        return 0.4
    if char in _WIDE or ord(char) > 0x2E7F:  # CJK and emoji fill a square
        return 1.0
    return 0.72 if char.isupper() else 0.64


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
