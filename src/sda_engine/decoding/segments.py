"""Segments: what a forward pass adds to rows, one by one and as it is attended to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sda_engine.decoding.blocks import Piece
from sda_engine.decoding.rows import Row


@dataclass(frozen=True)
class Segment:
    """What a forward pass adds to one row.

    Attributes:
        token_ids: at least one.
        keep: the logits after the last so many tokens are wanted.
    """

    row: Row
    token_ids: Sequence[int]
    keep: int = 1


@dataclass(frozen=True)
class Run:
    """A run of keys and values that some queries see.

    Attributes:
        piece: where they are.
        start: the place of the first of them in the rows.
    """

    piece: Piece
    start: int

    @property
    def keys(self) -> Tensor:
        """(tokens,) their places in the rows."""
        return torch.arange(self.start, self.start + len(self.piece))


@dataclass(frozen=True)
class Together:
    """The segments whose tails are attended to in one call, padded to the same number of queries.

    Attributes:
        queries: most new tokens of a segment.
        length: keys of the longest tail, new ones included.
        tokens: (rows * queries,) the places of their tokens in the pass, those of padding repeated; None where the
            tokens of the pass are just these.
        kept: (new tokens,) which of the padded ones are no padding; None where all are.
        places: (new tokens,) where in the pass these are; None likewise.
        positions: (rows, queries), in their rows.
        tail_starts: (rows,) the place of each tail's first token in its row.
        runs: what rows begin with, each with the rows that share it, (members,), or None for all rows.
    """

    rows: Sequence[Row]
    queries: int
    length: int
    tokens: Tensor | None
    kept: Tensor | None
    places: Tensor | None
    positions: Tensor
    tail_starts: Tensor
    runs: Sequence[tuple[Run, Tensor | None]]

    def on(self, device: torch.device) -> "Together":
        """The same with its indices on a device."""
        tokens, kept, places, *members = (
            None if index is None else index.to(device)
            for index in (self.tokens, self.kept, self.places, *(members for _, members in self.runs))
        )
        runs = [(run, moved) for (run, _), moved in zip(self.runs, members, strict=True)]
        return replace(self, tokens=tokens, kept=kept, places=places, runs=runs)


@dataclass(frozen=True)
class Alone:
    """A segment that is attended to by itself.

    Attributes:
        start, stop: its tokens in the pass.
        position: of its first token, in the row.
        own_start: the place in the row of the first key that the pass writes to, or that stands in the same tail.
        runs: what comes before that.
        blocks: start and stop in the row of new tokens that attend to each other in both directions.
    """

    row: Row
    start: int
    stop: int
    position: int
    own_start: int
    runs: Sequence[Run]
    blocks: Sequence[tuple[int, int]] = ()

    @property
    def positions(self) -> Tensor:
        """(1, tokens), in the row."""
        return torch.arange(self.position, self.position + self.stop - self.start).unsqueeze(0)
