"""How far back a token sees the tokens of its row in a layer: all of them, its window, or its chunk."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Reach:
    """What a token sees of what is before it.

    Attributes:
        window: so many tokens, itself included; None for no such limit.
        chunk: the tokens of its own chunk, where a row is cut into chunks of so many; None for no such limit.
    """

    window: int | None = None
    chunk: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether a token sees all tokens before it."""
        return self.window is None and self.chunk is None

    def spans(self, start: int, stop: int) -> bool:
        """Whether each of the tokens from `start` to `stop` sees all of these before it."""
        if self.window is not None and stop - start > self.window:
            return False
        return self.chunk is None or start // self.chunk == (stop - 1) // self.chunk

    def seen(self, positions: Tensor, keys: Tensor) -> Tensor:
        """(rows, queries, keys) bool: each query sees itself and what is before it, as far as it reaches.

        Args:
            positions: (rows, queries), in their rows.
            keys: (rows, keys), likewise.
        """
        queries, keys = positions.unsqueeze(-1), keys.unsqueeze(1)
        seen = keys <= queries
        if self.window is not None:
            seen &= keys > queries - self.window
        if self.chunk is not None:
            seen &= keys // self.chunk == queries // self.chunk
        return seen


def first_seen(seen: Tensor) -> int:
    """The first key that any query sees; as many as there are keys, where none sees one."""
    by_any = seen.flatten(0, 1).any(0)
    return int(by_any.int().argmax()) if bool(by_any.any()) else len(by_any)
