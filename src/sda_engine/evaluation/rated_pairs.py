"""RatedPair: a chat, a response to it, and what a person said of the response; read from a file of JSON lines."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from sda_engine.alignment import Alignment, AlignmentLike, resolve_alignment
from sda_engine.errors import ConfigError
from sda_engine.evaluation.json_lines import read_json_lines
from sda_engine.prompts import normalise_messages
from sda_engine.settings import Settings

_EXAMPLE = '{"query": "...", "response": "...", "label": true}'


class RatedPair(Settings):
    """A response to be rated.

    Attributes:
        messages: the chat that it answers.
        response: its text.
        alignment: what it is rated for.
        label: whether a person finds it acceptable; None where nobody said.
        score: a person's rating, 1..100; None where there is none.
    """

    messages: tuple[dict[str, object], ...] = Field(min_length=1, description="a tuple of at least one message")
    response: str = Field(description="a text")
    alignment: Alignment = Field(description="an Alignment")
    label: bool | None = Field(default=None, description="True, False or None")
    score: float | None = Field(default=None, ge=1, le=100, description="a number from 1 to 100, or None")

    @property
    def prompt(self) -> str:
        """What identifies the chat: pairs that share it are no independent observations."""
        return json.dumps(self.messages, sort_keys=True)


class PairLine(Settings):
    """One line of a file of pairs."""

    query: str | None = Field(default=None, min_length=1, description="a text of at least one character")
    messages: list[dict[str, object]] | None = Field(default=None, description="a list of chat messages")
    response: str = Field(description="a text")
    label: bool | None = Field(default=None, description="true or false, for acceptable or not")
    score: float | None = Field(default=None, ge=1, le=100, description="a person's rating, a number from 1 to 100")
    alignment: str | dict[str, float] | None = Field(
        default=None, description="a preset's name or an instruction, as text, or several with their weights"
    )

    @model_validator(mode="after")
    def _has_one_prompt(self) -> Self:
        if (self.query is None) == (self.messages is None):
            raise ConfigError(
                'The prompt must be given as "query": a text, or as "messages": a list of chat messages; one of the '
                "two, and not both."
            )
        return self


def read_pairs(path: Path, alignment: AlignmentLike, *, limit: int | None = None) -> list[RatedPair]:
    """The pairs of a file, one JSON object a line.

    A line is {"query": ..., "response": ...} with, optionally, "label" (true or false), "score" (1..100) and
    "alignment" (a text, or an object of texts and weights); "messages" may stand in place of "query". Blank lines are
    skipped.

    Args:
        path: the file, in UTF-8.
        alignment: what the responses are rated for where a line does not say.
        limit: only the first so many pairs; None for all.

    Raises:
        ConfigError: the file cannot be read or holds no pair, or a line is malformed: its number is told.
    """
    default = _alignment(alignment)
    return read_json_lines(path, lambda record: _pair(record, default), what="pair", example=_EXAMPLE, limit=limit)


def _pair(record: Mapping[str, object], default: Alignment) -> RatedPair:
    given = PairLine.of_values(record)
    messages = [{"role": "user", "content": given.query}] if given.messages is None else given.messages
    return RatedPair(
        messages=tuple(normalise_messages(messages)),
        response=given.response,
        alignment=default if given.alignment is None else _alignment(given.alignment),
        label=given.label,
        score=given.score,
    )


def _alignment(given: AlignmentLike) -> Alignment:
    alignment = resolve_alignment(given)
    if alignment is None:
        raise ConfigError("Responses cannot be rated for alignment=None: name what for, e.g. 'honesty'.")
    return alignment
