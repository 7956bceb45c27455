"""Work for the scheduler's thread, and the events by which it tells its consumer how far it is."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sda_engine.completion import FinishReason
from sda_engine.decoding.model_runner import ModelRunner, PromptState, RowBatch
from sda_engine.decoding.row_group import DecodedText, DecodedToken, DecodeSettings, RowGroup
from sda_engine.tokenization import SafeTokenizer


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

    error: Exception


Event = Token | Finished | Failed
Sink = Callable[[Event], None]


class Task(ABC):
    """Something that the worker thread does in steps, between which it can be cancelled.

    The last event of a task is Finished or Failed, and there is always one.
    """

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._sink: Sink | None = None

    def connect(self, sink: Sink) -> None:
        """Where events go. The sink is called in the worker thread and must not block."""
        self._sink = sink

    def cancel(self) -> None:
        """Ask the worker to stop before the next step; safe from any thread, any number of times."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to stop."""
        return self._cancelled.is_set()

    def emit(self, event: Event) -> None:
        """Hand an event to the consumer."""
        if self._sink is not None:
            self._sink(event)

    @abstractmethod
    def begin(self, runner: ModelRunner) -> None:
        """What comes before the first step."""

    @abstractmethod
    def step(self, runner: ModelRunner) -> bool:
        """One step; whether it was the last."""

    @abstractmethod
    def finish(self) -> None:
        """Make the result of what there is, and free everything else; `cancelled` tells whether it is whole."""


class DecodeTask(Task):
    """Decode one answer from a prompt: prefill its rows, then one forward pass over all of them per token.

    Args:
        prompt: where the rows come from.
        settings: what decides the tokens.
        tokenizer: turns them into text.
        keeps_prompt: whether a later task needs the prompt's caches; if not, they are freed before decoding.
    """

    def __init__(
        self, prompt: PromptState, settings: DecodeSettings, tokenizer: SafeTokenizer, *, keeps_prompt: bool = False
    ) -> None:
        super().__init__()
        self._keeps_prompt = keeps_prompt
        self._prompt = prompt
        self._settings = settings
        self._group = RowGroup(settings, tokenizer)
        self._batch: RowBatch | None = None
        self._logits: Tensor | None = None  # (rows, vocab)
        self._finish_reason: FinishReason | None = None
        self._result: DecodedText | None = None
        self._started = False

    def begin(self, runner: ModelRunner) -> None:
        """Prefill the rows, each only as far as no earlier task of this prompt did."""
        states = [runner.prefill(self._prompt, row) for row in self._settings.rows]
        self._logits = torch.stack([state.logits for state in states])
        self._batch = runner.make_batch(states)
        if not self._keeps_prompt:
            self._prompt.release()

    def step(self, runner: ModelRunner) -> bool:
        """Choose one token, append those that a constraint forces after it, and forward them all in every row."""
        assert self._logits is not None, "begin() comes first"
        assert self._batch is not None, "begin() comes first"
        tokens = self._group.forced() if not self._started else []
        self._started = True
        if not tokens:
            tokens = [self._group.advance(self._logits)]
            if tokens[0].finish_reason is None:
                tokens += self._group.forced()
        for token in tokens:
            self.emit(Token(token))
        self._finish_reason = tokens[-1].finish_reason
        if self._finish_reason is None:
            ids = torch.tensor([[token.token_id for token in tokens]], device=self._logits.device)
            self._logits = runner.decode(self._batch, ids.expand(len(self._settings.rows), -1))[:, -1]
        return self._finish_reason is not None

    def finish(self) -> None:
        """The answer as far as it got."""
        self._batch = self._logits = None
        self._result = self._group.result(self._finish_reason or "cancelled")

    def result(self) -> DecodedText:
        """The answer, after the Finished event."""
        assert self._result is not None, "the task has not finished"
        return self._result


class ScoreTask(Task):
    """Log-probabilities of a given text under several rows of a prompt, in one forward pass."""

    def __init__(self, prompt: PromptState, rows: Sequence[str], token_ids: Sequence[int]) -> None:
        super().__init__()
        self._prompt = prompt
        self._rows = rows
        self._token_ids = token_ids
        self._result: Mapping[str, Tensor] = {}

    def begin(self, runner: ModelRunner) -> None:
        """Prefill the rows that have not been."""
        for row in self._rows:
            runner.prefill(self._prompt, row)

    def step(self, runner: ModelRunner) -> bool:
        """The one forward pass."""
        self._result = runner.score(self._prompt, self._rows, self._token_ids)
        return True

    def finish(self) -> None:
        """Nothing to free."""

    def result(self) -> Mapping[str, Tensor]:
        """Row -> (tokens,) float32, nats, after the Finished event; empty after a cancellation."""
        return self._result
