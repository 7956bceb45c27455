"""Collects what steering did at each token, and makes trace and log-probabilities of it at the end."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor

from sda_engine.results import Candidate, GeneratedTokenLogprobs, TokenLogprob, TraceToken
from sda_engine.steering import SteeredStep, top_tokens

_SHOWN = 3  # candidates per distribution in a trace


class Recorder:
    """One answer's record.

    Args:
        decode: token ids to text, special tokens included.
        logprobs: how many top log-probabilities to keep per token; None for none.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], logprobs: int | None) -> None:
        self._text_of = lru_cache(maxsize=4096)(lambda token_id: decode((token_id,)))
        self._logprobs = logprobs
        self.tokens: list[TraceToken] = []
        self.generated: list[GeneratedTokenLogprobs] = []

    def add(self, step: SteeredStep, row: int, token_id: int, text: str, *, strength: float = 0.0) -> None:
        """Record the token chosen in one row of a step, with the text that became complete with it."""
        logprob = float(step.steered_logprobs[row, token_id])
        top = self._top(step.steered_logprobs[row], max(_SHOWN, self._logprobs or 0))
        base = self._top(step.base_logprobs[row], _SHOWN)
        plain = step.instructed_logprobs is step.base_logprobs
        instructed = base if plain else self._top(step.instructed_logprobs[row], _SHOWN)
        self.tokens.append(
            TraceToken(
                token_id=token_id,
                text=text,
                divergence=float(step.divergence[row]),
                temperature=float(step.temperature[row]),
                logprob=logprob,
                base=_candidates(base),
                instructed=_candidates(instructed),
                steered=_candidates(top[:_SHOWN]),
                strength=strength,
                position=None if step.position is None else float(step.position[row]),
                spent=None if step.spent is None else float(step.spent[row]),
            )
        )
        if self._logprobs is not None:
            chosen = TokenLogprob(token_id, self._text_of(token_id), logprob)
            self.generated.append(GeneratedTokenLogprobs(chosen, tuple(top[: self._logprobs])))

    def add_forced(self, token_id: int, text: str, temperature: float, *, strength: float = 0.0) -> None:
        """Record a token that a grammar forced: it has probability 1 in every context, so nothing diverges."""
        only = TokenLogprob(token_id, self._text_of(token_id), 0.0)
        candidates = _candidates([only])
        self.tokens.append(
            TraceToken(
                token_id,
                text,
                divergence=0.0,
                temperature=temperature,
                logprob=0.0,
                base=candidates,
                instructed=candidates,
                steered=candidates,
                strength=strength,
            )
        )
        if self._logprobs is not None:
            self.generated.append(GeneratedTokenLogprobs(only, (only,) * bool(self._logprobs)))

    def _top(self, logprobs: Tensor, count: int) -> list[TokenLogprob]:
        """The most likely tokens, best first; masked ones are left out."""
        values, token_ids = top_tokens(logprobs.unsqueeze(0), min(count, len(logprobs)))
        return [
            TokenLogprob(token_id, self._text_of(token_id), value)
            for value, token_id in zip(values[0].tolist(), token_ids[0].tolist(), strict=True)
            if value > float("-inf")
        ]


def _candidates(top: Sequence[TokenLogprob]) -> tuple[Candidate, ...]:
    return tuple(Candidate(entry.text, min(1.0, math.exp(entry.logprob))) for entry in top)
