"""The prompt of a request on its way into the rows: what is stored is read, what rows share is computed once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sda_engine.decoding.blocks import Piece
from sda_engine.decoding.prefix_store import PrefixStore, TokenArray, as_array, common_length
from sda_engine.decoding.row_pictures import RowPictures
from sda_engine.decoding.rows import TAIL, Row
from sda_engine.decoding.segments import Segment
from sda_engine.prompts import BASE, Contexts

_WORTH_WAITING = 64  # tokens of a prompt that another one is about to store


class PromptState:
    """The rows of a request, as far as they have been prefilled. The stages of a request share one.

    The worker thread alone touches the rows; `released` and the counts may be read from anywhere.

    Args:
        contexts: the prompts.
        max_new_tokens: tokens that each row may grow by.
        copies: how many answers go on from the prompts at once, each on rows of its own.

    Attributes:
        cached_tokens: tokens of the base prompt that were read from the prefix store.
        logits: row name -> (vocab,) logits after its whole prompt, once it is complete.
        spoilt: whether NaN came out of it, or the model changed meanwhile: no other prompt may begin with these rows.
        released: whether the rows have been let go of.
    """

    def __init__(self, contexts: Contexts, max_new_tokens: int, *, copies: int = 1) -> None:
        self.contexts = contexts
        self.max_new_tokens = max_new_tokens
        self.copies = copies
        self.cached_tokens = 0
        self.logits: dict[str, Tensor] = {}
        self.spoilt = False
        self.released = False
        self._rows: dict[str, Row] = {}
        self._arrays: dict[str, TokenArray] = {}  # prompts, as they are looked up before every pass
        self._planned: list[str] = []
        self._evicted = False
        self._base_reach = 0  # tokens of the base row after the pass that was planned

    @property
    def tokens(self) -> int:
        """The most tokens whose keys and values the rows may come to hold; 0 once they have been released."""
        if self.released:
            return 0
        shared, names = len(self.contexts.shared), self.contexts.tails
        own = sum(len(tail) + self.max_new_tokens for tail in names.values())
        rows = self.copies * len(names)
        # what is shared stands in blocks, but for a copy in each row of the last tokens before it goes on by itself
        return self.copies * own + min(rows * shared, shared + rows * TAIL)

    @property
    def held_rows(self) -> Sequence[Row]:
        """The rows as far as they have been made."""
        return tuple(self._rows.values())

    def awaits(self, other: "PromptState", store: PrefixStore) -> bool:
        """Whether it is better to let another prompt be read first, and begin with what will be stored of it."""
        if self._rows or self.contexts is other.contexts:
            return False
        common = common_length(self._array(BASE), other._array(BASE))
        return common >= _WORTH_WAITING and common - store.match(self._array(BASE)) >= _WORTH_WAITING

    def stored_pieces(self, names: Sequence[str], store: PrefixStore) -> list[Piece]:
        """What is stored of prompts of rows that have not been made."""
        return [piece for name in names if name not in self._rows for piece in store.pieces(self._array(name))]

    def stored_as(self, token_ids: Sequence[int]) -> TokenArray:
        """What the prefix store knows tokens of this request as."""
        return as_array(token_ids)

    def is_ready(self, names: Sequence[str]) -> bool:
        """Whether these rows hold their whole prompts."""
        return all(name in self.logits for name in names)

    def unread(self, names: Sequence[str], store: PrefixStore) -> int:
        """Tokens of the prompts of these rows that no pass has read and nothing has stored; what they share once."""
        if self.is_ready(names):
            return 0
        shared = len(self.contexts.shared)
        stored = {name: store.match(self._array(name)) for name in names if name not in self._rows}
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
                prompt = self._token_ids(name)
                stop = min(row.length + most, len(prompt))
                piece = prompt[
                    row.length : stop if row.pictures is None else row.pictures.end_of_piece(row.length, stop)
                ]
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
            if row.length == self.contexts.prompt_tokens(name):
                self.logits[name] = last[-1].clone()  # not a view that keeps the logits of the whole pass
                self.spoilt = self.spoilt or bool(last.isnan().any())
                if not self.spoilt:
                    store.insert(self.stored_as(row.token_ids), row.cut)

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
        pictures = RowPictures(prompt, self.contexts.pictures) if self.contexts.pictures else None
        stored = min(store.match(self._array(name)), len(prompt) - 1)  # the last token is forwarded for its logits
        for block in () if pictures is None else pictures.blocks(stored, stored):
            stored = block[0]  # what is stored of a run that is read as a whole is of no use
        shared = len(self.contexts.shared)
        if name != BASE and stored < shared:
            if self._base_reach < shared:
                return None
            self._rows[name] = self._rows[BASE].fork(shared, prompt)
        else:
            self._rows[name] = Row(store.memory)
            self._rows[name].load(prompt[:stored], store.read(self._array(name), stored))
        self._rows[name].pictures = pictures
        if name == BASE and not self._evicted:  # afterwards it would find what it computed itself
            self.cached_tokens = stored
        return self._rows[name]

    def _token_ids(self, name: str) -> tuple[int, ...]:
        return (*self.contexts.shared, *self.contexts.tails[name])

    def _array(self, name: str) -> TokenArray:
        if name not in self._arrays:
            self._arrays[name] = self.stored_as(self._token_ids(name))
        return self._arrays[name]
