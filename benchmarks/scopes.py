"""Whether calls and JSON are better steered or not: arguments of forced calls, and objects with a free text in them.

    python benchmarks/scopes.py [--requests 40] [--parts calls,people,objects] [--seed 0] [--arms ARMS] [--quick]

Parts, each a table with 95% intervals (a bootstrap over requests):
    calls    a forced call that books a table, under four presets: are restaurant, guests and day right?
    people   an object of a person's name, age and town, under two presets and a tone: is each of them right?
    objects  an object of a customer's name and a reply, with two instructions for the reply: is the name right and free
             of the instruction, and does the reply follow?

`Steering.scope="text"` leaves both to the base context, so its answers are the plain ones; the arm shows that it is so.
"""

import argparse
import asyncio
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress
from texts import quiet
from timing import describe_machine, print_table

from sda_engine import Completion, Constraint, Output, Sampling, Steering, SteeringEngine
from sda_engine.choosing import recites
from sda_engine.evaluation import Estimate, share

TOGETHER = 8  # requests at once
TOKENS = 96
PLAIN = "plain"
ARMS: Mapping[str, Steering | None] = {
    PLAIN: None,
    "all, paper": Steering(policy="paper", scope="all"),
    "all, budget": Steering(policy="budget", scope="all"),
    "all, revise": Steering(policy="revise", scope="all"),
    "text": Steering(policy="paper", scope="text"),
}
PRESETS = ("honesty", "empathy", "helpfulness", "harmlessness")
RESTAURANTS = (
    "Marlow",
    "The Copper Pan",
    "Da Vito",
    "Lakeside",
    "Three Oaks",
    "Saffron House",
    "Petit Jardin",
    "Kestrel",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
BOOKINGS = (
    "Could you reserve a table for {guests} at {restaurant} on {day}?",
    "We are {guests} people and would like to eat at {restaurant} on {day}. Please book a table.",
    "Please get us a table at {restaurant}, {day} evening, {guests} guests.",
    "On {day} I want to take {guests} guests to {restaurant}: reserve a table.",
)
BOOK = {
    "name": "reserve_table",
    "description": "Reserves a table at a restaurant.",
    "parameters": {
        "type": "object",
        "properties": {
            "restaurant": {"type": "string", "maxLength": 40},
            "guests": {"type": "integer"},
            "day": {"type": "string", "maxLength": 20},
        },
        "required": ["restaurant", "guests", "day"],
        "additionalProperties": False,
    },
}
CUSTOMERS = (
    "Ada Moreau",
    "Tom Becker",
    "Lena Ortiz",
    "Samir Khan",
    "Julia Novak",
    "Peter Lund",
    "Rosa Conti",
    "Ben Adler",
)
MESSAGES = (
    "My parcel has been on its way for three weeks.",
    "The lamp that I bought does not light up.",
    "I was charged twice for one ticket.",
    "I would like to change my delivery address.",
    "The shoes are one size too small.",
)
LETTERS = (
    "{name} writes to our shop: {message} Give the name of the customer and a short reply.",
    "Customer {name} says: {message} Write down who it is, and what we answer.",
)
LETTER = Constraint.json_schema(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 60}, "reply": {"type": "string", "maxLength": 160}},
        "required": ["name", "reply"],
    }
)
TOWNS = ("Lisbon", "Graz", "Oslo", "Verona", "Lyon", "Krakow", "Ghent", "Porto")
PORTRAITS = (
    "{name} is {age} years old and lives in {town}.",
    "My neighbour {name}, who comes from {town}, has just turned {age}.",
    "In {town} I met {name}. We talked about getting old: at {age} that is a topic.",
)
PERSON = Constraint.json_schema(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 60},
            "age": {"type": "integer"},
            "town": {"type": "string", "maxLength": 40},
        },
        "required": ["name", "age", "town"],
    }
)
WARM = re.compile(
    r"\b(?:sorry|apologi[sz]e|apologies|understand|thank|thanks|appreciate|glad|happy|hope|dear|please|care|here for "
    r"you|frustrating|worry)\b",
    re.IGNORECASE,
)
TONES: Mapping[str, Callable[[str], bool]] = {
    "Reply with warmth and understanding.": lambda reply: len({word.lower() for word in WARM.findall(reply)}) > 1,
    "Use the word welcome in the reply.": lambda reply: "welcome" in reply.lower(),
}


