"""What a replica still holds of answered requests, in blocks, the least recently used first to go."""

from collections import OrderedDict
from dataclasses import dataclass, field

Key = tuple[int, ...]
"""A conversation and the row that left the blocks: 0 is the base row, whose blocks the next turn begins with. Other
rows have the turn beside it, since each turn leaves blocks of its own."""


@dataclass
class PrefixStore:
    """Blocks that nobody uses at the moment, and that anybody may take.

    A sequence loses its last blocks first, as in vLLM: what is left of it is still a prefix.
    """

    blocks: int = 0
    _stored: OrderedDict[Key, int] = field(default_factory=OrderedDict)

    def put(self, key: Key, blocks: int) -> None:
        """Hold these as the most recently used."""
        self.take(key)
        if blocks:
            self._stored[key] = blocks
            self.blocks += blocks

    def take(self, key: Key) -> int:
        """Blocks that are held of a sequence, which are no longer held here."""
        blocks = self._stored.pop(key, 0)
        self.blocks -= blocks
        return blocks

    def shrink_to(self, blocks: int) -> None:
        """Let go until no more than so many are held."""
        while self.blocks > blocks:
            key, held = next(iter(self._stored.items()))
            gone = min(held, self.blocks - blocks)
            self.blocks -= gone
            if gone == held:
                del self._stored[key]
            else:
                self._stored[key] = held - gone
