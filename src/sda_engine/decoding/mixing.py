"""Several instructed rows of one request become one: the mixture that its alignments make together."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from sda_engine.prompts import INSTRUCTED, instructed_rows
from sda_engine.steering import mix_logits
from sda_engine.steering.precision import at_least_float32


def mixed_rows(rows: Iterable[str]) -> tuple[str, ...]:
    """The names of rows once their instructed ones are mixed: INSTRUCTED stands for all of those."""
    names = tuple(rows)
    further = instructed_rows(names)[1:]
    return tuple(name for name in names if name not in further)


def mix_instructed(logits: Mapping[str, Tensor], weights: Sequence[float]) -> dict[str, Tensor]:
    """Logits by row, (batch, vocab) or (vocab,) each, with the mixture of all instructed rows as INSTRUCTED.

    Where rows are mixed, all come in float32 at least.

    Args:
        logits: those of every row. Where at most one is instructed they come back as they are.
        weights: how much each of the instructed rows counts.
    """
    mixed = {name: logits[name] for name in mixed_rows(logits)}
    if len(mixed) == len(logits):
        return mixed
    wide = {name: at_least_float32(values) for name, values in mixed.items()}
    parts = [logits[name] for name in instructed_rows(logits)]
    mixture = mix_logits([part.reshape(-1, part.shape[-1]) for part in parts], weights)
    return {**wide, INSTRUCTED: mixture.reshape(parts[0].shape).to(wide[INSTRUCTED].dtype)}
