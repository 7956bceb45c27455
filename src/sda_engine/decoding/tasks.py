"""Work for the scheduler's thread, and the events by which it tells its consumer how far it is."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from sda_engine.decoding.blocks import Piece
from sda_engine.decoding.forward_pass import Segment
from sda_engine.decoding.mixing import mix_instructed, mixed_rows
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.proposals import Proposer
from sda_engine.decoding.row_group import DecodedText, DecodedToken, DecodeSettings, RowGroup
from sda_engine.decoding.rows import Row
from sda_engine.decoding.step_batch import Chosen, Wanted
from sda_engine.errors import EngineClosedError, NumericalError
from sda_engine.results import FinishReason
from sda_engine.tokens import SafeTokenizer


@dataclass(frozen=True)
class Token:
    """One more token was decoded."""

    decoded: DecodedToken


@dataclass(frozen=True)
class Finished:
    """The task ended, and its result is ready."""


@dataclass(frozen=True)
class Failed:
    """The task ended with an error."""

    error: BaseException


Event = Token | Finished | Failed
Sink = Callable[[Event], None]

Choosing = Generator[Sequence[Wanted], Sequence[Chosen], bool]
"""A task that chooses tokens: it yields what it wants of a step, for each of its answers, and is sent what came of it,
until it needs another pass. It returns whether it has reached its end."""


_MOST_PENDING = 64  # tokens of an answer that are read in one pass without being a text of its own


@dataclass(frozen=True)
class PassLimits:
    """What one task may add to the next forward pass.

    Attributes:
        prompt_tokens: tokens of its prompts, or of a text to be scored under them, all rows together.
        proposals: proposed tokens per row.
    """

    prompt_tokens: int
    proposals: int


class Task(ABC):
    """Something that takes part in forward passes, between which it can be cancelled.

    The last event of a task is Finished or Failed, and there is always one.

    Args:
        prompt: where its rows come from.
        row_names: the rows it runs, the base row first.
        continues: whether it goes on with a prompt of which an earlier task has run; such a task need not queue again.

    Attributes:
        prefilling: whether its prompts are not complete yet.
        suspended: whether it has lent its memory to others, and waits to go on.
    """

    def __init__(self, prompt: PromptState, row_names: Sequence[str], *, continues: bool = False) -> None:
        self.prompt = prompt
        self.row_names = tuple(row_names)
        self.continues = continues
        self.prefilling = True
        self.suspended = False
        self._has_begun = False
        self._rows: list[Row] = []
        self._pieces: list[int] = []  # segments of each prompt in the next pass
        self._cancelled = threading.Event()
        self._ended = False
        self._sink: Sink | None = None

    def connect(self, sink: Sink) -> None:
        """Where events go. The sink is called in the worker thread and must not block."""
        self._sink = sink

    def cancel(self) -> None:
        """Ask the worker to stop before the next pass; safe from any thread, any number of times.

        Where it has stopped already, nobody else will let go of rows that were kept for a later task.
        """
        self._cancelled.set()
        if self._ended:
            self.let_go()

    @property
    def prompts(self) -> tuple[PromptState, ...]:
        """All prompts that its rows come from."""
        return (self.prompt,)

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to stop."""
        return self._cancelled.is_set()

    @property
    def row_count(self) -> int:
        """Rows that it runs in a forward pass."""
        return len(self.row_names)

    @property
    def in_bulk(self) -> bool:
        """Whether its part in the next pass is a piece of a text that is known, which may be longer or shorter."""
        return self.prefilling

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that it has, those of its prompts included."""
        return (*self._rows, *(row for prompt in self.prompts for row in prompt.held_rows))

    def unread(self, store: PrefixStore) -> int:
        """Tokens that its rows are still to read before it goes on, all rows together; not what is stored of them."""
        return sum(prompt.unread(self.row_names, store) for prompt in self.prompts)

    def stored_pieces(self, store: PrefixStore) -> Sequence[Piece]:
        """What is stored of its prompts, as far as they have not begun."""
        return [piece for prompt in self.prompts for piece in prompt.stored_pieces(self.row_names, store)]

    def suspend(self) -> None:
        """Let go of the rows for now; once it is no longer suspended, they are found stored or computed again."""
        self.suspended = self.prefilling = True
        self._rows = []
        for prompt in self.prompts:
            prompt.evict()

    def let_go(self) -> None:
        """Let go of the rows: no later task of the request will need them."""
        self._rows = []
        for prompt in self.prompts:
            prompt.release()

    def emit(self, event: Event) -> None:
        """Send an event to the consumer."""
        if self._sink is not None:
            self._sink(event)

    def end(self, event: Finished | Failed) -> None:
        """Send the last event."""
        self._ended = True  # first, so that either this or `cancel`, in whatever thread, sees the other
        if self.cancelled:
            self.let_go()
        self.emit(event)
        self._sink = None  # it may know the task, and no cycle shall keep the rows

    def plan(self, limits: PassLimits, store: PrefixStore) -> list[Segment]:
        """What it wants the next forward pass to do; nothing where it waits, or needs no pass to go on."""
        if not self.prefilling:
            return self._plan(limits)
        segments: list[Segment] = []
        self._pieces, most = [], limits.prompt_tokens
        for prompt in self.prompts:
            pieces = prompt.plan(self.row_names, most, store)
            most -= sum(len(piece.token_ids) for piece in pieces)
            self._pieces.append(len(pieces))
            segments += pieces
        return segments

    def take(self, logits: Sequence[Tensor], store: PrefixStore) -> bool | Choosing:
        """Go on with what the pass gave, per planned segment (keep, vocab); nothing where it did not take part.

        Returns:
            Whether the task has reached its end; or, where tokens are to be chosen, how they are.
        """
        if not self.prefilling:
            return self._take(logits)
        for prompt, part in zip(self.prompts, split_logits(logits, self._pieces), strict=True):
            prompt.take(part, store)
        if not all(prompt.is_ready(self.row_names) for prompt in self.prompts):
            return False
        self.prefilling = False
        again, self._has_begun = self._has_begun, True
        return self._begin_again() if again else self._begin()

    @abstractmethod
    def finish(self, store: PrefixStore) -> None:
        """Make the result of what there is, and free everything else; `cancelled` tells whether it is whole."""

    @abstractmethod
    def _begin(self) -> bool | Choosing:
        """Go on once the prompts are complete."""

    @abstractmethod
    def _begin_again(self) -> bool:
        """Go on where it was suspended, once the prompts are complete anew."""

    @abstractmethod
    def _plan(self, limits: PassLimits) -> list[Segment]:
        """`plan`, from then on."""

    @abstractmethod
    def _take(self, logits: Sequence[Tensor]) -> bool | Choosing:
        """`take`, from then on."""


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
        self._strength = settings.strength
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
        return self._strength

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
        again = len(self._group.token_ids) if self.suspended else len(self._pending) if self.in_bulk else 0
        return super().unread(store) + again * self.row_count

    def result(self) -> DecodedText:
        """The answer, after the Finished event."""
        assert self._result is not None, "the task has not finished"
        return self._result

    def finish(self, store: PrefixStore) -> None:
        """The answer as far as it got."""
        self._result = self._group.result(self._finish_reason)
        if self._stores_answer and not self.prompt.spoilt:
            for row in self._rows:
                store.insert(row.token_ids, row.cut)
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


class ScoreTask(Task):
    """Log-probabilities of a given text under several rows of a prompt: one forward pass, or few for a long text.

    Those under several instructed rows are one: the log-probabilities under their mixture.

    Args:
        prompt: where the rows come from.
        row_names: the rows, the base row first.
        token_ids: the text.
        first: which of its tokens is the first that counts; those before it, a thought say, are only read.
        continues: see Task.
    """

    def __init__(
        self,
        prompt: PromptState,
        row_names: Sequence[str],
        token_ids: Sequence[int],
        *,
        first: int = 0,
        continues: bool = True,
    ) -> None:
        super().__init__(prompt, row_names, continues=continues)
        self._token_ids = tuple(token_ids)
        self._first = first
        self._logprobs: list[Tensor] = []  # (rows, tokens) each

    def result(self) -> Mapping[str, Tensor]:
        """Row -> (tokens that count,) float32, nats, after the Finished event.

        Raises:
            EngineClosedError: the engine was closed before the text was scored.
        """
        if self._scored < len(self._token_ids):
            raise EngineClosedError("The engine was closed while a text was scored.")
        names = mixed_rows(self.row_names)
        scored = torch.cat(self._logprobs, dim=-1) if self._logprobs else torch.empty((len(names), 0))
        return {name: scored[place, self._first :] for place, name in enumerate(names)}

    @property
    def in_bulk(self) -> bool:
        """Always: it reads texts, and writes none."""
        return True

    def unread(self, store: PrefixStore) -> int:
        """Tokens of its prompts and of the text, for all rows, that no pass has read yet."""
        return super().unread(store) + (len(self._token_ids) - self._scored) * self.row_count

    def finish(self, store: PrefixStore) -> None:
        """The rows stay, for the answer that follows."""
        self._rows = []

    def _begin(self) -> bool:
        self._rows = self.prompt.rows(self.row_names)
        return self._score(self.prompt.last_logits(self.row_names))

    def _begin_again(self) -> bool:
        self._logprobs = []
        return self._begin()

    def _plan(self, limits: PassLimits) -> list[Segment]:
        start = self._scored - 1  # no row holds the token that was scored last
        most = max(1, limits.prompt_tokens // len(self._rows)) if limits.prompt_tokens else 0
        piece = self._token_ids[start : min(start + most, len(self._token_ids) - 1)]
        return [Segment(row, piece, keep=len(piece)) for row in self._rows] if piece else []

    def _take(self, logits: Sequence[Tensor]) -> bool:
        return bool(logits) and self._score(torch.stack(list(logits)))

    def _score(self, logits: Tensor) -> bool:
        """Score the next tokens of the text by logits, (rows, tokens, vocab), of what comes at their places."""
        wanted = torch.tensor(self._token_ids[self._scored : self._scored + logits.shape[1]], device=logits.device)
        rows = dict(zip(self.row_names, logits[:, : len(wanted)], strict=True))
        scored = torch.stack(
            [_logprobs_of(wanted, row) for row in mix_instructed(rows, self.prompt.contexts.weights).values()]
        ).cpu()
        if bool(scored.isnan().any()):
            raise NumericalError(
                "The model's logits hold NaN, inf or nothing but -inf where a text was to be scored. Load the model "
                "with dtype='float32', and check its weights."
            )
        self._logprobs.append(scored)
        return self._scored == len(self._token_ids)

    @property
    def _scored(self) -> int:
        return sum(logprobs.shape[1] for logprobs in self._logprobs)


def _logprobs_of(wanted: Tensor, logits: Tensor) -> Tensor:
    """(tokens,) float32, nats, of tokens by the logits at their places, (tokens, vocab)."""
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)


def together(
    choosing: Sequence[Choosing],
) -> Generator[Sequence[Wanted], Sequence[Chosen], list[bool]]:
    """Several that choose tokens in the same steps; returns for each whether it has reached its end."""
    waiting: dict[int, Sequence[Wanted]] = {}
    ended: dict[int, bool] = {}

    def go_on(number: int, chosen: Sequence[Chosen] | None) -> None:
        try:
            waiting[number] = choosing[number].send(chosen)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            waiting.pop(number, None)
            ended[number] = end.value

    for number in range(len(choosing)):
        go_on(number, None)
    while waiting:
        chosen = iter((yield [one for wanted in waiting.values() for one in wanted]))
        for number, wanted in list(waiting.items()):
            go_on(number, list(islice(chosen, len(wanted))))
    return [ended[number] for number in range(len(choosing))]


def split_logits(logits: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    """What a pass gave, in parts of so many segments."""
    rest = iter(logits)
    return [[next(rest) for _ in range(count)] for count in counts]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many elements two sequences begin with in common."""
    return next(
        (place for place, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]),
        min(len(left), len(right)),
    )
