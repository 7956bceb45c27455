"""What an answer took from its sources word for word and must not lose: numbers, times, names, short phrases.

A rule of thumb for languages that put spaces between words. It looks at words alone, in any case.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sda_engine.choosing.words import FUNCTION_WORDS, SENTENCE, STEM, WORD, words_of

_QUESTION = re.compile(r"[^.?!\n]*\?")  # what is asked about need not be said again
_BEGINNING = re.compile(r"(?:^|[.!?:\n])\W*$")  # of a sentence, where a capital letter makes no name
_MOST_WORDS = 6  # of a phrase: what is longer is prose, which may be put in other words


@dataclass(frozen=True)
class _Word:
    """A word of an answer, and whether it looks like a part of a name."""

    text: str
    named: bool

    @property
    def key(self) -> str:
        return self.text.lower()

    @property
    def is_number(self) -> bool:
        return any(letter.isdigit() for letter in self.text)


def values_of(answer: str, sources: Sequence[str], question: str = "") -> tuple[str, ...]:
    """What an answer says in the very words of its sources.

    Of an answer in several sentences only the first counts and those that take up what is asked, each of its words
    once: what else a model recites of its sources need not be said again. Where these hold no value, all count. Every
    run of their words that stands in a source in this order is looked at. Its numbers, times and names are values each;
    a run without any is one where it has two words of content and at most six in all. Words of the question are left
    out, since that the answer holds them too tells little. Where that leaves nothing, single words count and, at last,
    those of the question.

    Args:
        answer: the answer.
        sources: what it may have taken from: documents, the conversation.
        question: the text that asks; only its sentences with a question mark count.
    """
    source = [word for text in sources for word in (*words_of(text), "\n")]
    asked = _asked(question)
    everything = list(_runs(_words(answer), source))
    answering = list(_runs(_words(_about(answer, asked)), source))
    tries = ((answering, asked, 2), (everything, asked, 2), (everything, asked, 1), (everything, set[str](), 2))
    for runs, left_out, content in tries:
        found = (value for run in runs for part in _split(run, left_out) for value in _values(part, content))
        if values := tuple(dict.fromkeys(found)):
            return values
    return ()


def facts_of(answer: str, question: str) -> tuple[str, ...]:
    """The names and numbers of an answer that are not words of the question."""
    parts = _split(_words(answer), _asked(question))
    return tuple(dict.fromkeys(value for part in parts for value in _values(part, least=None)))


def without_questions(text: str) -> str:
    """A text without its sentences that end in a question mark."""
    return _QUESTION.sub("", text)


def missing_values(answer: str, values: Sequence[str]) -> tuple[str, ...]:
    """The values that an answer does not hold word for word, in any case."""
    text = f" {' '.join(words_of(answer))} "
    return tuple(value for value in values if f" {' '.join(words_of(value))} " not in text)


def _asked(question: str) -> set[str]:
    """The words of content of what asks in a text."""
    return {word for sentence in _QUESTION.findall(question) for word in words_of(sentence)} - FUNCTION_WORDS


def _about(answer: str, asked: set[str]) -> str:
    """The first sentence of an answer, and the fewest that say what all of them say of what is asked."""
    sentences = SENTENCE.findall(answer)
    wanted = {word[:STEM] for word in asked}
    said = [wanted.intersection(word[:STEM] for word in words_of(sentence)) for sentence in sentences]
    covered: set[str] = set()
    kept = {0} if sentences else set[int]()
    for place in sorted(range(len(sentences)), key=lambda place: -len(said[place])):
        if said[place] - covered:
            kept.add(place)
            covered |= said[place]
    return "".join(sentences[place] for place in sorted(kept)) if covered else answer


def _words(answer: str) -> list[_Word]:
    return [
        _Word(found.group(), found.group()[0].isupper() and not _BEGINNING.search(answer[: found.start()]))
        for found in WORD.finditer(answer)
    ]


def _runs(words: Sequence[_Word], source: Sequence[str]) -> Iterator[Sequence[_Word]]:
    """The longest runs of words that stand in the source, one after the other."""
    places: dict[str, list[int]] = {}
    for place, key in enumerate(source):
        places.setdefault(key, []).append(place)
    start = 0
    while start < len(words):
        length = max((_common(words[start:], source, place) for place in places.get(words[start].key, ())), default=0)
        if length:
            yield words[start : start + length]
        start += max(1, length)


def _common(words: Sequence[_Word], source: Sequence[str], place: int) -> int:
    length = 0
    while length < len(words) and place + length < len(source) and words[length].key == source[place + length]:
        length += 1
    return length


def _split(run: Sequence[_Word], asked: set[str]) -> Iterator[Sequence[_Word]]:
    """The parts of a run between words of the question, without function words at their ends."""
    part: list[_Word] = []
    for word in (*run, None):
        if word is not None and word.key not in asked:
            part.append(word)
            continue
        while part and part[-1].key in FUNCTION_WORDS:
            part.pop()
        while part and part[0].key in FUNCTION_WORDS:
            del part[0]
        if part:
            yield part
        part = []


def _values(part: Sequence[_Word], least: int | None) -> Iterator[str]:
    """The values in a part of a run; a phrase has at least so many words of content, and None stands for no phrases."""
    if not any(word.is_number or word.named for word in part):
        content = [word for word in part if word.key not in FUNCTION_WORDS]
        if least is not None and len(content) >= least and len(part) <= _MOST_WORDS:
            yield " ".join(word.text for word in part)
        return
    name: list[str] = []
    for word in (*part, None):
        if word is not None and word.named and not word.is_number:
            name.append(word.text)
            continue
        if name:
            yield " ".join(name)
        name = []
        if word is not None and word.is_number:
            yield word.text
