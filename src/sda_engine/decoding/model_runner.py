"""Forward passes: prefill one row, decode a batch of rows by one token, score a given text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from sda_engine.decoding.kv_cache import can_rewind, fork, left_padding_mask, merge, new_cache, rewound
from sda_engine.prompts import Contexts


@dataclass(frozen=True)
class RowState:
    """A row after some tokens: its cache, how many tokens are in it, and the logits of the next one, (vocab,)."""

    cache: DynamicCache
    length: int
    logits: Tensor


@dataclass
class PromptState:
    """The rows of a request as far as they have been prefilled. The worker thread alone touches it.

    Attributes:
        shared: cache of the prefix that all rows share, where there are several.
        rows: row name -> its state after the whole prompt.
    """

    contexts: Contexts
    shared: DynamicCache | None = None
    rows: dict[str, RowState] = field(default_factory=dict)

    def release(self) -> None:
        """Let go of the caches, once nothing more will be prefilled or forked from them."""
        self.shared = None
        self.rows.clear()


@dataclass
class RowBatch:
    """Rows that are decoded together.

    Attributes:
        cache: merged cache of the rows, left-padded.
        attention_mask: (rows, tokens so far), 0 on the padding.
        positions: (rows, 1), position of the next token in each row.
    """

    cache: DynamicCache
    attention_mask: Tensor
    positions: Tensor


class ModelRunner:
    """Runs one model. All methods belong to the worker thread, and leave the prompt's caches reusable."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._can_rewind = can_rewind(model.config)

    def prefill(self, prompt: PromptState, row: str) -> RowState:
        """The state of one row after its prompt; what has been computed before is not computed again."""
        if row not in prompt.rows:
            prompt.rows[row] = self._prefill(prompt, prompt.contexts.shared, prompt.contexts.tails[row])
        return prompt.rows[row]

    def make_batch(self, rows: Sequence[RowState]) -> RowBatch:
        """Rows with prompts of any length, ready to be decoded together."""
        lengths = [row.length for row in rows]
        device = rows[0].logits.device
        return RowBatch(
            cache=merge([row.cache for row in rows], lengths),
            attention_mask=left_padding_mask(lengths, device),
            positions=torch.tensor(lengths, device=device).unsqueeze(-1),
        )

    def decode(self, batch: RowBatch, token_ids: Tensor) -> Tensor:
        """Append tokens to every row in one forward pass.

        Args:
            batch: changed in place: it grows by the tokens.
            token_ids: (rows, tokens), usually one token each.

        Returns:
            (rows, tokens, vocab): logits of what follows each of these tokens.
        """
        rows, tokens = token_ids.shape
        grown = batch.attention_mask.new_ones((rows, tokens))
        batch.attention_mask = torch.cat([batch.attention_mask, grown], dim=-1)
        positions = batch.positions + torch.arange(tokens, device=token_ids.device)
        batch.positions = batch.positions + tokens
        output = self._model(
            input_ids=token_ids,
            attention_mask=batch.attention_mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits
        return logits

    def score(self, prompt: PromptState, rows: Sequence[str], token_ids: Sequence[int]) -> Mapping[str, Tensor]:
        """Log-probability of each token of a given text in each row's context: row -> (tokens,) float32, nats."""
        states = [self.prefill(prompt, row) for row in rows]
        if not token_ids:
            return {row: torch.empty(0) for row in rows}
        first = torch.stack([state.logits for state in states]).unsqueeze(1)  # (rows, 1, vocab)
        wanted = torch.tensor(token_ids, device=first.device).expand(len(rows), -1)  # (rows, tokens)
        logits = first
        if len(token_ids) > 1:
            logits = torch.cat([first, self.decode(self.make_batch(states), wanted[:, :-1])], dim=1)
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = logprobs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)  # (rows, tokens)
        return {row: chosen[place].cpu() for place, row in enumerate(rows)}

    def _prefill(self, prompt: PromptState, shared: Sequence[int], tail: Sequence[int]) -> RowState:
        several = bool(shared) and len(prompt.contexts.tails) > 1
        if several and prompt.shared is None and not self._can_rewind:
            prompt.shared = self._extend(None, 0, shared).cache
        if prompt.shared is not None:
            return self._extend(prompt.shared, len(shared), tail)
        state = self._extend(None, 0, (*shared, *tail))
        if several:  # the first row's forward pass has computed the shared prefix too
            prompt.shared = rewound(state.cache, len(tail))
        return state

    def _extend(self, past: DynamicCache | None, start: int, token_ids: Sequence[int]) -> RowState:
        """The state after more tokens from `start` on, in one forward pass of batch size 1; `past` stays as it is."""
        cache = new_cache(self._model.config) if past is None else fork(past)
        ids = torch.tensor([token_ids], device=self._model.device)
        positions = torch.arange(start, start + len(token_ids), device=self._model.device).unsqueeze(0)
        output = self._model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return RowState(cache=cache, length=start + len(token_ids), logits=output.logits[0, -1])