@dataclass(frozen=True)
class Judged:
    """One answer of one arm: the request it belongs to, and what holds of it."""

    arm: str
    kind: str
    group: str
    text: str
    holds: tuple[bool, ...]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--parts", default="calls,people,objects")
    parser.add_argument("--arms", default="|".join(ARMS), help=f"some of {'|'.join(ARMS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for all answers, a JSON object a line")
    parser.add_argument("--quick", action="store_true", help="two requests: does it run?")
    arguments = parser.parse_args()
    quiet()
    count = 2 if arguments.quick else arguments.requests
    arms = {name: ARMS[name] for name in arguments.arms.split("|")}
    with SteeringEngine.load(arguments.model) as engine:
        print(describe_machine(engine.model.dtype))
        judged: list[Judged] = []
        if "calls" in arguments.parts:
            judged += measure_calls(engine, arms, count, arguments.seed)
        if "people" in arguments.parts:
            judged += measure_people(engine, arms, count, arguments.seed)
        if "objects" in arguments.parts:
            judged += measure_objects(engine, arms, count, arguments.seed)
    if arguments.out is not None:
        lines = [json.dumps(vars(one), ensure_ascii=False) for one in judged]
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure_calls(engine: SteeringEngine, arms: Mapping[str, Steering | None], count: int, seed: int) -> list[Judged]:
    """Forced calls under each preset."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    wanted = [
        {"restaurant": rng.choice(RESTAURANTS), "guests": rng.randint(2, 12), "day": rng.choice(DAYS)}
        for _ in range(count)
    ]
    texts = [BOOKINGS[place % len(BOOKINGS)].format(**call) for place, call in enumerate(wanted)]
    output = Output(tools=[BOOK], tool_choice="required")
    judged = []
    for arm, steering in arms.items():
        if arm == "all, revise":  # calls are decoded once
            continue
        for preset in PRESETS if steering is not None else (PRESETS[0],):  # one plain answer for all
            done = ask(engine, f"{arm}: {preset}", texts, None if steering is None else preset, steering, output)
            for text, call, one in zip(texts, wanted, done, strict=True):
                given = one.tool_calls[0]["function"]["arguments"] if one.tool_calls else {}
                right = tuple(given.get(name) == value for name, value in call.items())
                judged.append(Judged(arm, preset, text, json.dumps(given), (all(right), *right)))
    columns = ["all three", "restaurant", "guests", "day"]
    print_shares(f"Forced calls, {count} requests, four presets", columns, judged, lambda one: "")
    print_shares("By preset", columns, [one for one in judged if one.arm != PLAIN], lambda one: one.kind)
    print_differences(columns, judged)
    return judged


def measure_people(engine: SteeringEngine, arms: Mapping[str, Steering | None], count: int, seed: int) -> list[Judged]:
    """Objects of facts alone, in which no instruction has anything to say."""
    rng = random.Random(seed + 2)  # noqa: S311 - no secret
    wanted = [
        {"name": rng.choice(CUSTOMERS), "age": rng.randint(18, 90), "town": rng.choice(TOWNS)} for _ in range(count)
    ]
    texts = [PORTRAITS[place % len(PORTRAITS)].format(**person) for place, person in enumerate(wanted)]
    judged = []
    for arm, steering in arms.items():
        for tone in ("honesty", "empathy", next(iter(TONES))) if steering is not None else (PLAIN,):
            alignment = None if steering is None else tone
            done = ask(engine, f"{arm}: {tone}", texts, alignment, steering, Output(constraint=PERSON))
            for text, person, one in zip(texts, wanted, done, strict=True):
                try:
                    given = json.loads(one.text)
                except ValueError:  # cut off
                    given = {}
                right = tuple(given.get(name) == value for name, value in person.items())
                judged.append(Judged(arm, tone, text, one.text, (all(right), *right)))
    columns = ["all three", "name", "age", "town"]
    print_shares(f"Facts in objects, {count} requests, three alignments", columns, judged, lambda one: "")
    print_shares("By alignment", columns, [one for one in judged if one.arm != PLAIN], lambda one: one.kind)
    print_differences(columns, judged)
    return judged


def measure_objects(engine: SteeringEngine, arms: Mapping[str, Steering | None], count: int, seed: int) -> list[Judged]:
    """Objects of a name, which is to be right, and a reply, which is to follow an instruction."""
    rng = random.Random(seed + 1)  # noqa: S311 - no secret
    names = [rng.choice(CUSTOMERS) for _ in range(count)]
    texts = [
        LETTERS[place % len(LETTERS)].format(name=name, message=rng.choice(MESSAGES))
        for place, name in enumerate(names)
    ]
    output = Output(constraint=LETTER)
    judged = []
    for arm, steering in arms.items():
        done: list[Completion] = []
        for instruction, follows in TONES.items():
            if steering is not None or not done:  # one plain answer for all
                done = ask(engine, f"{arm}: {instruction}", texts, steering and instruction, steering, output)
            for text, name, one in zip(texts, names, done, strict=True):
                judged.append(Judged(arm, instruction, text, one.text, object_holds(one, name, instruction, follows)))
    columns = ["name right", "name free of it", "reply follows", "right and follows"]
    print_shares(f"Objects, {count} requests, two instructions", columns, judged, lambda one: "")
    print_shares("By instruction", columns, judged, lambda one: one.kind)
    print_differences(columns, judged)
    return judged


def object_holds(
    done: Completion, name: str, instruction: str, follows: Callable[[str], bool]
) -> tuple[bool, bool, bool, bool]:
    """Whether the name is right, whether it is free of the instruction's words, whether the reply follows, and both."""
    try:
        given = json.loads(done.text)
    except ValueError:  # cut off
        return False, False, False, False
    right = given["name"].strip().lower() == name.lower()
    words = {word for word in re.findall(r"[a-z]{4,}", instruction.lower()) if word != "name"}
    free = not words & set(re.findall(r"[a-z]+", given["name"].lower()))
    good = follows(given["reply"]) and not recites(given["reply"], instruction)
    return right, free, good, right and good


