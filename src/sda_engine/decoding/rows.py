"""Row: one sequence of the running batch, with the keys and values of its tokens in every layer."""

from collections.abc import Iterable, Sequence

from torch import Tensor

KeyValues = Sequence[tuple[Tensor, Tensor]]
"""The (keys, values) of each layer, both (heads, tokens, size); layers may differ in heads, size and dtype."""


class Row:
    """Tokens and their key-value states, in buffers that have room for more.

    A forward pass writes the states of new tokens behind those that are there, and `append` makes them count once the
    pass has succeeded: one that fails leaves the row as it was.

    Args:
        capacity: tokens that the buffers have room for when they are made; they grow where that is not enough.
    """

    def __init__(self, capacity: int) -> None:
        self.token_ids: list[int] = []
        self._capacity = capacity
        self._source: Row | None = None
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    @property
    def length(self) -> int:
        """Tokens in the row."""
        return len(self.token_ids)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put the states of new tokens behind the row's own.

        Args:
            layer: layers come in order, from 0.
            keys, values: (1, heads, new tokens, size).

        Returns:
            Views of all keys and values of the layer, (1, heads, length + new tokens, size).
        """
        start, new = self.length, keys.shape[2]
        if layer == len(self._keys):
            self._open(keys, values, max(self._capacity, start + new))
        elif start + new > self._keys[layer].shape[2]:
            self._grow(layer, start + new)
        all_keys, all_values = self._keys[layer], self._values[layer]
        if self._source is not None:
            all_keys[:, :, :start] = self._source._keys[layer][:, :, :start]
            all_values[:, :, :start] = self._source._values[layer][:, :, :start]
        all_keys.narrow(2, start, new).copy_(keys)
        all_values.narrow(2, start, new).copy_(values)
        return all_keys.narrow(2, 0, start + new), all_values.narrow(2, 0, start + new)

    def append(self, token_ids: Iterable[int]) -> None:
        """Take in tokens whose states have been written."""
        self.token_ids.extend(token_ids)
        self._source = None

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on."""
        del self.token_ids[length:]

    def fork(self, token_ids: Sequence[int], capacity: int) -> "Row":
        """A row of its own that begins with tokens that this one begins with too.

        Their states are copied layer by layer in the fork's first pass: this row may get them in that very pass, by a
        segment that comes before the fork's.
        """
        forked = Row(capacity)
        forked.token_ids = list(token_ids)
        forked._source = self
        return forked

    def load(self, token_ids: Sequence[int], pieces: Iterable[KeyValues]) -> None:
        """Append tokens whose states are known already.

        Args:
            pieces: the states of one run of tokens after the other, in order: per layer (keys, values), each of
                (heads, tokens, size). They are copied.
        """
        place = 0
        for piece in pieces:
            tokens = piece[0][0].shape[1]
            for layer, (keys, values) in enumerate(piece):
                self.write(layer, keys.unsqueeze(0), values.unsqueeze(0))
            self.append(token_ids[place : place + tokens])
            place += tokens

    def states(self) -> KeyValues:
        """Views of the states of its tokens: per layer (keys, values)."""
        end = self.length
        return [(keys[0, :, :end], values[0, :, :end]) for keys, values in zip(self._keys, self._values, strict=True)]

    def _open(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        """Make the buffers of the next layer: both or, out of memory, none."""
        buffers = _buffer(keys, capacity), _buffer(values, capacity)
        self._keys.append(buffers[0])
        self._values.append(buffers[1])

    def _grow(self, layer: int, needed: int) -> None:
        small = self._keys[layer], self._values[layer]
        capacity = max(needed, small[0].shape[2] * 3 // 2)
        large = _buffer(small[0], capacity), _buffer(small[1], capacity)  # both or, out of memory, none
        for old, new in zip(small, large, strict=True):
            new[:, :, : self.length] = old[:, :, : self.length]
        self._keys[layer], self._values[layer] = large


def _buffer(like: Tensor, capacity: int) -> Tensor:
    """(1, heads, capacity, size), not initialised: memory that is never written costs nothing on a CPU."""
    return like.new_empty((1, like.shape[1], capacity, like.shape[3]))
