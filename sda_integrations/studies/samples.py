"""Samples of each task: rows of a data set, or made-up ones, as Inspect's samples."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from inspect_ai.dataset import Sample

from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking import (
    CHECKED_KINDS,
    SAFE_REQUESTS,
    UNSAFE_REQUESTS,
    fact_questions,
    profiles,
    table_bookings,
)
from sda_integrations.studies.data import Row

T = TypeVar("T")

MakeSamples = Callable[[Sequence[Row], int, int], list[Sample]]
"""(rows, most samples, seed) -> samples, whose metadata say by what they are steered and how they are checked."""


def summaries(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """Dialogues to summarise, with what people wrote (DialogSum)."""
    return [
        Sample(
            id=name,
            input=f"Summarise this dialogue.\n\n{_text(row, 'dialogue')}",
            target=[str(row[key]) for key in ("summary1", "summary2", "summary3", "summary") if row.get(key)],
            metadata={"category": None},
        )
        for name, row in _drawn(rows, count, seed)
    ]


def prompts(
    rows: Sequence[Row], count: int, seed: int, *, field: str = "prompt", category: str = "category"
) -> list[Sample]:
    """Requests as they stand in one field, with their category in another."""
    return [
        Sample(id=name, input=_text(row, field), metadata={"category": row.get(category)})
        for name, row in _drawn(rows, count, seed)
    ]


def truthful(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """Questions that invite a common mistake (TruthfulQA), with true and false answers."""
    return [
        Sample(
            id=name,
            input=_text(row, "Question", "question"),
            target=_text(row, "Best Answer", "best_answer"),
            metadata={
                "category": row.get("Category", row.get("category")),
                "best": _text(row, "Best Answer", "best_answer"),
                "true": _answers(row, "Correct Answers", "correct_answers"),
                "false": _answers(row, "Incorrect Answers", "incorrect_answers"),
            },
        )
        for name, row in _drawn(rows, count, seed)
    ]


def instructed(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """IFEval's prompts with the instruction taken out, each steered by its own instruction.

    Raises:
        ConfigError: a row has no separated instruction.
    """
    samples = []
    for name, row in _drawn([row for row in rows if _kind(row) in CHECKED_KINDS], count, seed):
        query = _text(row, "prompt_without_instruction")
        given = row.get("kwargs")
        arguments = given[0] if isinstance(given, list) and given else {}
        samples.append(
            Sample(
                id=name,
                input=query,
                metadata={
                    "category": _kind(row),
                    "alignment": _by(_instruction(query, _text(row, "prompt"))),
                    "avoid": _avoided(_kind(row), arguments),
                    "instruction": {"kind": _kind(row), "arguments": arguments},
                },
            )
        )
    return samples


RAG_INSTRUCTIONS: Mapping[str, tuple[str, dict[str, object]]] = {
    'Include the word "welcome" in your answer.': ("keywords:existence", {"keywords": ["welcome"]}),
    "Wrap your whole answer in double quotation marks.": ("startend:quotation", {}),
    'Finish your answer with the exact words "Have a nice day."': (
        "startend:end_checker",
        {"end_phrase": "Have a nice day."},
    ),
    "Give your answer a title in double angular brackets, such as <<title>>.": ("detectable_format:title", {}),
}
"""Instructions that a rule can check, with IFEval's kind and arguments."""


def documents(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """Questions on made-up documents, each with one of RAG_INSTRUCTIONS in turn."""
    asked = list(RAG_INSTRUCTIONS.items())
    return [
        Sample(
            id=f"rag-{place}",
            input=question.prompt,
            target=question.value,
            metadata={
                "category": asked[place % len(asked)][1][0],
                "alignment": _by(asked[place % len(asked)][0]),
                "instruction": dict(zip(("kind", "arguments"), asked[place % len(asked)][1], strict=True)),
                "fact": question.value,
            },
        )
        for place, question in enumerate(fact_questions(count, seed=seed))
    ]


def documents_with_tones(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """The same questions with the presets in turn: is the fact still there?"""
    names = list(PRESETS)
    return [
        Sample(
            id=f"tone-{place}",
            input=question.prompt,
            target=question.value,
            metadata={
                "category": names[place % len(names)],
                "alignment": names[place % len(names)],
                "fact": question.value,
            },
        )
        for place, question in enumerate(fact_questions(count, seed=seed + 1))
    ]


def borderline(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """Safe requests that sound dangerous, and a third as many for which a refusal is right."""
    unsafe = max(1, count // 4)
    drawn = _drawn(SAFE_REQUESTS, count - unsafe, seed) + _drawn(UNSAFE_REQUESTS, unsafe, seed)
    return [
        Sample(
            id=f"{'safe' if request.safe else 'unsafe'}-{name}",
            input=request.prompt,
            metadata={"category": request.category, "safe": request.safe},
        )
        for name, request in drawn
    ]


def bookings(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """Requests that a call of a tool answers."""
    return [
        Sample(
            id=f"call-{place}",
            input=booking.prompt,
            metadata={"category": None, "tool": dict(booking.tool), "wanted": dict(booking.wanted)},
        )
        for place, booking in enumerate(table_bookings(count, seed=seed))
    ]


def people(rows: Sequence[Row], count: int, seed: int) -> list[Sample]:
    """Short texts about a person, to be extracted as JSON."""
    return [
        Sample(
            id=f"json-{place}",
            input=profile.prompt,
            metadata={"category": None, "schema": dict(profile.schema), "wanted": dict(profile.wanted)},
        )
        for place, profile in enumerate(profiles(count, seed=seed))
    ]


def _drawn(rows: Sequence[T], count: int, seed: int) -> list[tuple[str, T]]:
    """Some of the rows, drawn by a seed, under the names of their places; the first of them are drawn of any count."""
    places = list(range(len(rows)))
    random.Random(seed).shuffle(places)  # noqa: S311 - no secret
    return [(str(place), rows[place]) for place in places[:count]]


def _text(row: Row, *names: str) -> str:
    for name in names:
        if isinstance(value := row.get(name), str) and value:
            return value
    raise ConfigError(
        f"A sample has no {names[0]!r}: its fields are {', '.join(map(str, row))}. Give the data set that the task "
        f"is made for."
    )


def _answers(row: Row, *names: str) -> list[str]:
    for name in names:
        value = row.get(name)
        if isinstance(value, str):
            return [answer.strip() for answer in value.split(";") if answer.strip()]
        if isinstance(value, list):
            return [str(answer) for answer in value]
    return [_text(row, *names)]


def _kind(row: Row) -> str:
    kinds = row.get("instruction_id_list")
    return str(kinds[0]) if isinstance(kinds, list) and len(kinds) == 1 else ""


def _instruction(query: str, whole: str) -> str:
    """What a prompt says beside its query."""
    return whole.removeprefix(query.rstrip()).strip() if whole.startswith(query.rstrip()) else whole


def _by(instruction: str) -> dict[str, str]:
    """An alignment by an instruction, as plain data."""
    return {"instruction": instruction, "name": "instruction"}


def _avoided(kind: str, arguments: Mapping[str, object]) -> str | None:
    """What to steer away from in place of following an instruction, where it forbids words."""
    words = arguments.get("forbidden_words")
    if kind != "keywords:forbidden_words" or not isinstance(words, list):
        return None
    return f"Include the keyword {', '.join(map(str, words))}."
