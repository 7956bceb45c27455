"""What a text shows by itself: its length, and how much of it repeats.

Words are runs of letters and digits, as IFEval counts them ("don't" is two). That suits languages which put spaces
between words; a sentence of Chinese is one word here.
"""

import re
from collections import Counter
from collections.abc import Sequence

from sda_engine.decoding import find_repetition
from sda_engine.decoding.guards import GRAM, MIN_LOOP
from sda_engine.errors import ConfigError

_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"\w+|([^\w\s])\1*")  # a row of the same sign is one piece, as it is to most tokenizers
_STUTTER = re.compile(rf"([^\W\d_])\1{{{MIN_LOOP - 1}}}")  # one letter again and again, which is no word


def words_of(text: str) -> list[str]:
    """The words of a text, in its own case."""
    return _WORD.findall(text)


def word_count(text: str) -> int:
    """How many words a text has."""
    return len(words_of(text))


def repetition(text: str) -> float:
    """Share of a text's word 4-grams, in any case, that occurred before in it, 0..1; 0 where it has none."""
    grams = _grams(text, GRAM)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def collapsed(text: str) -> bool:
    """Whether a text holds no word at all, or the guard of decoding would have said that it repeats itself.

    The guard looks at tokens; here it looks at words and signs, for texts whose tokens are not at hand. There are fewer
    of these, so that a loop has to go on for a little longer until it is one.
    """
    if not words_of(text) or _STUTTER.search(text):
        return True
    numbers: dict[str, int] = {}
    pieces = (found.group().lower() for found in _PIECE.finditer(text))
    return find_repetition([numbers.setdefault(piece, len(numbers)) for piece in pieces]) is not None


def distinct(texts: Sequence[str], *, size: int = 2) -> float:
    """Share of different ones among all word n-grams of some texts, 0..1: how varied they are together.

    0 where no text has an n-gram. Longer texts repeat more: compare only what is about as long.

    Source: distinct-n of Li et al. 2016 (https://aclanthology.org/N16-1014), over all texts together.

    Args:
        texts: the texts.
        size: words of an n-gram, at least 1.

    Raises:
        ConfigError: the size is less than 1.
    """
    if size < 1:
        raise ConfigError(f"The size of an n-gram cannot be {size}: it must be 1 or more.")
    grams = Counter(gram for text in texts for gram in _grams(text, size))
    return len(grams) / grams.total() if grams else 0.0


def _grams(text: str, size: int) -> list[tuple[str, ...]]:
    words = words_of(text.lower())
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
