"""What speed.py measured: a row per case and contender, as a table and as a file."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from contenders import Sample

COLUMNS = ["case", "contender", "new tokens", "tokens/s", "SDA is times as fast", "peak RSS, MB"]


@dataclass(frozen=True)
class Result:
    """A contender in a case.

    Attributes:
        case: the case's title.
        is_ours: whether the case's other contenders are compared with this one.
        is_plain: whether the plot calls this one 1.
        first_token: whether the figure is the time to the first token.
        samples: its repetitions.
        peak: peak of the resident set, MB, if it was measured.
    """

    case: str
    contender: str
    is_ours: bool
    is_plain: bool
    first_token: bool
    samples: tuple[Sample, ...]
    peak: float | None = None

    @property
    def seconds_per_token(self) -> float:
        """The median."""
        return statistics.median(sample.seconds / sum(sample.tokens) for sample in self.samples)

    @property
    def tokens(self) -> str:
        """Decoded tokens of all requests of one run, and those of base responses beside them; medians."""
        decoded = statistics.median(sum(sample.tokens) for sample in self.samples)
        hidden = statistics.median(sample.base_tokens for sample in self.samples)
        return f"{decoded:g}" + (f" (+ {hidden:g})" if hidden else "")

    @property
    def speed(self) -> str:
        """Tokens per second, or seconds to the first token."""
        return f"{self.seconds_per_token:.3f} s" if self.first_token else f"{1 / self.seconds_per_token:.1f}"


def table_rows(results: Sequence[Result]) -> list[list[str]]:
    """The table's rows; a case is named once, and the ratio is how many times the case's first contender is faster."""
    ours = {result.case: result.seconds_per_token for result in results if result.is_ours}
    return [
        [
            result.case if result.is_ours else "",
            result.contender,
            result.tokens,
            result.speed,
            "" if result.is_ours else f"{result.seconds_per_token / ours[result.case]:.2f}",
            "" if result.peak is None else f"{result.peak:.0f}",
        ]
        for result in results
    ]


def save(path: Path, machine: str, results: Sequence[Result]) -> None:
    """Write a file that `load` reads."""
    path.write_text(json.dumps({"machine": machine, "results": [asdict(result) for result in results]}, indent=1))


def load(path: Path) -> tuple[str, list[Result]]:
    """The machine and the results of a file."""
    saved = json.loads(path.read_text())
    return saved["machine"], [
        Result(**{**row, "samples": tuple(Sample(**sample) for sample in row["samples"])}) for row in saved["results"]
    ]
