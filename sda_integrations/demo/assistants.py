"""What the demo asks of a framework: find passages, and answer from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sda_engine import Alignment, Sampling, Steering

PASSAGES_PER_QUESTION = 2


@dataclass(frozen=True)
class AnswerSettings:
    """How every answer of the demo is decoded."""

    steering: Steering
    sampling: Sampling


class Assistant(Protocol):
    """An application that answers from the passages, built with one framework."""

    name: str
    pipeline: str

    def find(self, question: str) -> Sequence[str]:
        """The passages that fit the question, best first."""
        ...

    def answer(self, question: str, alignment: Alignment | None) -> str:
        """Find passages, and answer from them."""
        ...
