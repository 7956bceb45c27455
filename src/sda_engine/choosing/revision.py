"""Revisions: how a base response is decoded again, and what a revision has to keep of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from sda_engine.choosing.values import missing_values, values_of, without_questions
from sda_engine.settings import Settings

Sight = Literal["chat", "answer"]


class Revision(Settings):
    """How one revision is decoded.

    Attributes:
        factor: what the request's strength is multiplied by.
        budget: nats that it may go from the base distribution, in all; None for no limit.
        reserve: nats that are added when it would end for the first time; None for no limit.
        sees: what it is decoded from: "chat", with the base response in it, or "answer", the base response alone.
            Without documents to draw from, more of what the base response says stays.
        goes_on: whether it has to go on there. With a budget of 0 it then says what the base response says, and more.
    """

    sees: Sight = Field(default="chat", description="'chat' or 'answer'")
    factor: float = Field(default=1.0, ge=0, description="a number of at least 0")
    budget: float | None = Field(default=None, ge=0, description="a number of at least 0, in nats, or None")
    reserve: float | None = Field(default=0.0, ge=0, description="a number of at least 0, in nats, or None")
    goes_on: bool = Field(default=False, description="True or False")


# The smallest set that kept all facts and followed most, of those measured (docs/measured.md)
REVISIONS = (
    Revision(sees="answer", factor=0.5),
    Revision(factor=2.0, budget=12.0),
    Revision(factor=2.0, budget=24.0),
    Revision(factor=1.0, budget=0.0, reserve=None, goes_on=True),
)


@dataclass(frozen=True)
class KeepCheck:
    """What a rule that says whether a revision may stand gets to see.

    Attributes:
        messages: the chat, as the user wrote it.
        base_response: the answer of the base context.
        response: the revision.
    """

    messages: Sequence[Mapping[str, object]]
    base_response: str
    response: str


KeepRule = Callable[[KeepCheck], bool]


def keeps_values(check: KeepCheck) -> bool:
    """Whether a revision holds every value that the base response took from the chat."""
    return not lost_values(check)


def keeps_nothing(check: KeepCheck) -> bool:
    """That any revision may stand."""
    return True


KEEP_RULES: Mapping[str, KeepRule] = MappingProxyType({"values": keeps_values, "nothing": keeps_nothing})


def lost_values(check: KeepCheck) -> tuple[str, ...]:
    """The values that a base response took from the chat, but for what is asked last, and a revision does not hold."""
    texts = [str(message.get("content") or "") for message in check.messages]
    last = max((place for place, message in enumerate(check.messages) if message.get("role") == "user"), default=None)
    if last is None:
        return missing_values(check.response, values_of(check.base_response, texts))
    question, texts[last] = texts[last], without_questions(texts[last])
    return missing_values(check.response, values_of(check.base_response, texts, question))
