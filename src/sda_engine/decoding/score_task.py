"""A text that is given: its log-probabilities under several rows of a prompt."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sda_engine.decoding.mixing import mix_instructed, mixed_rows
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.tasks import Choosing, PassLimits, Task
from sda_engine.errors import EngineClosedError, NumericalError


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
        names = self._names
        scored = torch.cat(self._logprobs, dim=-1) if self._logprobs else torch.empty((len(names), 0))
        return {name: scored[place, self._first :] for place, name in enumerate(names)}

    @property
    def _names(self) -> Sequence[str]:
        """What the log-probabilities are under, one name for each row of them."""
        return mixed_rows(self.row_names)

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

    def _begin(self) -> bool | Choosing:
        self._rows = self.prompt.rows(self.row_names)
        return self._score(self.prompt.last_logits(self.row_names))

    def _begin_again(self) -> bool | Choosing:
        self._logprobs = []
        return self._begin()

    def _plan(self, limits: PassLimits) -> list[Segment]:
        start = self._scored - 1  # no row holds the token that was scored last
        most = max(1, limits.prompt_tokens // len(self._rows)) if limits.prompt_tokens else 0
        piece = self._token_ids[start : min(start + most, len(self._token_ids) - 1)]
        return [Segment(row, piece, keep=len(piece)) for row in self._rows] if piece else []

    def _take(self, logits: Sequence[Tensor]) -> bool | Choosing:
        return bool(logits) and self._score(torch.stack(list(logits)))

    def _score(self, logits: Tensor) -> bool | Choosing:
        """Score the next tokens of the text by logits, (rows, tokens, vocab), of what comes at their places."""
        wanted = torch.tensor(self._token_ids[self._scored : self._scored + logits.shape[1]], device=logits.device)
        rows = dict(zip(self.row_names, logits[:, : len(wanted)], strict=True))
        scored = torch.stack(
            [_logprobs_of(wanted, row) for row in mix_instructed(rows, self.prompt.contexts.weights).values()]
        ).cpu()
        if bool(scored.isnan().any()):
            raise no_distribution()
        self._logprobs.append(scored)
        return self._scored == len(self._token_ids)

    @property
    def _scored(self) -> int:
        return sum(logprobs.shape[1] for logprobs in self._logprobs)


def no_distribution() -> NumericalError:
    """The error of a text that cannot be scored."""
    return NumericalError(
        "The model's logits hold NaN, inf or nothing but -inf where a text was to be scored. Load the model with "
        "dtype='float32', and check its weights."
    )


def _logprobs_of(wanted: Tensor, logits: Tensor) -> Tensor:
    """(tokens,) float32, nats, of tokens by the logits at their places, (tokens, vocab)."""
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
