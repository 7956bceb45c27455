"""One answer: it is decoded from a prompt, token by token, with proposals that the passes verify."""

from collections.abc import Sequence

from torch import Tensor

from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.proposals import Proposer
from sda_engine.decoding.row_group import DecodedText, DecodedToken, DecodeSettings, RowGroup
from sda_engine.decoding.rows import Row
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.tasks import Choosing, PassLimits, Task, Token
from sda_engine.decoding.wanted import Chosen
from sda_engine.results import FinishReason
from sda_engine.tokens import SafeTokenizer

_MOST_PENDING = 64  # tokens of an answer that are read in one pass without being a text of its own


class DecodeTask(Task):
    """Decode one answer from a prompt: all its rows go through every forward pass together.

    Args:
        prompt: where the rows come from.
        settings: what decides the tokens.
        tokenizer: turns them into text.
        proposer: guesses how the answer goes on.
        keeps_prompt: whether a later task needs the prompt's rows.
        stores_answer: whether its rows go into the prefix store: not those of an answer that nobody will see.
        continues: see Task.
    """

    def __init__(
        self,
        prompt: PromptState,
        settings: DecodeSettings,
        tokenizer: SafeTokenizer,
        proposer: Proposer,
        *,
        keeps_prompt: bool = False,
        stores_answer: bool = True,
        continues: bool = False,
    ) -> None:
        super().__init__(prompt, settings.rows, continues=continues)
        self._keeps_prompt = keeps_prompt
        self._stores_answer = stores_answer
        self.settings = settings
        self._group = RowGroup(settings, tokenizer)
        self._proposer = proposer
        self._pending: list[int] = []  # tokens of the answer that no row holds yet
        self._proposed: list[int] = []
        self._again: list[int] = []  # tokens of the answer that the next pass reads once more
        self._finish_reason: FinishReason | None = None
        self._result: DecodedText | None = None

    @property
    def strength(self) -> float:
        """gain * amplification."""
        return self.settings.strength

    def join(self, rows: Sequence[Row], logits: Tensor) -> Choosing:
        """Decode as a member of a larger task: rows that hold the prompt, and the logits after it, (rows, 1, vocab)."""
        self.prefilling = False
        self._rows = list(rows)
        return self._start(logits.unbind())

    def drop_rows(self) -> None:
        """Let go of the rows, as a member of a larger task that is suspended."""
        self._rows = []

    def rejoin(self, rows: Sequence[Row]) -> None:
        """Go on, as a member of a larger task that was suspended, with new rows that hold the prompt."""
        self._rows = list(rows)
        self._pending = list(self._group.token_ids)

    @property
    def in_bulk(self) -> bool:
        """Whether a long part of the answer has to be read again, or a prompt is read."""
        return self.prefilling or len(self._pending) > _MOST_PENDING

    def unread(self, store: PrefixStore) -> int:
        """Tokens of prompts and, after it was suspended, of the answer."""
        return super().unread(store) + self.unread_answer

    @property
    def unread_answer(self) -> int:
        """Tokens of the answer that rows have lost and are to read once more, all rows together."""
        lost = len(self._group.token_ids) if not self._rows else len(self._pending) if self.in_bulk else 0
        return lost * self.row_count

    def append(self, chosen: Chosen) -> bool:
        """Append a token that was chosen elsewhere, and tell of it; whether the answer has reached its end."""
        token = self._group.take(chosen)
        self.emit(Token(token))
        self._finish_reason = token.finish_reason
        return self._finish_reason is not None

    def end_elsewhere(self) -> None:
        """End an answer whose tokens were chosen elsewhere: its result is ready, as far as it got."""
        self._result = self._group.result(self._finish_reason)

    def result(self) -> DecodedText:
        """The answer, after the Finished event."""
        assert self._result is not None, "the task has not finished"
        return self._result

    def finish(self, store: PrefixStore) -> None:
        """The answer as far as it got."""
        self._result = self._group.result(self._finish_reason)
        if self._stores_answer and not self.prompt.spoilt and not store.is_off:
            for row in self._rows:
                row.keep_state()
                store.insert(self.prompt.stored_as(row.token_ids), row.cut, row.kept_states)
        self._rows = []
        if not self._keeps_prompt:
            self.let_go()

    def _begin(self) -> Choosing:
        self._rows = self.prompt.rows(self.row_names)
        return self._start(self.prompt.last_logits(self.row_names).unbind())

    def _begin_again(self) -> bool:
        self.rejoin(self.prompt.rows(self.row_names))
        return False

    def _start(self, logits: Sequence[Tensor]) -> Choosing:
        """Choose the first token by the logits after the prompt, per row (1, vocab), unless the form forces it."""
        self._pending = self._accept(self._group.forced())
        if self._pending:
            return self._finish_reason is not None
        return (yield from self._advance(logits))

    def _plan(self, limits: PassLimits) -> list[Segment]:
        if len(self._pending) > _MOST_PENDING:
            most = min(limits.prompt_tokens // len(self._rows), len(self._pending) - 1)
            self._again = self._pending[:most]
            return [Segment(row, self._again) for row in self._rows] if self._again else []
        self._proposed = self._proposer.propose(min(limits.proposals, self._group.remaining - 1))
        fed = (*self._pending, *self._proposed)
        return [Segment(row, fed, keep=1 + len(self._proposed)) for row in self._rows]

    def _take(self, logits: Sequence[Tensor]) -> Choosing:
        if self._again:
            self._pending, self._again = self._pending[len(self._again) :], []
            return False
        return bool(logits) and (yield from self._advance(logits))

    def _advance(self, logits: Sequence[Tensor]) -> Choosing:
        """Choose a token, and go on for as long as the choice is what was proposed.

        A proposal is never drawn from: each token is chosen from the steered distribution, with the random number that
        it would have been chosen with anyhow, and only where it equals the proposal are the logits behind it of use.

        Args:
            logits: per row (1 + proposed tokens, vocab).
        """
        right = 0
        self._pending = []
        while not self._pending and self._finish_reason is None:
            tokens = self._accept([(yield from self._group.advance([row[right] for row in logits]))])
            if self._finish_reason is None:
                tokens += self._accept(self._group.forced())
            same = _common(tokens, self._proposed[right:])
            right += same
            self._pending = tokens[same:]
        self._drop_wrong(right)
        return self._finish_reason is not None

    def _drop_wrong(self, right: int) -> None:
        """Keep as many of the proposed tokens as were right."""
        if self._proposed:
            self._proposer.learn(right)
            for row in self._rows:
                row.truncate(row.length - len(self._proposed) + right)
            self._proposed = []

    def _accept(self, tokens: Sequence[DecodedToken]) -> list[int]:
        for token in tokens:
            self._proposer.append(token.token_id)
            self.emit(Token(token))
            self._finish_reason = token.finish_reason
        return [token.token_id for token in tokens]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many elements two sequences begin with in common."""
    return next(
        (place for place, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]),
        min(len(left), len(right)),
    )
