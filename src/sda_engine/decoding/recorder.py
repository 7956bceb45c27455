"""Collects what steering did at each token, and makes trace and log-probabilities of it at the end."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from sda_engine.decoding.wanted import SHOWN, Chosen, Likely
from sda_engine.results import Candidate, GeneratedTokenLogprobs, TokenLogprob, TraceToken


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

    def add(self, chosen: Chosen, text: str, *, strength: float = 0.0) -> None:
        """Record what a step chose, with the text that became complete with it."""
        base = self._candidates(chosen.base)
        self.tokens.append(
            TraceToken(
                token_id=chosen.token_id,
                text=text,
                divergence=chosen.divergence,
                temperature=chosen.temperature,
                logprob=chosen.logprob,
                base=base,
                instructed=base if chosen.instructed is chosen.base else self._candidates(chosen.instructed),
                steered=self._candidates(chosen.steered),
                strength=strength,
                position=chosen.position,
                spent=chosen.spent,
            )
        )
        if self._logprobs is not None:
            top = tuple(self._entry(token_id, logprob) for token_id, logprob in chosen.steered[: self._logprobs])
            self.generated.append(GeneratedTokenLogprobs(self._entry(chosen.token_id, chosen.logprob), top))

    def add_forced(self, token_id: int, text: str, temperature: float, *, strength: float = 0.0) -> None:
        """Record a token that was forced: it has probability 1 in every context, so nothing diverges."""
        only = self._entry(token_id, 0.0)
        candidates = self._candidates([(token_id, 0.0)])
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
                forced=True,
            )
        )
        if self._logprobs is not None:
            self.generated.append(GeneratedTokenLogprobs(only, (only,) * bool(self._logprobs)))

    def _entry(self, token_id: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token_id, self._text_of(token_id), logprob)

    def _candidates(self, likely: Likely) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(self._text_of(token_id), min(1.0, math.exp(logprob))) for token_id, logprob in likely[:SHOWN]
        )
