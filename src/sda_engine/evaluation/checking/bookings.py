"""Made-up requests to book a table, with the call that they ask for."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from sda_engine.evaluation.checking.seeded import generator_of

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")  # from 2
_RESTAURANTS = (
    "Luna",
    "Blue Door",
    "Old Harbour",
    "Pepper",
    "Green Table",
    "Casa Rosa",
    "Nord",
    "Ginger",
    "The Copper Pot",
    "Saffron House",
    "Little Lisbon",
    "Mill Kitchen",
)
_TIMES = tuple(f"{hour}:{minute}" for hour in (12, 13, 18, 19, 20, 21) for minute in ("00", "15", "30", "45"))
_PHRASES = (
    "Book a table at {restaurant} for {guests} people on {day} at {time}, please.",
    "Could you get us a table at {restaurant}? We are {guests} people, and {day} at {time} would be perfect.",
    "I need a table for {guests} on {day}, {time}, at {restaurant}.",
    "{day} is my birthday. Please reserve at {restaurant} for {time}; there will be {guests} of us.",
    "We would like to eat at {restaurant} on {day}. {guests} people, arriving at {time}.",
    "Hi! Can you reserve {restaurant} for {guests} guests? The day is {day} and the time {time}.",
    "Please arrange a meal for {guests} at {restaurant}, {time} on {day}.",
    "My colleagues want to meet at {restaurant} on {day} at {time}. Book for {guests} people, me included.",
    "At {time} on {day} we want to be sitting at {restaurant}. We are {guests}. Can you book that?",
    "Reserve a table on {day}. It is for {guests} people, the restaurant is {restaurant}, and we come at {time}.",
)

BOOK_TABLE: Mapping[str, object] = {
    "name": "book_table",
    "description": "Books a table at a restaurant.",
    "parameters": {
        "type": "object",
        "properties": {
            "restaurant": {"type": "string", "maxLength": 40, "description": "the restaurant's name alone"},
            "guests": {"type": "integer", "minimum": 1, "maximum": 20},
            "day": {"type": "string", "enum": list(_DAYS)},
            "time": {"type": "string", "pattern": "^[0-9]{1,2}:[0-9]{2}$", "description": "such as 19:30"},
        },
        "required": ["restaurant", "guests", "day", "time"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Booking:
    """A request, and the call that it asks for.

    Attributes:
        prompt: the user's message.
        wanted: the arguments that a right call has.
        tool: what is to be called, in OpenAI's format.
    """

    prompt: str
    wanted: Mapping[str, object]
    tool: Mapping[str, object] = field(default_factory=lambda: BOOK_TABLE)


def table_bookings(count: int, *, seed: int) -> list[Booking]:
    """Requests to book a table, in ten phrasings, with numbers as digits or as words.

    More requests of the same seed begin with the same ones.

    Args:
        count: how many, at least 1.
        seed: what the draws begin with.

    Raises:
        ConfigError: the count is less than 1.
    """
    generator = generator_of("bookings", count, seed)
    return [_booking(generator) for _ in range(count)]


def _booking(generator: random.Random) -> Booking:
    restaurant, day = generator.choice(_RESTAURANTS), generator.choice(_DAYS)
    time, guests = generator.choice(_TIMES), generator.randint(2, len(_NUMBERS) + 1)
    said = generator.choice((str(guests), _NUMBERS[guests - 2]))
    prompt = generator.choice(_PHRASES).format(restaurant=restaurant, day=day, time=time, guests=said)
    sentences = prompt.split(". ")
    prompt = ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)  # where a number as a word begins
    return Booking(prompt, {"restaurant": restaurant, "guests": guests, "day": day, "time": time})
