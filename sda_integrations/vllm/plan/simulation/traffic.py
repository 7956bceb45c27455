"""Who asks: users who talk to a model turn by turn, and think in between."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random


@dataclass(frozen=True)
class Traffic:
    """What users do.

    Attributes:
        opening: tokens that a conversation begins with, a document say.
        question: tokens of each turn's question, the chat template's included.
        answer: mean tokens of an answer.
        turns: of a conversation, after which its user begins another one.
        pause: mean seconds between an answer and the next question.
    """

    opening: int = 600
    question: int = 60
    answer: int = 120
    turns: int = 6
    pause: float = 8.0


@dataclass(frozen=True)
class Request:
    """One turn.

    Attributes:
        user: who asks; one at a time.
        conversation: whose earlier turns the prompt begins with.
        prompt: tokens of the base prompt.
        answer: tokens that will be decoded.
    """

    user: int
    conversation: int
    prompt: int
    answer: int


def turns_of(user: int, traffic: Traffic, seed: int) -> Iterator[tuple[float, Request]]:
    """A user's turns without end, each with the seconds before it: the same for the same seed."""
    random = Random(f"{seed} {user}")  # noqa: S311 - a simulation
    for number in count():
        prompt = traffic.opening
        for _ in range(traffic.turns):
            prompt += traffic.question
            answer = 1 + round(random.expovariate(1 / traffic.answer))
            # Conversations are numbered so that no two users have one in common
            yield random.expovariate(1 / traffic.pause), Request(user, user + number * 1_000_000, prompt, answer)
            prompt += answer
