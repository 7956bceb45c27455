"""How long a step of an engine takes: a line through measured steps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sda_engine.errors import ConfigError

Count = Annotated[int, Field(ge=0)]


class StepSample(BaseModel):
    """One measured step, or the mean of several alike.

    Attributes:
        rows: that decoded one token each.
        prefill_tokens: of prompts that were read.
        kv_tokens: whose keys and values were read, summed over the rows, and over the prompts in pieces.
        seconds: that it took.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Count
    prefill_tokens: Count
    kv_tokens: Count
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MeasuredSteps(BaseModel):
    """What a file of measured steps holds.

    Attributes:
        source: what was measured, where, when and how, in words for a table's title.
        samples: the steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    samples: tuple[StepSample, ...]


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step: what any step takes, and what each row, prompt token and cached token that is read adds."""

    base: float
    row: float
    prefill_token: float
    kv_token: float

    def seconds(self, rows: int, prefill_tokens: int, kv_tokens: int) -> float:
        """Of one step."""
        return self.base + self.row * rows + self.prefill_token * prefill_tokens + self.kv_token * kv_tokens


def read_steps(path: Path) -> MeasuredSteps:
    """The measured steps of a JSON file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        return MeasuredSteps.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"The steps cannot be read from {path}: {error.strerror}. Name another file.") from error
    except (ValueError, ValidationError) as error:
        reason = str(error).strip().replace("\n", " ")
        raise ConfigError(
            f"{path} holds no measured steps: {reason}. It must be JSON such as "
            '{"source": "...", "samples": [{"rows": 8, "prefill_tokens": 0, "kv_tokens": 4000, "seconds": 0.05}]}.'
        ) from error


def fit_step_times(samples: Sequence[StepSample]) -> StepTimes:
    """The line with the least squares of relative errors, none of whose parts is negative.

    A part that would be negative, as noise makes some, is left out, and the others are fitted anew. Parts are rounded
    to four digits, so that a simulation is the same on every machine.

    Raises:
        ConfigError: the steps do not tell the four parts apart.
    """
    seconds = np.array([sample.seconds for sample in samples])
    parts = np.array([[1, one.rows, one.prefill_tokens, one.kv_tokens] for one in samples], dtype=float)
    if len(samples) < parts.shape[-1] or np.linalg.matrix_rank(parts) < parts.shape[1]:
        raise ConfigError(
            f"{len(samples)} measured steps do not tell rows, prompt tokens and cached tokens apart. Measure steps "
            f"that differ in each while the others stay."
        )
    kept = list(range(parts.shape[1]))
    while True:
        weighted = parts[:, kept] / seconds[:, None]
        found, *_ = np.linalg.lstsq(weighted, np.ones(len(samples)), rcond=None)
        if (found >= 0).all():
            break
        del kept[int(found.argmin())]
    line = np.zeros(parts.shape[1])
    line[kept] = found
    return StepTimes(*(float(f"{part:.4g}") for part in line))
