"""Made-up texts about a person, and what is to be read out of them as JSON."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from sda_engine.evaluation.checking.seeded import generator_of

_FIRST = ("Amara", "Bjorn", "Chiara", "Dario", "Elif", "Fiona", "Goran", "Hanna", "Ivo", "Jamila", "Kenji", "Leonie")
_LAST = (
    "Abel",
    "Berger",
    "Conti",
    "Demir",
    "Ekman",
    "Ferrari",
    "Grant",
    "Horvat",
    "Ito",
    "Jensen",
    "Kowalski",
    "Lopez",
)
_CITIES = (
    "Bergen",
    "Ghent",
    "Graz",
    "Leeds",
    "Lyon",
    "Malaga",
    "Porto",
    "Riga",
    "Trieste",
    "Turku",
    "Utrecht",
    "Zadar",
)
_JOBS = (
    "baker",
    "bookbinder",
    "carpenter",
    "dentist",
    "gardener",
    "geologist",
    "librarian",
    "nurse",
    "photographer",
    "pilot",
    "tailor",
    "translator",
)
_LANGUAGES = ("Croatian", "Danish", "Dutch", "English", "French", "German", "Italian", "Japanese", "Polish", "Spanish")
_TEXTS = (
    "{name} is {age} years old and works as a {job} in {city}. At work, {name} speaks {languages}.",
    "Meet our neighbour {name}, a {job} from {city}. {age} years old, and fluent in {languages}.",
    "Born {age} years ago, {name} has been a {job} in {city} for a long time. Languages: {languages}.",
    "In {city} everybody knows the {job} {name}, who turned {age} last week and speaks {languages}.",
    "This year's prize for volunteers goes to {city}: to {name}, {age}. The {job} helps newcomers in {languages}.",
    "Who answers in {languages}? It is {name}, {job} in {city}, who at the age of {age} still learns new words.",
)
_TASK = (
    "Read the text and answer with a JSON object of name, age, city, occupation and languages; list the languages in "
    "the order of the text.\n\nText: {text}"
)

PROFILE_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "city": {"type": "string", "maxLength": 40},
        "occupation": {"type": "string", "maxLength": 40},
        "languages": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 1, "maxItems": 5},
    },
    "required": ["name", "age", "city", "occupation", "languages"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Profile:
    """A text about a person, and what it says.

    Attributes:
        prompt: the user's message, which asks for JSON and holds the text.
        text: the text alone.
        wanted: the properties that a right answer has; languages in the order of the text.
        schema: what the answer has to fit.
    """

    prompt: str
    text: str
    wanted: Mapping[str, object]
    schema: Mapping[str, object] = field(default_factory=lambda: PROFILE_SCHEMA)


def profiles(count: int, *, seed: int) -> list[Profile]:
    """Texts about people, in six phrasings, to read five properties out of.

    More texts of the same seed begin with the same ones.

    Args:
        count: how many, at least 1.
        seed: what the draws begin with.

    Raises:
        ConfigError: the count is less than 1.
    """
    generator = generator_of("profiles", count, seed)
    return [_profile(generator) for _ in range(count)]


def _profile(generator: random.Random) -> Profile:
    name = f"{generator.choice(_FIRST)} {generator.choice(_LAST)}"
    city, job, age = generator.choice(_CITIES), generator.choice(_JOBS), generator.randint(19, 88)
    languages = generator.sample(_LANGUAGES, generator.randint(1, 3))
    listed = " and ".join(filter(None, (", ".join(languages[:-1]), languages[-1])))
    text = generator.choice(_TEXTS).format(name=name, age=age, city=city, job=job, languages=listed)
    wanted = {"name": name, "age": age, "city": city, "occupation": job, "languages": languages}
    return Profile(_TASK.format(text=text), text, wanted)
