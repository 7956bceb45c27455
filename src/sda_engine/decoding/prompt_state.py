"""The prompt of a request on its way into the rows: what is stored is read, what rows share is computed once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sda_engine.decoding.blocks import Piece
from sda_engine.decoding.prefix_store import PrefixStore, TokenArray, as_array, common_length
from sda_engine.decoding.row_pictures import RowPictures
from sda_engine.decoding.rows import TAIL, Row
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.states import StateCost
from sda_engine.models import Adapter
from sda_engine.prompts import BASE, Contexts

_ADAPTER_BITS = 52  # from here on a stored token tells its adapter; token ids, those of pictures too, stay below
_SALTED = 4  # tokens at the beginning of a text, of eight bytes each, that tell its salt
_WORTH_WAITING = 64  # tokens of a prompt that another one is about to store
_WORTH_A_PASS = 32  # tokens that others can begin with, where a pass has to end so that its state can be kept


class PromptState:
    """The rows of a request, as far as they have been prefilled. The stages of a request share one.

    The worker thread alone touches the rows; `released` and the counts may be read from anywhere.

    Args:
        contexts: the prompts.
        max_new_tokens: tokens that each row may grow by.
        copies: how many answers go on from the prompts at once, each on rows of its own.
        state_cost: what the state of a row counts as, see `RowMemory`.
        adapter: what the model runs under; None for the model as it was given.
        salt: 32 bytes, the same for all prompts that may begin with what is stored of each other; None for those of no
            salt.

    Attributes:
        cached_tokens: tokens of the base prompt that were read from the prefix store.
        salt: as it was given.
        logits: row name -> (vocab,) logits after its whole prompt, once it is complete.
        spoilt: whether NaN came out of it, or the model changed meanwhile: no other prompt may begin with these rows.
        released: whether the rows have been let go of.
    """

    def __init__(
        self,
        contexts: Contexts,
        max_new_tokens: int,
        *,
        copies: int = 1,
        state_cost: StateCost = StateCost(),  # noqa: B008 - frozen
        adapter: Adapter | None = None,
        salt: bytes | None = None,
    ) -> None:
        self.contexts = contexts
        self.max_new_tokens = max_new_tokens
        self.copies = copies
        self._state_cost = state_cost
        self.adapter = adapter
        self.salt = salt
        self.cached_tokens = 0
        self.logits: dict[str, Tensor] = {}
        self.spoilt = False
        self.released = False
        self._rows: dict[str, Row] = {}
        self._arrays: dict[str, TokenArray] = {}  # prompts, as they are looked up before every pass
        self._row_pictures: dict[str, RowPictures] = {}
        self._planned: list[str] = []
        self._evicted = False
        self._base_reach = 0  # tokens of the base row after the pass that was planned
        self._stops: set[int] = set()  # where a pass of the base row has to end, since its state there is wanted

    @property
    def tokens(self) -> int:
        """The most tokens whose keys and values the rows may come to hold, states told in such; 0 once released."""
        if self.released:
            return 0
        states = self.most_states * self._state_cost.of(self.contexts.longest_prompt + self.max_new_tokens)
        if self._state_cost.per_token:  # the states are all that there is
            return states
        shared, names = len(self.contexts.shared), self.contexts.tails
        own = sum(len(tail) + self.max_new_tokens for tail in names.values())
        rows = self.copies * len(names)
        # what is shared stands in blocks, but for a copy in each row of the last tokens before it goes on by itself
        return self.copies * own + min(rows * shared, shared + rows * TAIL) + states

    @property
    def most_states(self) -> int:
        """The most states that the rows may come to hold, where layers carry any.

        Two each, and of the base row two more: where the others begin, and where the prompt parts from an earlier one.
        """
        return 0 if self.released else self.copies * 2 * len(self.contexts.tails) + 2

    @property
    def held_rows(self) -> Sequence[Row]:
        """The rows as far as they have been made."""
        return tuple(self._rows.values())

    def awaits(self, other: "PromptState", store: PrefixStore) -> bool:
        """Whether it is better to let another prompt be read first, and begin with what will be stored of it."""
        if self._rows or self.contexts is other.contexts or store.memory.state_cost:
            return False  # a state is stored at the ends of prompts and of what their rows share, seldom where two part
        common = common_length(self._array(BASE), other._array(BASE))
        return common >= _WORTH_WAITING and common - store.match(self._array(BASE)) >= _WORTH_WAITING

    def stored_pieces(self, names: Sequence[str], store: PrefixStore) -> list[Piece]:
        """What is stored of prompts of rows that have not been made."""
        return [piece for name in names if name not in self._rows for piece in store.pieces(self._array(name))]

    def stored_as(self, token_ids: Sequence[int]) -> TokenArray:
        """What the prefix store knows tokens of this request as: under each adapter, and with each salt, as other ones.

        A salt changes the first four tokens alone, by all its bits: what goes on from other tokens is another text.
        """
        known = as_array(token_ids)
        if self.adapter is not None:
            known = known + (self.adapter.number << _ADAPTER_BITS)
        if self.salt is None:
            return known
        salted = known.copy()
        beginning = salted[:_SALTED]
        beginning ^= np.frombuffer(self.salt, dtype=np.int64)[: len(beginning)]
        return salted

    def is_ready(self, names: Sequence[str]) -> bool:
        """Whether these rows hold their whole prompts."""
        return all(name in self.logits for name in names)

    def unread(self, names: Sequence[str], store: PrefixStore) -> int:
        """Tokens of the prompts of these rows that no pass has read and nothing has stored; what they share once."""
        if self.is_ready(names):
            return 0
        shared = len(self.contexts.shared)
        stored = {name: self._stored(name, store) for name in names if name not in self._rows}
        begins = {name: found if name == BASE else max(found, shared) for name, found in stored.items()}
        held = begins | {name: self._rows[name].length for name in names if name in self._rows}
        return sum(self.contexts.prompt_tokens(name) - held[name] for name in names)

    def rows(self, names: Sequence[str]) -> list[Row]:
        """Rows that are ready, cut back to their prompts."""
        for name in names:
            self._rows[name].truncate(self.contexts.prompt_tokens(name))
        return [self._rows[name] for name in names]

    def copied_rows(self, names: Sequence[str]) -> list[Row]:
        """Rows that begin with the same prompts, for another answer; they share all but the last tokens of these."""
        return [row.fork(row.length) for row in self.rows(names)]

    def last_logits(self, names: Sequence[str]) -> Tensor:
        """(rows, 1, vocab): the logits after the prompts of rows that are ready."""
        return torch.stack([self.logits[name] for name in names]).unsqueeze(1)

    def plan(self, names: Sequence[str], most: int, store: PrefixStore) -> list[Segment]:
        """The next pieces of the prompts of these rows, of `most` tokens together.

        The base row's comes first, and the other rows' in the same pass as soon as it holds what they share with it.
        """
        self._planned = []
        segments = []
        for name in names:
            row = None if name in self.logits or most <= 0 else self._open(name, store)
            if row is not None:
                prompt, stop = self._token_ids(name), self._stop(row, name)
                if store.memory.takes_pieces:
                    stop = min(row.length + most, stop)
                if row.pictures is not None:
                    stop = row.pictures.end_of_piece(row.length, stop)
                piece = prompt[row.length : stop]
                most -= len(piece)
                segments.append(Segment(row, piece))
                self._planned.append(name)
                if name == BASE:
                    self._base_reach = row.length + len(piece)
        return segments

    def take(self, logits: Sequence[Tensor], store: PrefixStore) -> None:
        """Take note of the pass that was planned; complete prompts go into the store.

        Args:
            logits: per planned segment (1, vocab).
        """
        for name, last in zip(self._planned, logits, strict=True):
            row = self._rows[name]
            is_whole = row.length == self.contexts.prompt_tokens(name)
            if is_whole or (name == BASE and row.length in self._stops):
                row.keep_state()
            if is_whole:
                self.logits[name] = last[-1].clone()  # not a view that keeps the logits of the whole pass
                self.spoilt = self.spoilt or bool(last.isnan().any())
                if not self.spoilt:
                    store.insert(self.stored_as(row.token_ids), row.cut, row.kept_states)

    def release(self) -> None:
        """Let go of the rows: no later stage will need them."""
        self.released = True
        self.evict()

    def evict(self) -> None:
        """Let go of the rows for now: the next stage finds them in the prefix store, or computes them again."""
        self._evicted = True
        self._rows.clear()
        self.logits.clear()

    def _open(self, name: str, store: PrefixStore) -> Row | None:
        """The row, made where it is new; None where it has to wait for what it shares with the base row."""
        if name in self._rows:
            return self._rows[name]
        prompt = self._token_ids(name)
        stored = self._stored(name, store)
        shared = len(self.contexts.shared)
        if name != BASE and stored < shared and self._can_fork(store):
            self._rows[name] = self._rows[BASE].fork(shared, prompt)
        elif name != BASE and stored < shared and self._waits_for_base(store):
            return None
        else:
            key = self._array(name)
            self._rows[name] = store.memory.new_row(self.adapter)
            self._rows[name].load(prompt[:stored], store.read(key, stored), store.state(key, stored))
            if name == BASE and store.memory.state_cost and store.memory.takes_pieces:
                parts = shared if len(self.contexts.tails) > 1 else 0
                self._stops = {place for place in (parts, store.known(key)) if place - stored >= _WORTH_A_PASS}
        self._rows[name].pictures = self._pictures(name)
        if name == BASE and not self._evicted:  # afterwards it would find what it computed itself
            self.cached_tokens = stored
        return self._rows[name]

    def _can_fork(self, store: PrefixStore) -> bool:
        """Whether the base row has, or in the pass that is planned will have, what the other rows share with it."""
        shared = len(self.contexts.shared)
        if store.memory.state_cost:
            return shared in self._rows[BASE].kept_states
        return self._base_reach >= shared

    def _waits_for_base(self, store: PrefixStore) -> bool:
        """Whether the base row, which has not come so far yet, will be there to begin with."""
        if store.memory.state_cost:
            shared = len(self.contexts.shared)
            return shared in self._stops and self._rows[BASE].length < shared
        return True

    def _stop(self, row: Row, name: str) -> int:
        """Where the next piece of a prompt has to end."""
        stops = [place for place in self._stops if place > row.length] if name == BASE else []
        return min(stops, default=self.contexts.prompt_tokens(name))

    def _stored(self, name: str, store: PrefixStore) -> int:
        """Tokens of a prompt that can be read from the store; the last one is forwarded for its logits."""
        stored = store.match(self._array(name), self.contexts.prompt_tokens(name) - 1)
        pictures = self._pictures(name)
        for start, _ in () if pictures is None else pictures.blocks(stored, stored):
            stored = store.match(self._array(name), start)  # part of a run that is read as a whole is of no use
        return stored

    def _pictures(self, name: str) -> RowPictures | None:
        """The pictures of a row's prompt."""
        if not self.contexts.pictures:
            return None
        if name not in self._row_pictures:
            self._row_pictures[name] = RowPictures(self._token_ids(name), self.contexts.pictures)
        return self._row_pictures[name]

    def _token_ids(self, name: str) -> tuple[int, ...]:
        return (*self.contexts.shared, *self.contexts.tails[name])

    def _array(self, name: str) -> TokenArray:
        if name not in self._arrays:
            self._arrays[name] = self.stored_as(self._token_ids(name))
        return self._arrays[name]
