"""Work for the scheduler's thread, and the events by which it tells its consumer how far it is."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from sda_engine.decoding.blocks import Piece
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.row_group import DecodedToken
from sda_engine.decoding.rows import Row
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.wanted import Chosen, Wanted


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
    def _begin_again(self) -> bool | Choosing:
        """Go on where it was suspended, once the prompts are complete anew."""

    @abstractmethod
    def _plan(self, limits: PassLimits) -> list[Segment]:
        """`plan`, from then on."""

    @abstractmethod
    def _take(self, logits: Sequence[Tensor]) -> bool | Choosing:
        """`take`, from then on."""


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
