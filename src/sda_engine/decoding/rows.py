"""Row: one sequence of the running batch, with the keys and values of its tokens in every layer."""

from collections.abc import Iterable, Mapping, Sequence
from weakref import WeakSet

from torch import Tensor

from sda_engine.decoding.blocks import Block, Ledger, Piece, cut_pieces, join_pieces, make_piece
from sda_engine.decoding.row_pictures import RowPictures
from sda_engine.decoding.slots import Slots
from sda_engine.decoding.states import RowState, StateCost
from sda_engine.models import Adapter

TAIL = 256  # tokens
_LARGEST_JOINED = 4096  # tokens: what a row has written is joined into blocks of up to that many


class RowMemory:
    """Where the rows of a running batch keep keys and values.

    What a row begins with stands in blocks, which other rows and the prefix store may share. Its last tokens, its tail,
    stand in a slot beside those of the other rows, so that one call attends to all tails. Where a tail is full it
    becomes a block.

    Args:
        tail: tokens that a slot is meant for.
        state_cost: what the state of a row takes, where layers carry one; nothing for a model without such layers,
            whose rows can be cut back anywhere.

    Attributes:
        slots: for the tails.
        ledger: counts the tokens of all blocks and states, those of the prefix store included.
        takes_pieces: whether a row that holds tokens can read several more at once, at no greater cost.
    """

    takes_pieces = True

    def __init__(self, tail: int = TAIL, state_cost: StateCost = StateCost()) -> None:  # noqa: B008 - frozen
        self.tail = tail
        self.state_cost = state_cost
        self.slots = Slots(tail)
        self.ledger = Ledger()
        self._rows: WeakSet[Row] = WeakSet()

    @property
    def tokens(self) -> int:
        """Tokens that are held: in living blocks and states, each counted once, and in tails."""
        return self.ledger.tokens + sum(row.tail for row in self._rows)

    @property
    def row_tokens(self) -> int:
        """Tokens that rows hold, what they share counted once."""
        return held_tokens(self._rows)

    def new_row(self, adapter: Adapter | None = None) -> "Row":
        """A row without tokens, under an adapter or the model as it was given."""
        return Row(self, adapter)

    def add(self, row: "Row") -> None:
        """Take note of a new row."""
        self._rows.add(row)


