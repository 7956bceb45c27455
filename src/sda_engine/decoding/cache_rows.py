"""Rows whose keys, values and states are in caches of transformers, which the model itself makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sda_engine.decoding.blocks import Ledger
from sda_engine.decoding.caches import CacheOfRow, holds_tokens, joined
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.states import RowState, StateCost
from sda_engine.models import Adapter


@dataclass(frozen=True, eq=False)
class CacheBatch:
    """The cache of rows that went through a pass together, which nobody changes from here on.

    Attributes:
        lengths: tokens of each row.
        width: tokens that it has room for in each row: those of a shorter row are padded on the left.
    """

    cache: object
    lengths: tuple[int, ...]
    width: int

    @property
    def is_padded(self) -> bool:
        """Whether there is padding in it."""
        return min(self.lengths) < self.width and holds_tokens(self.cache)

    def part(self, index: int) -> CacheOfRow:
        """What belongs to one of its rows."""
        return CacheOfRow(self.cache, index, self.lengths[index])


class CacheState(RowState):
    """What a model's own cache holds of one row, in tokens with the padding that it has there.

    Args:
        batch, index: where it is.
        cost: what a row takes.
    """

    def __init__(self, batch: CacheBatch, index: int, ledger: Ledger, cost: StateCost) -> None:
        super().__init__(ledger, cost.of(batch.width))
        self.batch = batch
        self.index = index
        self._cost = cost

    def alone(self) -> Self:
        """A copy, where there are other rows in its batch."""
        if len(self.batch.lengths) == 1:
            return self
        return type(self)(joined_batch([self]), 0, self._ledger, self._cost)


def joined_batch(states: Sequence[CacheState]) -> CacheBatch:
    """A cache of several rows, in memory of its own."""
    parts = [state.batch.part(state.index) for state in states]
    lengths = tuple(part.length for part in parts)
    return CacheBatch(joined(parts), lengths, max(lengths))


class CacheRow(Row):
    """A row that is its state: there are no blocks, and no tail."""

    def append(self, token_ids: Sequence[int]) -> None:
        """Take in tokens, after which the state is."""
        self.token_ids.extend(token_ids)
        self._source = None


class CacheMemory(RowMemory):
    """Where such rows are.

    Args:
        state_cost: what the state of a row takes.
        takes_pieces: see RowMemory.
    """

    def __init__(self, state_cost: StateCost, *, takes_pieces: bool) -> None:
        super().__init__(state_cost=state_cost)
        self.takes_pieces = takes_pieces

    def new_row(self, adapter: Adapter | None = None) -> Row:
        """A row without tokens."""
        return CacheRow(self, adapter)
