"""Which tokens may come next in one answer, and which must, so that it is whole before its tokens are used up."""

from collections.abc import Sequence

import numpy as np
import torch
from llguidance import LLMatcher
from numpy.typing import NDArray
from torch import Tensor

from sda_engine.errors import ConstraintError
from sda_engine.output.vocabulary import Vocabulary, forced_tokens

_RETRY_SHARE, _RETRY_TOKENS = 4, 8  # a search that failed is tried again a quarter of the tokens later, 8 at least


class TokenConstraint:
    """Which tokens may come next in one answer. The worker thread alone touches it.

    Attributes:
        grammar: what it was compiled from, for those who keep it elsewhere.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        vocabulary: Vocabulary,
        *,
        watched_tokens: int,
        endings: Sequence[Sequence[int]] = (),
        grammar: str = "",
    ) -> None:
        self.grammar = grammar
        self._matcher, self._vocabulary = matcher, vocabulary
        self._watched, self._endings = watched_tokens, endings
        self._allowed: NDArray[np.bool_] | None = None
        self._way: list[int] | None = None  # tokens that close the answer as it is, where some are known
        self._next_way: list[int] | None = None  # the same after the token that was chosen
        self._looks_from = watched_tokens  # with so many tokens left closing is looked after

    def copy(self) -> "TokenConstraint":
        """The same for another answer that begins like this one."""
        return TokenConstraint(
            self._matcher.deep_copy(),
            self._vocabulary,
            watched_tokens=self._watched,
            endings=self._endings,
            grammar=self.grammar,
        )

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return self._matcher.is_stopped()

    def apply_mask(self, logits: Tensor) -> Tensor:
        """Logits with -inf for every token that may not come next: (rows, vocab) to (rows, vocab)."""
        allowed = torch.from_numpy(self._mask()).to(logits.device)
        return logits.masked_fill(~allowed, float("-inf"))

    def forced(self) -> Sequence[int]:
        """Tokens that must come next, whatever the model thinks; empty where there is a choice."""
        return forced_tokens(self._matcher)

    def choose(self, token_id: int, remaining: int) -> int:
        """The token itself, or one that closes the answer where this one would leave no room to close it.

        Args:
            token_id: an allowed token.
            remaining: how many tokens may follow it.
        """
        if remaining > self._looks_from:
            return token_id
        way = self._way_after(token_id, remaining)
        if way is not None:
            self._next_way = way
            return token_id
        way = self._way or self._vocabulary.closing(self._matcher, remaining + 1, self._endings)
        if way is None:
            self._looks_from = remaining - max(remaining // _RETRY_SHARE, _RETRY_TOKENS)
            return token_id
        self._next_way = way[1:]
        return way[0] if way else self._vocabulary.eos_token_id

    def make_way(self, token_ids: Sequence[int]) -> bool:
        """Whether the answer may go on with tokens that are no choice of the model's; they are appended if it may."""
        return bool(self._matcher.validate_tokens(list(token_ids)) == len(token_ids))

    def advance(self, token_id: int) -> None:
        """Take note of a token that was appended.

        Raises:
            ConstraintError: the token was not allowed, or the grammar grew past the grammar engine's limits.
        """
        self._allowed, self._way, self._next_way = None, self._next_way, None
        if not self._matcher.consume_token(token_id):
            raise ConstraintError(f"The constraint could not be followed: {first_lines(self._matcher.get_error())}.")

    def is_whole_with(self, text: str) -> bool:
        """Take note of a text that was appended, and tell whether the answer is whole as it is now."""
        tokens = self._vocabulary.tokenizer.tokenize_str(text)
        return self._matcher.consume_tokens(tokens) and self._matcher.is_accepting()

    def _mask(self) -> NDArray[np.bool_]:
        if self._allowed is None:
            self._allowed = self._vocabulary.allowed(self._matcher)
            if self._matcher.is_error():
                raise ConstraintError(f"The constraint is too complex: {first_lines(self._matcher.get_error())}.")
        return self._allowed

    def _way_after(self, token_id: int, budget: int) -> list[int] | None:
        """Tokens that close the answer after this one; None where none are found within the budget."""
        vocabulary, way = self._vocabulary, self._way
        after = self._matcher.deep_copy()
        after.consume_token(token_id)
        if way is not None and len(way) <= budget:
            plain = vocabulary.plain[token_id] and vocabulary.is_open_text(self._mask())
            if plain and vocabulary.is_open_text(vocabulary.allowed(after)):
                return way  # the text goes on, and what closes it is the same
            if way[:1] == [token_id]:
                return way[1:]
        path = vocabulary.closing(after, budget)
        if path is None and way is not None:  # what closed it may close it still
            rests = (way[start:] for start in range(len(way)) if len(way) - start <= budget)
            path = next((rest for rest in rests if vocabulary.closes(after, rest)), None)
        return path if path is not None else vocabulary.closing(after, budget, self._endings)


def first_lines(error: str) -> str:
    """An error of the grammar engine, short enough for a message, and without the state that it adds."""
    return " ".join(error.partition("<state>")[0].split())[:300].rstrip(".")
