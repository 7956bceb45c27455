"""A tokenizer as llguidance sees it, and the ways to close an answer in its tokens."""

from collections.abc import Mapping, Sequence

import llguidance.hf
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from sda_engine.errors import ConstraintError
from sda_engine.output.grammar_trial import TrialProcess
from sda_engine.tokens import SafeTokenizer

_INSIDE_TEXT = ("q", "Z", "~")  # where all of these may come next, a text is open
_TO_CLOSE = ("}", "]", '"', ",", *"0123456789", *"ntf-:{[<", *"abcdefghijklmnopqrstuvwxyz", " ")
_STRUCTURE = frozenset(b'"\\<>')


class Vocabulary:
    """llguidance's view of a tokenizer, and what closing an answer needs to know of it."""

    def __init__(self, tokenizer: SafeTokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        backend = tokenizer.copy()
        if not isinstance(backend, PreTrainedTokenizerFast):
            raise ConstraintError(
                f"Constraints and tools need a fast tokenizer, and this model's is a {type(backend).__name__}. Convert "
                f"it to tokenizer.json first."
            )
        if not eos_token_ids:
            raise ConstraintError("Constraints and tools need an end-of-sequence token, and this model has none.")
        self.tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(
            backend, n_vocab=vocab_size, eos_token=sorted(eos_token_ids)
        )
        self._size = vocab_size
        self._bytes = 4 * ((vocab_size + 31) // 32)
        self.eos_token_id = min(eos_token_ids)
        texts = [self.tokenizer.decode_bytes([token_id]) for token_id in range(vocab_size)]
        special = [self.tokenizer.is_special_token(token_id) for token_id in range(vocab_size)]
        single = {text: token_id for token_id, text in reversed(list(enumerate(texts))) if not special[token_id]}
        self.plain = np.array([not s and _is_plain(text) for text, s in zip(texts, special, strict=True)])
        self.trial = TrialProcess(texts, [token_id for token_id, s in enumerate(special) if s], sorted(eos_token_ids))
        self._markers = np.array([s and token_id not in eos_token_ids for token_id, s in enumerate(special)])
        markers = tokenizer.answer_format
        self._leave_thought = self._marker(markers.thought_end, markers.special_tokens) if markers.thinks else []
        self._inside = [single[sign.encode()] for sign in _INSIDE_TEXT if sign.encode() in single]
        self._to_close = [single[sign.encode()] for sign in _TO_CLOSE if sign.encode() in single]
        self._quote = single.get(b'"')

    def allowed(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        """(vocab,) whether each token may come next."""
        words = np.zeros(self._bytes // 4, dtype=np.int32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, self._bytes)
        return np.unpackbits(words.view(np.uint8), bitorder="little", count=self._size).view(np.bool_)

    def inside_text(self, allowed: NDArray[np.bool_]) -> bool:
        """Whether nearly any character may come next."""
        return bool(allowed[self._inside].all())

    def is_open_text(self, allowed: NDArray[np.bool_]) -> bool:
        """Whether nearly any character may come next, and a quote that ends a JSON text as well."""
        return self.inside_text(allowed) and self._quote is not None and bool(allowed[self._quote])

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a plain text."""
        return list(self.tokenizer.tokenize_str(text))

    def closing(self, matcher: LLMatcher, budget: int, endings: Sequence[Sequence[int]] = ()) -> list[int] | None:
        """A short way to a whole answer, or None if none was found within the budget. The matcher is left alone.

        It takes the sign that closes most at each place, and where that leads nowhere first one of the endings. That is
        not always the shortest way: where it finds none there may be one all the same.

        Args:
            matcher: where the answer is.
            budget: how many tokens the way may have.
            endings: tokens that may close what is open, see `sda_engine.output.endings`.
        """
        path = self._close(matcher.deep_copy(), [], budget)
        if path is None and self._leave_thought:
            path = self._close(matcher.deep_copy(), self._leave_thought, budget)
        if path is None:
            tried = (self._close(matcher.deep_copy(), ending, budget) for ending in endings)
            path = next((way for way in tried if way is not None), None)
        return path

    def closes(self, matcher: LLMatcher, way: Sequence[int]) -> bool:
        """Whether some tokens make an answer whole. The matcher is left alone."""
        after = matcher.deep_copy()
        return bool((not way or after.consume_tokens(list(way))) and after.is_accepting())

    def _close(self, matcher: LLMatcher, first: Sequence[int], budget: int) -> list[int] | None:
        """A way that begins with given tokens; the matcher is used up."""
        path: list[int] = []
        step = list(first)
        while True:
            if len(path) + len(step) > budget or (step and not matcher.consume_tokens(step)):
                return None
            path += step
            if matcher.is_accepting():
                return path
            step = forced_tokens(matcher) or self._closing_step(matcher)
            if not step:
                return None

    def _marker(self, text: str, special_tokens: Mapping[str, int]) -> list[int]:
        return [special_tokens[text]] if text in special_tokens else self.tokens_of(text)

    def _closing_step(self, matcher: LLMatcher) -> list[int]:
        allowed = self.allowed(matcher)
        if (markers := allowed & self._markers).any():
            return [int(markers.argmax())]
        order = self._to_close
        if self._quote is not None and self.inside_text(allowed):
            order = [self._quote, *self._inside]
        found = next((token_id for token_id in order if allowed[token_id]), None)
        if found is None and allowed.any():
            found = int(allowed.argmax())
        return [] if found is None else [found]


def forced_tokens(matcher: LLMatcher) -> list[int]:
    """Tokens that must come next; none where there is a choice."""
    tokens = matcher.compute_ff_tokens()
    # a marker of the tokenizer's own may be spelt in a text, where its token is none of the grammar's
    return list(tokens[: matcher.validate_tokens(tokens)]) if tokens else []


def _is_plain(text: bytes) -> bool:
    """Whether a token is whole characters, none of which means something in JSON or begins a marker."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return not _STRUCTURE & set(text)