class Row:
    """Tokens and their key-value states: pieces of blocks, and behind them a tail in a slot of the memory.

    Before a forward pass `prepare` decides where its new tokens go, the pass writes their states there, and `append`
    makes them count once it has succeeded: a pass that fails leaves the row as it was.

    Attributes:
        token_ids: its tokens.
        slot: where its tail stands; None for a row that never had one.
        tail: tokens in it.
        state: what layers that carry a state hold after its tokens; None for a model without them, and before the
            first.
        adapter: what its states were computed under; None for the model as it was given.
        pictures: those of its prompt; None where it has none.
    """

    def __init__(self, memory: RowMemory, adapter: Adapter | None = None) -> None:
        self.adapter = adapter
        self.token_ids: list[int] = []
        self.slot: int | None = None
        self.tail = 0
        self.pictures: RowPictures | None = None
        self._memory = memory
        self._pieces: list[Piece] = []
        self._written = 0  # pieces at the end that the row has made of its own tails
        self._making: Block | None = None
        self._source: Row | None = None
        self._loaded: Piece | None = None
        self.state: RowState | None = None
        self._kept: dict[int, RowState] = {}  # length -> the state after so many tokens
        memory.add(self)

    @property
    def length(self) -> int:
        """Tokens in the row."""
        return len(self.token_ids)

    @property
    def memory(self) -> RowMemory:
        """Where its states are."""
        return self._memory

    @property
    def pieces(self) -> Sequence[Piece]:
        """What comes before the tail."""
        return self._pieces

    @property
    def making(self) -> Block | None:
        """The block that the states of the next pass go into; None where they go into the tail."""
        return self._making

    @property
    def kept_states(self) -> Mapping[int, RowState]:
        """Length -> the state after so many tokens, where the row can be cut back to, or another one begin."""
        return self._kept

    @property
    def states(self) -> set[RowState]:
        """All states that it holds."""
        return {*self._kept.values(), *([] if self.state is None else [self.state])}

    @property
    def begins_with_a_copy(self) -> bool:
        """Whether the next pass has to copy what its tail begins with: a fork's, or what was loaded."""
        return self.tail > 0 and (self._loaded is not None or self._source is not None)

    def beginning_of_tail(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values, (heads, tail, size), to begin the tail with.

        The row that this one is a fork of has written its own by then.
        """
        if self._loaded is not None:
            return self._loaded.layer(layer)
        assert self._source is not None
        assert self._source.slot is not None
        keys, values = self._memory.slots.layer(layer)
        return keys[self._source.slot, :, : self.tail], values[self._source.slot, :, : self.tail]

    def prepare(self, new: int) -> None:
        """Decide where so many new tokens go: into the tail, or else into a block of their own.

        The row that this one is a fork of comes first, where it takes part in the same pass.
        """
        self._making = None
        most = self._memory.tail
        if self._source is not None:
            self._begin_like(self._source, new)
        elif self._loaded is not None:
            self._begin_loaded(self._loaded, new)
        elif self.tail and self.tail + new > most:
            self._seal()
        if self.tail == 0 and new > most:
            self._making = Block(new, self._memory.ledger)

    def append(self, token_ids: Sequence[int]) -> None:
        """Take in tokens whose states have been written."""
        self.token_ids.extend(token_ids)
        self._source = self._loaded = None
        if self._making is None:
            self.tail += len(token_ids)
        else:
            self._pieces.append(Piece(self._making, 0, len(token_ids)))
            self._written, self._making = 0, None

    def keep_state(self) -> None:
        """Keep the state after its tokens so far, where it has one: a row can be cut back to a state that was kept."""
        if self.state is not None:
            self._kept[self.length] = self.state.alone()

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on; where layers carry states, one must have been kept there."""
        if length >= self.length:
            return
        if self.state is not None:
            self.state = self._kept[length]
            self._kept = {place: state for place, state in self._kept.items() if place <= length}
        before = self.length - self.tail
        if self._source is None and length < before:
            self._pieces = list(cut_pieces(self._pieces, 0, length))
            self._written = min(self._written, len(self._pieces))
        self.tail = max(0, length - before)
        del self.token_ids[length:]

    def fork(self, length: int, token_ids: Sequence[int] | None = None) -> "Row":
        """A row of its own that begins with the first tokens of this one.

        Its blocks are shared; of a tail, a copy is made in the fork's first pass: this row may get the states in that
        very pass, by a segment that comes before the fork's. Where layers carry states, one must have been kept there.

        Args:
            token_ids: these tokens, where this row does not hold them all yet.
        """
        forked = self._memory.new_row(self.adapter)
        forked.token_ids = list(self.token_ids if token_ids is None else token_ids)[:length]
        forked._source = self
        forked.pictures = self.pictures
        if self.state is not None:
            forked.state = self._kept[length]
        return forked

    def load(self, token_ids: Iterable[int], pieces: Sequence[Piece], state: RowState | None = None) -> None:
        """Begin with tokens whose states are known already: larger pieces are shared, smaller ones joined.

        Those at the end begin the tail, in the next pass.

        Args:
            token_ids: the tokens of all pieces; the row holds none so far.
            state: after these tokens, where layers carry one.
        """
        assert not self.token_ids
        small: list[Piece] = []
        for piece in pieces:
            small.append(piece)
            if len(piece) >= self._memory.tail:
                self._pieces += [*self._joined(small[:-1]), piece]
                small = []
        self._loaded = next(iter(self._joined(small)), None)
        self.token_ids.extend(token_ids)
        self.state = state

    def cut(self, start: int, stop: int) -> list[Piece]:
        """What its tokens from `start` to `stop` have for states, in pieces: blocks as they are, a copy of the tail."""
        pieces = self._pieces
        before = self.length - self.tail
        if stop > before:
            in_tail = stop - before
            pieces = [*pieces, make_piece(self._memory.slots.states(self, in_tail), in_tail, self._memory.ledger)]
        return list(cut_pieces(pieces, start, stop))

    def _begin_like(self, source: "Row", new: int) -> None:
        """Begin with what the source begins with, once it is known where its own tokens go."""
        wanted = self.length
        before = source.length - source.tail
        self.tail = 0
        if wanted <= before:
            self._pieces = list(cut_pieces(source._pieces, 0, wanted))
        elif wanted > source.length and source._making is not None:
            self._pieces = [*source._pieces, Piece(source._making, 0, wanted - before)]
        elif wanted <= source.length and not source.begins_with_a_copy and wanted - before + new > self._memory.tail:
            self._pieces = source.cut(0, wanted)
        else:
            self._pieces, self.tail = list(source._pieces), wanted - before

    def _begin_loaded(self, piece: Piece, new: int) -> None:
        """Begin the tail with a piece, or, where it is too long for that, keep the piece as it is."""
        self.tail = len(piece)
        if self.tail + new > self._memory.tail:
            self._pieces.append(piece)
            self._loaded, self.tail = None, 0

    def _seal(self) -> None:
        """Make a block of the tail, and one of it and of such blocks before that are no larger."""
        piece = make_piece(self._memory.slots.states(self, self.tail), self.tail, self._memory.ledger)
        pieces, written = list(self._pieces), self._written
        while written and len(pieces[-1]) <= len(piece) and len(pieces[-1]) + len(piece) <= _LARGEST_JOINED:
            piece = join_pieces([pieces.pop(), piece], self._memory.ledger)
            written -= 1
        self._pieces, self._written, self.tail = [*pieces, piece], written + 1, 0

    def _joined(self, pieces: Sequence[Piece]) -> list[Piece]:
        """One piece of several, or none of none."""
        return [join_pieces(pieces, self._memory.ledger)] if len(pieces) > 1 else list(pieces)


def held_tokens(rows: Iterable[Row], pieces: Iterable[Piece] = ()) -> int:
    """Tokens that rows, and blocks that others are about to share, hold together: each block and state once."""
    rows = list(rows)
    states = {state for row in rows for state in row.states}
    blocks = {piece.block for row in rows for piece in row.pieces} | {piece.block for piece in pieces}
    held = sum(block.tokens for block in blocks) + sum(state.tokens for state in states)
    return held + sum(row.tail for row in rows)
