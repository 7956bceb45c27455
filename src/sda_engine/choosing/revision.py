"""Revisions: how a base response is decoded again."""

from typing import Literal

from pydantic import Field

from sda_engine.settings import Settings

Sight = Literal["chat", "answer", "question"]


class Revision(Settings):
    """How one revision is decoded.

    Attributes:
        sees: what it is decoded from: "chat", with the base response in it; "answer", the base response alone, so that
            there are no documents to draw from, and more of what it says stays; or "question", the chat as it was
            asked, which makes it an answer of its own.
        factor: what the request's strength is multiplied by.
        budget: nats that it may go from the base distribution, in all; None for no limit.
        reserve: nats that are added when it would end for the first time; None for no limit.
        goes_on: whether it has to go on there. With a budget of 0 it then says what the base response says, and more.
    """

    sees: Sight = Field(default="chat", description="'chat', 'answer' or 'question'")
    factor: float = Field(default=1.0, ge=0, description="a number of at least 0")
    budget: float | None = Field(default=None, ge=0, description="a number of at least 0, in nats, or None")
    reserve: float | None = Field(default=0.0, ge=0, description="a number of at least 0, in nats, or None")
    goes_on: bool = Field(default=False, description="True or False")


# The smallest sets that kept most facts and followed most, of those measured (docs/measured.md): where the base
# response holds what must stay, and where it holds nothing of the kind, as a poem does not.
REVISIONS = (
    Revision(sees="answer", factor=0.5),
    Revision(factor=2.0, budget=12.0),
    Revision(factor=2.0, budget=24.0),
    Revision(factor=1.0, budget=0.0, reserve=None, goes_on=True),
)
FREE_REVISIONS = (
    Revision(sees="question", factor=0.5),
    Revision(sees="question", factor=1.0),
    Revision(sees="answer", factor=1.0),
)
