"""What steering did, token by token, and views of it: text, an HTML page, a plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, StrictUndefined, Template

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WarningKind = Literal["repetition", "collapse", "thought_cut"]

_MAX_DIVERGENCE = math.log(2)  # nats
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}
_MIN_SPREAD = 0.01  # of the temperatures that a page draws from bottom to top; rounding noise lies below
_LABELLED_TOKENS = 60  # tick labels that fit under a plot
_LABEL_LENGTH = 16
_DIVERGENCE_COLOUR, _TEMPERATURE_COLOUR = "#4a7de0", "#d0601f"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have come next, with its probability in (0, 1]."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class TraceToken:
    """One generated token.

    Attributes:
        token_id: its id in the model's vocabulary.
        text: the text that became complete with it; "" inside a character of several tokens.
        divergence: Jensen-Shannon divergence of base and instructed context, nats, 0..ln 2.
        temperature: the temperature it was sampled at; 0 is greedy.
        logprob: its log-probability in the steered distribution, before temperature and truncation, nats.
        base: the most likely tokens of the base context, best first.
        instructed: those of the instructed context.
        steered: those of the steered distribution, before temperature and truncation.
        strength: the strength of steering in force when it was decoded; 0 outside `Steering.scope`.
        position: how far it went from the base distribution (0) to the steered one (1); 0 is where the base context
            decided alone; None in an answer that neither a budget nor `Steering.scope` can keep from full steering.
        spent: what that took of the budget, nats; None likewise.
        forced: whether the model had no choice: a grammar left this token alone, or it closes a thought that was cut.
            Then nothing diverges, and its probability is 1.
    """

    token_id: int
    text: str
    divergence: float
    temperature: float
    logprob: float
    base: tuple[Candidate, ...] = ()
    instructed: tuple[Candidate, ...] = ()
    steered: tuple[Candidate, ...] = ()
    strength: float = 0.0
    position: float | None = None
    spent: float | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class TraceWarning:
    """A failure sign that the guard saw (`Steering.guard`), or a thought cut by `Sampling.max_reasoning_tokens`.

    Attributes:
        kind: "repetition" or "collapse"; "thought_cut" where the closing marker of a thought was forced.
        place: index of the token with which it was seen, or of the first one that was forced.
        detail: what was seen, with figures.
        strength: the strength of steering in force up to that token.
        new_strength: the strength from the next token on, if the guard lowered it; None if it only reports.
    """

    kind: WarningKind
    place: int
    detail: str
    strength: float
    new_strength: float | None = None

    def __str__(self) -> str:
        change = "" if self.new_strength is None else f", lowered to {self.new_strength:.3g}"
        return f"{self.kind} at token {self.place}: {self.detail} (strength {self.strength:.3g}{change})"


@dataclass(frozen=True, slots=True)
class TraceMeans:
    """What is known of an answer whose tokens were not recorded.

    Attributes:
        divergence: mean over the answer, nats.
        temperature: mean over the answer.
    """

    divergence: float
    temperature: float


@dataclass(frozen=True)
class Trace:
    """The record of one answer.

    Attributes:
        tokens: one entry per generated token, the end-of-sequence token included.
        alignment: name of the alignment; None for a plain answer.
        strength: gain * amplification of the request; a guard may lower it on the way, see `TraceToken.strength`.
        warnings: thoughts that were cut, and the failure signs that the guard saw, in order; none of these where
            `Steering.guard` is "off".
        means: what is known without `tokens`, where a server kept those for itself; None where it follows from them.
    """

    tokens: tuple[TraceToken, ...]
    alignment: str | None = None
    strength: float = 0.0
    warnings: tuple[TraceWarning, ...] = ()
    means: TraceMeans | None = None

    @property
    def divergence(self) -> list[float]:
        """One Jensen-Shannon divergence per generated token, nats, 0..ln 2."""
        return [token.divergence for token in self.tokens]

    @property
    def temperature(self) -> list[float]:
        """One temperature per generated token."""
        return [token.temperature for token in self.tokens]

    @property
    def mean_divergence(self) -> float:
        """Mean divergence over the answer, nats; 0.0 for an empty one."""
        if self.means is not None:
            return self.means.divergence
        return sum(self.divergence) / len(self.tokens) if self.tokens else 0.0

    @property
    def spent(self) -> float | None:
        """What the answer spent of its budget, nats; None where neither a budget nor a scope limited it."""
        spent = [token.spent for token in self.tokens if token.spent is not None]
        return sum(spent) if spent else None

    @property
    def mean_temperature(self) -> float:
        """Mean temperature over the answer; 0.0 for an empty one."""
        if self.means is not None:
            return self.means.temperature
        return sum(self.temperature) / len(self.tokens) if self.tokens else 0.0

    def to_text(self) -> str:
        """One line per token: divergence (nats), temperature, and the token's text as a Python literal.

        A column for the strength is added where a guard has lowered it, and one for the nats spent where there was a
        budget. Warnings follow, a line each.
        """
        relaxed, spent = self._was_relaxed, self.spent
        whole = "" if spent is None else f", {spent:.1f} nats spent"
        lines = [
            f"{self._title()}: {len(self.tokens)} tokens, mean divergence {self.mean_divergence:.3f} nats{whole}",
            f"divergence  temperature  {'strength  ' if relaxed else ''}{'' if spent is None else 'spent  '}token",
            *(_line(token, with_strength=relaxed, with_spent=spent is not None) for token in self.tokens),
            *(f"Warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()

    def to_html(self) -> str:
        """A page that needs nothing but itself: no script, and nothing loaded from elsewhere.

        Each token is shaded by its divergence (0..ln 2 nats) and underlined by its temperature (from the
        answer's lowest to its highest); one at which the base context decided alone is grey. Pointing at a token, or
        focusing it, shows its figures and the most likely tokens of each distribution. The warnings of a guard stand
        above, and their tokens are framed.
        """
        coolest, hottest = min(self.temperature, default=0.0), max(self.temperature, default=0.0)
        margin = max(_MIN_SPREAD - (hottest - coolest), 0.0) / 2  # a constant temperature lies in the middle
        low, high = coolest - margin, hottest + margin
        return _page().render(
            trace=self,
            title=self._title(),
            steered=self.alignment is not None,
            relaxed=self._was_relaxed,
            warned={warning.place for warning in self.warnings},
            low=low,
            high=high,
            max_divergence=_MAX_DIVERGENCE,
            divergence_steps=_svg_steps([_share(value, 0.0, _MAX_DIVERGENCE) for value in self.divergence]),
            temperature_steps=_svg_steps([_share(value, low, high) for value in self.temperature]),
        )

    def plot(self) -> "Figure":
        """Divergence (nats, left axis) and temperature (right axis) of each token along the text.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("Trace.plot needs matplotlib: pip install 'sda-integrations[plot]'") from error
        figure = Figure(figsize=(min(max(6.0, 0.2 * len(self.tokens)), 14.0), 4.0), layout="constrained")
        left = figure.add_subplot()
        right = left.twinx()
        if self.tokens:
            left.stairs(self.divergence, fill=True, color=_DIVERGENCE_COLOUR)
            right.stairs(self.temperature, baseline=None, color=_TEMPERATURE_COLOUR, linewidth=1.5)
        left.set_xlim(0, max(len(self.tokens), 1))
        left.set_ylim(0, _MAX_DIVERGENCE)
        right.set_ylim(0, 1.1 * max(self.temperature, default=0.0) or 1.0)
        left.set_ylabel("divergence (nats)", color=_DIVERGENCE_COLOUR)
        right.set_ylabel("temperature", color=_TEMPERATURE_COLOUR)
        left.set_title(_drawable(self._title()), parse_math=False)
        _label_tokens(left, [token.text for token in self.tokens])
        return figure

    @property
    def _was_relaxed(self) -> bool:
        return any(warning.new_strength is not None for warning in self.warnings)

    def _title(self) -> str:
        return "Plain answer" if self.alignment is None else f"Steered by {_printable(self.alignment)}"


def _line(token: TraceToken, *, with_strength: bool, with_spent: bool) -> str:
    strength = f"{token.strength:8.3g}  " if with_strength else ""
    spent = f"{token.spent or 0.0:5.2f}  " if with_spent else ""
    return f"{token.divergence:10.3f}  {token.temperature:11.3f}  {strength}{spent}{token.text!r}"


def _printable(text: str) -> str:
    """Characters without a glyph (controls, joiners, bidirectional marks) as Python escapes."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _visible(text: str) -> str:
    """A token's text with its white space as signs."""
    return _printable("".join(_VISIBLE.get(char, char) for char in text))


def _mark(text: str, last: bool) -> str:
    """The sign that a page adds so that one can point at the token: "end", "blank", "line", or none."""
    if not text:
        return "end" if last else "blank"
    if text.isspace():
        return "line" if "\n" in text else ""
    return "" if any(map(str.isprintable, text)) else "blank"


def _share(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """Where a value lies between low and high, in [0, 1]; 0 for one that is not a number."""
    share = (value - low) / (high - low)
    return 0.0 if math.isnan(share) else round(min(max(share, 0.0), 1.0), 2)


def _percent(probability: float) -> str:
    return "<0.1%" if 0.0 < probability < 0.0005 else f"{probability:.1%}"


def _svg_steps(shares: Sequence[float]) -> str:
    """SVG path data of a step line, one unit per token, in a box of height 100."""
    return "M0 " + "V".join(f"{100 - 100 * share:.0f}H{end}" for end, share in enumerate(shares, start=1))


@cache
def _page() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(visible=_visible, mark=_mark, share=_share, percent=_percent)
    source = files("sda_engine.results").joinpath("templates/trace.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _label_tokens(axes: "Axes", texts: Sequence[str]) -> None:
    """Token texts under the plot; of a long answer every second, third, ... one."""
    every = max(math.ceil(len(texts) / _LABELLED_TOKENS), 1)
    labels = [_drawable(_visible(text) or "·") for text in texts[::every]]
    axes.set_xticks(
        [place + 0.5 for place in range(0, len(texts), every)],
        [label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…" for label in labels],
        rotation=90,
        fontsize=7,
        parse_math=False,
    )
    axes.set_xlabel("generated token" if every == 1 else f"generated token (1 in {every} is named)")


def _drawable(text: str) -> str:
    """Characters that matplotlib's font lacks as Python escapes; drawing them would warn."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(char if font.get_char_index(ord(char)) else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
