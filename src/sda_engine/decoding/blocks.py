"""Keys and values of tokens in blocks, which rows and the prefix store share: a block lives as long as one of them."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KeyValues = Sequence[tuple[Tensor, Tensor]]
"""The (keys, values) of each layer, both (heads, tokens, size); layers may differ in heads, size and dtype."""


class Ledger:
    """How many tokens all living blocks hold. The worker thread alone asks; blocks may die in any thread."""

    def __init__(self) -> None:
        self._tokens = 0
        self._freed: deque[int] = deque()  # appended to without a lock: a block may die while one is held

    @property
    def tokens(self) -> int:
        """Tokens in living blocks, each counted once."""
        while self._freed:
            self._tokens -= self._freed.popleft()
        return self._tokens

    def add(self, tokens: int) -> None:
        """Count a new block."""
        self._tokens += tokens

    def remove(self, tokens: int) -> None:
        """Count a block less."""
        self._freed.append(tokens)


class Block:
    """The states of a run of tokens, which do not change once they are there.

    Args:
        tokens: how many tokens it is for. A forward pass adds the states of one layer after the other.
        ledger: where it is counted for as long as it lives.

    Attributes:
        layers: (keys, values) of each layer so far, (heads, tokens, size), in memory that nothing else uses.
    """

    def __init__(self, tokens: int, ledger: Ledger) -> None:
        self.tokens = tokens
        self.layers: list[tuple[Tensor, Tensor]] = []
        self._ledger = ledger
        ledger.add(tokens)

    def __del__(self) -> None:
        self._ledger.remove(self.tokens)


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens of a block: `start` to `stop`."""

    block: Block
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> "Piece":
        """A part of it, counted from its own start."""
        return Piece(self.block, self.start + start, self.start + stop)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Views of the keys and values of a layer, (heads, tokens, size)."""
        keys, values = self.block.layers[layer]
        if len(self) == self.block.tokens:
            return keys, values
        return keys[:, self.start : self.stop], values[:, self.start : self.stop]


def make_piece(states: KeyValues, tokens: int, ledger: Ledger) -> Piece:
    """A block of its own with copies of the states of so many tokens, as a piece.

    Args:
        states: of each layer that stores some; where none does, there are none.
    """
    copies = [(_clone(keys), _clone(values)) for keys, values in states]
    block = Block(tokens, ledger)  # after the copies: where there is no memory for them, nothing is counted
    block.layers = copies
    return Piece(block, 0, tokens)


def join_pieces(pieces: Sequence[Piece], ledger: Ledger) -> Piece:
    """One piece, in a block of its own, of what several hold one after the other."""
    if len(pieces) == 1:
        states = [pieces[0].layer(layer) for layer in range(len(pieces[0].block.layers))]
        return make_piece(states, len(pieces[0]), ledger)
    layers = range(len(pieces[0].block.layers))
    joined = []
    for layer in layers:
        parts = [piece.layer(layer) for piece in pieces]
        joined.append((torch.cat([keys for keys, _ in parts], 1), torch.cat([values for _, values in parts], 1)))
    block = Block(sum(map(len, pieces)), ledger)
    block.layers = joined
    return Piece(block, 0, block.tokens)


def cut_pieces(pieces: Iterable[Piece], start: int, stop: int) -> Iterator[Piece]:
    """The parts of consecutive pieces that hold the tokens `start` to `stop` of all of them."""
    place = 0
    for piece in pieces:
        low, high = max(start - place, 0), min(stop - place, len(piece))
        if low < high:
            yield piece if high - low == len(piece) else piece.cut(low, high)
        place += len(piece)


def _clone(state: Tensor) -> Tensor:
    return state.detach().clone(memory_format=torch.contiguous_format)
