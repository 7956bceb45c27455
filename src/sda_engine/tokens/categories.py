"""Which tokens of a vocabulary are numbers, negations or names, judged by the text of each token alone.

A rule of thumb for English, no grammar: a word of several tokens is seen only as far as one of them gives it away, and
a word that means several things counts every time. In particular:

- "numbers": a digit, in any script, or a number word from "zero" to "trillion"; so "one" counts in "no one" too.
- "negations": a negation word, or the token that ends a contraction ("n't", or "'t" after "don"); not "un-" or "-less".
- "named_entities": a word that begins with a capital letter, "I" and "A" excepted. It therefore takes the first word of
  most sentences for a name, and sees none in scripts without capitals.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from sda_engine.config import TokenCategory
from sda_engine.forks import make_lock
from sda_engine.tokens.tokenizer import SafeTokenizer

_METASPACE = "▁"  # how SentencePiece writes the space before a word, which it leaves out of the text of a first token
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety dozen hundred thousand million billion "
    "trillion"
)
_NEGATION_WORDS = "no not never none nothing nobody nowhere neither nor cannot without"
_CONTRACTION = "n't"
_END_OF_A_CONTRACTION = "'t"
_CURLY_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
_CAPITAL_WORDS = frozenset({"I", "A"})  # common words that every sentence may write with a capital


class TokenCategories:
    """The categories of one tokenizer's vocabulary, sorted at the first request. Safe to use from many threads.

    What it keeps is one mask per category.

    Args:
        tokenizer: the model's tokenizer.
        vocab_size: size of the model's logits, which may be more than the tokenizer's.
    """

    def __init__(self, tokenizer: SafeTokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._masks: Mapping[TokenCategory, Tensor] | None = None
        self._lock = make_lock()

    def mask(self, categories: Sequence[TokenCategory]) -> Tensor | None:
        """(vocab,) bool: the tokens of any of these categories; None for no category. The first takes a second."""
        if not categories:
            return None
        with self._lock:
            if self._masks is None:
                self._masks = self._sort()
            masks = [self._masks[category] for category in categories]
        return torch.stack(masks).any(dim=0)

    def _sort(self) -> Mapping[TokenCategory, Tensor]:
        masks = {category: torch.zeros(self._vocab_size, dtype=torch.bool) for category in _BELONGS}
        for token_id, text in enumerate(_token_texts(self._tokenizer)[: self._vocab_size]):
            for category in token_categories(text):
                masks[category][token_id] = True
        return masks


def token_categories(text: str) -> frozenset[TokenCategory]:
    """The categories of a token with this text, the white space before a word included."""
    return frozenset(category for category, belongs in _BELONGS.items() if belongs(text))


def _token_texts(tokenizer: SafeTokenizer) -> list[str]:
    """The text of every token by itself; "" for control tokens, which are no text."""
    own = tokenizer.copy()  # nobody else waits for its lock meanwhile
    token_ids = list(range(len(own)))
    pieces = own.convert_ids_to_tokens(token_ids)
    texts = own.batch_decode([[token_id] for token_id in token_ids], clean_up_tokenization_spaces=False)
    control = frozenset(tokenizer.special_tokens.values())
    return [
        "" if token_id in control else f" {text.lstrip()}" if str(piece).startswith(_METASPACE) else text
        for token_id, piece, text in zip(token_ids, pieces, texts, strict=True)
    ]


def _is_number(text: str) -> bool:
    return any(map(str.isdigit, text)) or _word(text).lower() in _NUMBER_WORDS.split()


def _is_negation(text: str) -> bool:
    ending = text.strip().lower().replace(_CURLY_APOSTROPHE, "'")
    ends_a_contraction = ending == _END_OF_A_CONTRACTION or ending.endswith(_CONTRACTION)
    return ends_a_contraction or _word(text).lower() in _NEGATION_WORDS.split()


def _is_name(text: str) -> bool:
    word = _word(text)
    return word[:1].isupper() and word not in _CAPITAL_WORDS


def _word(text: str) -> str:
    """The word that a token consists of, without white space and punctuation around it; "" for the end of a word.

    A token without anything before its first letter goes on with the token before it, unless it has a capital letter.
    """
    place = next((place for place, char in enumerate(text) if char.isalnum()), len(text))
    word = text[place:]
    if place == 0 and not word[:1].isupper():
        return ""
    end = next((length for length in range(len(word), 0, -1) if word[length - 1].isalnum()), 0)
    return word[:end]


_BELONGS: Mapping[TokenCategory, Callable[[str], bool]] = MappingProxyType(
    {"numbers": _is_number, "negations": _is_negation, "named_entities": _is_name}
)
