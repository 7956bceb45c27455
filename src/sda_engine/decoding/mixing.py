"""Several instructed rows of one request become one: the mixture that its alignments make together."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from sda_engine.prompts import INSTRUCTED, instructed_rows
from sda_engine.steering import mix_logits


def mixed_rows(rows: Iterable[str]) -> tuple[str, ...]:
    """The names of rows once their instructed ones are mixed: INSTRUCTED stands for all of those."""
    names = tuple(rows)
    further = instructed_rows(names)[1:]
    return tuple(name for name in names if name not in further)


def mix_instructed(logits: Mapping[str, Tensor], weights: Sequence[float]) -> dict[str, Tensor]:
    """Logits by row, (batch, vocab) each, with the mixture of all instructed rows as INSTRUCTED.

    Args:
        logits: those of every row. Where at most one is instructed they come back as they are.
        weights: how much each of the instructed rows counts.
    """
    mixed = {name: logits[name] for name in mixed_rows(logits)}
    if len(mixed) < len(logits):
        mixed[INSTRUCTED] = mix_logits([logits[name] for name in instructed_rows(logits)], weights)
    return mixed
