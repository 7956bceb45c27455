"""A bounded store of the key-value states of token prefixes, for later prompts that begin with the same tokens.

The store is a radix tree: a node holds a run of tokens, and points to the piece of a block that has their keys and
values, which rows may point to as well. The states of a token depend on the tokens up to it alone, so the beginning of
whatever is stored can serve any prompt that shares it.

Layers that carry a state from token to token have one state for all tokens up to a place, of which nothing can be cut
off: there a prompt begins with what is stored up to the last place on its way whose state was stored too. States are
stored where requests end, and where a second prompt parted from one before it, for the third (Pan et al. 2024, Marconi,
arXiv 2411.19379).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from sda_engine.decoding.blocks import Piece, join_pieces
from sda_engine.decoding.rows import RowMemory
from sda_engine.decoding.states import RowState

_SMALL = 256  # tokens: fewer of a larger block are copied, so that they do not keep the block alive

TokenArray = npt.NDArray[np.int64]
"""(tokens,) token ids. A prompt that is looked up again and again is given as one, so that it is not made each time."""


class PrefixStore:
    """The key-value states of the token prefixes used last, for one model and one thread.

    Args:
        max_tokens: the most tokens held at any time; 0 stores nothing.
        memory: of the rows that its blocks are shared with.

    Attributes:
        read_tokens: tokens that were read so far.
    """

    def __init__(self, max_tokens: int, memory: RowMemory | None = None) -> None:
        self.memory = RowMemory() if memory is None else memory
        self._max_tokens = max_tokens
        self.read_tokens = 0
        self._tokens = 0
        self._root = _Node(as_array(()), None)
        # Every node but the root with its parent, the least recently used first. Children come before their parents,
        # so the first is always a leaf.
        self._parents: OrderedDict[_Node, _Node] = OrderedDict()

    @property
    def is_off(self) -> bool:
        """Whether it stores nothing at all."""
        return self._max_tokens == 0

    @property
    def tokens(self) -> int:
        """Tokens held now, never more than max_tokens."""
        return self._tokens

    def match(self, token_ids: Sequence[int] | TokenArray, most: int | None = None) -> int:
        """Tokens in the longest stored prefix of token_ids that a row can begin with; does not count as a use.

        Args:
            token_ids: tokens.
            most: no more than so many of them.
        """
        return sum(count for _, count in self._usable_path(as_array(token_ids)[:most]))

    def known(self, token_ids: Sequence[int] | TokenArray) -> int:
        """Tokens in the longest stored prefix of token_ids, whether or not a row can begin with it.

        Where layers carry states, prompts part there: a state is worth keeping that the next one can begin with.
        """
        return sum(count for _, count in self._path(as_array(token_ids)))

    def pieces(self, token_ids: Sequence[int] | TokenArray) -> list[Piece]:
        """Where the states of the longest such prefix of token_ids are; does not count as a use."""
        return [node.states.cut(0, count) for node, count in self._usable_path(as_array(token_ids))]

    def read(self, token_ids: Sequence[int] | TokenArray, length: int) -> list[Piece]:
        """The states of the first tokens in consecutive pieces, which then count as recently used.

        Args:
            token_ids: tokens whose beginning is stored.
            length: how many of them to read, 0..match(token_ids).
        """
        path = self._path(as_array(token_ids[:length]))
        assert sum(count for _, count in path) == length
        self._touch([node for node, _ in path])
        self.read_tokens += length
        return [node.states.cut(0, count) for node, count in path]

    def state(self, token_ids: Sequence[int] | TokenArray, length: int) -> RowState | None:
        """What layers that carry a state hold after the first tokens, as many as `match` gave; None without such."""
        path = self._path(as_array(token_ids[:length]))
        return path[-1][0].state if path else None

    def insert(
        self,
        token_ids: Sequence[int] | TokenArray,
        cut: Callable[[int, int], Sequence[Piece]],
        states: Mapping[int, RowState] = MappingProxyType({}),
    ) -> None:
        """Store the states of a prefix, of one too long its beginning, in place of the least recently used.

        Args:
            token_ids: tokens of the prefix, of which those already stored count as recently used.
            cut: gives the states of the tokens from one place to another, in consecutive pieces.
            states: length -> what layers that carry a state hold after so many tokens; without such layers, nothing.
        """
        ids = as_array(token_ids)
        if not self.memory.state_cost:
            self._insert(ids, cut)
        for length, state in sorted(states.items()):
            if length + state.tokens <= self._max_tokens:
                self._insert(ids[:length], cut)
                self._insert_state(ids[:length], state)

    def _insert(self, ids: TokenArray, cut: Callable[[int, int], Sequence[Piece]]) -> None:
        path = self._path(ids)
        nodes = [node for node, _ in path]
        held = sum(count for _, count in path)
        added = min(len(ids), self._max_tokens) - held
        if added <= 0:
            self._touch(nodes)
            return
        if path and path[-1][1] < len(nodes[-1].token_ids):
            nodes[-1] = self._split(*path[-1])
        self._touch(nodes)  # before anything is evicted, so that these go last
        self._evict_to(self._max_tokens - added)
        for piece in cut(held, held + added):
            leaf = _Node(ids[held : held + len(piece)].copy(), self._compact(piece))
            self._attach(leaf, nodes[-1] if nodes else self._root)
            nodes.append(leaf)
            held += len(piece)
            self._tokens += len(piece)
        self._touch(nodes)

    def _insert_state(self, ids: TokenArray, state: RowState) -> None:
        """Put a state at the end of tokens that are stored, unless there is one, or no room for it beside these."""
        path = self._path(ids)
        if not path or sum(count for _, count in path) < len(ids):
            return
        node, count = path[-1]
        if count < len(node.token_ids):
            node = self._split(node, count)
        if node.state is None:
            nodes = [*(one for one, _ in path[:-1]), node]
            self._touch(nodes)
            self._evict_to(self._max_tokens - state.tokens)
            if node in self._parents:  # it may have been the last one to go
                node.state = state.alone()
                self._tokens += state.tokens

    def resize(self, max_tokens: int) -> None:
        """Hold at most so many tokens, now and from now on."""
        self._max_tokens = max_tokens
        self._evict_to(max_tokens)

    def _evict_to(self, max_tokens: int) -> None:
        """Evict the least recently used leaves until at most so many tokens are held."""
        while self._tokens > max_tokens:
            self.evict_oldest()

    def evict_oldest(self) -> None:
        """Evict the least recently used leaf, where anything is stored."""
        if self._parents:
            leaf, parent = self._parents.popitem(last=False)
            del parent.children[int(leaf.token_ids[0])]
            self._tokens -= len(leaf.token_ids) + (0 if leaf.state is None else leaf.state.tokens)

    def clear(self) -> None:
        """Evict everything."""
        self._evict_to(0)

    def _path(self, ids: TokenArray) -> list[tuple["_Node", int]]:
        """The nodes along the longest stored prefix of ids, and how many tokens of each belong to it."""
        path: list[tuple[_Node, int]] = []
        node, start = self._root, 0
        while start < len(ids) and (child := node.children.get(int(ids[start]))) is not None:
            count = common_length(child.token_ids, ids[start:])
            path.append((child, count))
            if count < len(child.token_ids):
                break
            node, start = child, start + count
        return path

    def _usable_path(self, ids: TokenArray) -> list[tuple["_Node", int]]:
        """The same, up to the last place that a row can begin at."""
        path = self._path(ids)
        while self.memory.state_cost and path and not path[-1][0].has_state_after(path[-1][1]):
            path.pop()
        return path

    def _split(self, node: "_Node", length: int) -> "_Node":
        """Cut a node in two and return the first half, a node of its own; the second is as recently used as before."""
        both = self._compact(node.states.cut(0, length)), self._compact(node.states.cut(length, len(node.token_ids)))
        first = _Node(node.token_ids[:length].copy(), both[0])  # after both copies: memory may run out
        self._attach(first, self._parents[node])
        node.token_ids, node.piece = node.token_ids[length:].copy(), both[1]
        self._attach(node, first)
        return first

    def _attach(self, node: "_Node", parent: "_Node") -> None:
        """Hang a node under a parent, in place of one that begins with the same token."""
        parent.children[int(node.token_ids[0])] = node
        self._parents[node] = parent

    def _compact(self, piece: Piece) -> Piece:
        """The piece, or a copy of few tokens of a larger block."""
        alone = len(piece) >= min(_SMALL, piece.block.tokens)
        return piece if alone else join_pieces([piece], self.memory.ledger)

    def _touch(self, path: Sequence["_Node"]) -> None:
        """Make a path from the root the most recently used, its deepest node first."""
        for node in reversed(path):
            self._parents.move_to_end(node)


@dataclass(eq=False, slots=True)
class _Node:
    """A run of tokens after those of its parents."""

    token_ids: TokenArray
    piece: Piece | None  # None at the root
    children: "dict[int, _Node]" = field(default_factory=dict)  # by their first token
    state: RowState | None = None  # after its last token, where layers carry one

    @property
    def states(self) -> Piece:
        """Where the tokens' states are."""
        assert self.piece is not None, "the root holds nothing"
        return self.piece

    def has_state_after(self, count: int) -> bool:
        """Whether there is a state after so many of its tokens."""
        return self.state is not None and count == len(self.token_ids)


def as_array(token_ids: Sequence[int] | TokenArray) -> TokenArray:
    """Token ids as an array; one that is given comes back as it is."""
    return np.asarray(token_ids, dtype=np.int64)


def common_length(one: TokenArray, other: TokenArray) -> int:
    """How many tokens two texts begin with in common."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length
