"""Made-up documents and questions about one fact in them: whether an answer still holds it.

No model has read of these places, so that a fact in an answer was taken from its documents. The facts come in two
halves that share no fact, layout or draw: settings are chosen on one and reported on the other.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking.seeded import generator_of

Half = Literal["tuning", "reporting"]
TUNING: Final = "tuning"
REPORTING: Final = "reporting"


@dataclass(frozen=True)
class FactQuestion:
    """A chat message that asks for one fact of the documents in it.

    Attributes:
        prompt: the user's message, documents included.
        question: the question alone.
        value: what the answer has to hold, in any case.
        kind: "number", "name", "time" or "phrase".
        documents: how many there are.
    """

    prompt: str
    question: str
    value: str
    kind: str
    documents: int


@dataclass(frozen=True)
class _Fact:
    """What a document may say of a place, how to ask for it, and where the value comes from."""

    kind: str
    sentence: str
    question: str
    values: tuple[str, ...]


_FIRST = ("Ada", "Bruno", "Carla", "Denis", "Edda", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona")
_LAST = (
    "Brandt",
    "Costa",
    "Dahl",
    "Eriksen",
    "Fuchs",
    "Garnier",
    "Holm",
    "Ivanov",
    "Jansen",
    "Keller",
    "Lund",
    "Moreau",
)
_NAMES = tuple(f"{first} {last}" for first in _FIRST for last in _LAST)
_TIMES = tuple(f"{hour}:{minute}" for hour in (7, 8, 9, 10, 11, 16, 17, 18, 19) for minute in ("15", "20", "40", "45"))
_PRICES = tuple(str(price) for price in range(11, 99))
_YEARS = tuple(str(year) for year in range(1803, 1989, 3))
_FLOORS = tuple(str(floor) for floor in range(3, 29))
_SEATS = tuple(str(seats) for seats in range(112, 980, 7))
_WHERE = (
    "behind the old mill",
    "next to the glass door",
    "opposite the fire station",
    "under the stone bridge",
    "beside the bus stop",
    "across from the bakery",
    "above the flower shop",
    "between two chestnut trees",
)
_BRING = (
    "a library card",
    "a signed letter",
    "a clean towel",
    "two passport photos",
    "a pair of felt slippers",
    "a printed ticket",
    "a valid student card",
)
_TOWNS = ("Aldern", "Brevik", "Corlund", "Dunmere", "Eskdorf", "Farnholt", "Gresby", "Halden", "Ilmstad", "Jorvik")
_KINDS = (
    "swimming hall",
    "reading room",
    "town archive",
    "clock museum",
    "botanical house",
    "concert hall",
    "harbour office",
    "puppet theatre",
    "observatory",
    "music school",
)
_DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")

_FACTS: Mapping[str, tuple[_Fact, ...]] = {
    TUNING: (
        _Fact(
            "number",
            "A yearly card for {place} costs {value} euros.",
            "How much is a yearly card for {place}?",
            _PRICES,
        ),
        _Fact("number", "{Place} was founded in {value}.", "When was {place} founded?", _YEARS),
        _Fact("time", "On {day} {place} opens at {value}.", "When does {place} open on {day}?", _TIMES),
        _Fact("name", "{value} is in charge of {place}.", "Who is in charge of {place}?", _NAMES),
        _Fact("phrase", "The entrance of {place} is {value}.", "Where is the entrance of {place}?", _WHERE),
    ),
    REPORTING: (
        _Fact(
            "number",
            "The main office of {place} is on floor {value}.",
            "On which floor is the main office of {place}?",
            _FLOORS,
        ),
        _Fact("number", "{Place} has seats for {value} people.", "How many people can sit in {place}?", _SEATS),
        _Fact(
            "time",
            "The last tour of {place} on {day} starts at {value}.",
            "When does the last tour of {place} start on {day}?",
            _TIMES,
        ),
        _Fact("name", "The architect of {place} was {value}.", "Who was the architect of {place}?", _NAMES),
        _Fact(
            "phrase", "Visitors of {place} have to bring {value}.", "What do visitors of {place} have to bring?", _BRING
        ),
    ),
}
_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    TUNING: (
        "Use the context to answer the question in one short sentence.\n\n"
        "Context:\n{documents}\n\nQuestion: {question}",
        "Context information is below.\n---------------------\n{documents}\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: ",
    ),
    REPORTING: (
        "Answer the question based only on the following context:\n{documents}\n\nQuestion: {question}",
        "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer "
        "the question. Use three sentences maximum and keep the answer concise.\nQuestion: {question}\n"
        "Context: {documents}\nAnswer:",
    ),
}


def fact_questions(count: int, *, seed: int, half: Half = REPORTING) -> list[FactQuestion]:
    """Questions about one fact of one to three documents each.

    Every document tells of one place, in four facts that come in any order; with two or three documents the others tell
    the same kinds of facts of other places. More questions of the same seed begin with the same ones.

    Args:
        count: how many, at least 1.
        seed: what the draws begin with.
        half: which facts and layouts: "tuning" for choosing settings, "reporting" for figures.

    Raises:
        ConfigError: the count is less than 1, or the half is none of the two.
    """
    if half not in _FACTS:
        raise ConfigError(f"The half of the facts cannot be {half!r}: it must be one of {', '.join(_FACTS)}.")
    generator = generator_of(half, count, seed)
    return [_make(generator, half, place) for place in range(count)]


def holds(text: str, value: str) -> bool:
    """Whether a text holds a value as whole words, in any case; "8:15" holds neither "8" nor "15", "1.50" no "50"."""
    text, wanted = " ".join(text.lower().split()), value.lower()
    start = text.find(wanted)
    while start >= 0:
        before, after = text[:start][-2:], text[start + len(wanted) :][:2]
        if not (_goes_on(before[::-1]) or _goes_on(after)):
            return True
        start = text.find(wanted, start + 1)
    return False


def _goes_on(beside: str) -> bool:
    """Whether the two signs beside a value, nearest first, belong to the same word or number."""
    return beside[:1].isalnum() or (beside[:1] in (".", ",", ":") and beside[1:].isdigit())


def _make(generator: random.Random, half: str, number: int) -> FactQuestion:
    facts, layouts = _FACTS[half], _LAYOUTS[half]
    documents = number % 3 + 1
    places = [f"the {kind} of {town}" for kind, town in _pairs(generator, documents)]
    asked = facts[number % len(facts)]
    texts, value, question = [], "", ""
    for position, place in enumerate(places):
        told = [asked, *generator.sample([fact for fact in facts if fact is not asked], 3)]
        sentences = []
        for fact in told:
            filled = {"place": place, "Place": place[0].upper() + place[1:], "day": generator.choice(_DAYS)}
            filled["value"] = generator.choice(fact.values)
            while position > 0 and filled["value"].removeprefix("a ") == value:
                filled["value"] = generator.choice(fact.values)
            sentences.append(fact.sentence.format(**filled))
            if position == 0 and fact is asked:
                value, question = filled["value"].removeprefix("a "), fact.question.format(**filled)
        generator.shuffle(sentences)
        texts.append(" ".join(sentences))
    generator.shuffle(texts)
    layout = layouts[number // len(facts) % len(layouts)]
    prompt = layout.format(documents="\n\n".join(texts), question=question)
    return FactQuestion(prompt, question, value, asked.kind, documents)


def _pairs(generator: random.Random, count: int) -> Sequence[tuple[str, str]]:
    kinds, towns = generator.sample(_KINDS, count), generator.sample(_TOWNS, count)
    return list(zip(kinds, towns, strict=True))