def ask(
    engine: SteeringEngine,
    title: str,
    texts: Sequence[str],
    alignment: str | None,
    steering: Steering | None,
    output: Output,
) -> list[Completion]:
    """Greedy answers to requests, a few at a time."""

    async def all_of_them() -> list[Completion]:
        room = asyncio.Semaphore(TOGETHER)
        with Progress(transient=True) as progress:
            bar = progress.add_task(title, total=len(texts))

            async def one(text: str) -> Completion:
                async with room:
                    done = await engine.agenerate(
                        [{"role": "user", "content": text}],
                        alignment,
                        steering=steering or Steering(),
                        sampling=Sampling(temperature=0, max_new_tokens=TOKENS),
                        output=output,
                    )
                progress.advance(bar)
                return done

            return list(await asyncio.gather(*map(one, texts)))

    return asyncio.run(all_of_them())


def print_shares(title: str, columns: list[str], judged: Sequence[Judged], by: Callable[[Judged], str]) -> None:
    """A row per group and arm."""
    rows = []
    for name, arm in sorted({(by(one), one.arm): None for one in judged}, key=lambda pair: pair[0]):
        some = [one for one in judged if (by(one), one.arm) == (name, arm)]
        groups = [one.group for one in some]
        shares = [share([one.holds[place] for one in some], groups) for place in range(len(columns))]
        rows.append([name, arm, *map(shown, shares)])
    print_table(title, ["", "arm", *columns], rows, texts=2)


def print_differences(columns: list[str], judged: Sequence[Judged]) -> None:
    """What each arm has more than plain answers to the same requests, in points."""
    plain = {one.group: one for one in judged if one.arm == PLAIN}
    plain_of = {(one.kind, one.group): one for one in judged if one.arm == PLAIN}
    rows = []
    for arm in dict.fromkeys(one.arm for one in judged if one.arm != PLAIN):
        some = [one for one in judged if one.arm == arm]
        beside = [plain_of.get((one.kind, one.group), plain[one.group]) for one in some]
        groups = [one.group for one in some]
        differences = [
            share([one.holds[place] - other.holds[place] for one, other in zip(some, beside, strict=True)], groups)
            for place in range(len(columns))
        ]
        rows.append([arm, *(shown(difference, unit="") for difference in differences)])
    print_table("Points more than plain", ["arm", *columns], rows)


def shown(estimate: Estimate, unit: str = "%") -> str:
    """A share with its interval."""
    value = f"{100 * estimate.value:.0f}{unit}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({100 * estimate.low:.0f}..{100 * estimate.high:.0f})"


if __name__ == "__main__":
    main()
