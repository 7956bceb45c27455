"""What a revision has to keep of a base response."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sda_engine.choosing.values import facts_of, values_of, without_questions
from sda_engine.choosing.words import words_of
from sda_engine.contents import plain_text

_REQUEST = 60  # words up to which one line that asks nothing by a question mark is all request, and holds no documents
_BRIEF = 40  # words up to which an answer to a question is its answer, and nothing composed


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
KEPT = ("values", "nothing")
"""What a revision must keep, by name: see `values_to_keep`."""


def values_to_keep(messages: Sequence[Mapping[str, object]], base_response: str) -> tuple[str, ...]:
    """What a base response says that must stay.

    That is what it took word for word from the chat, but for what is asked last. Where the chat holds nothing to take
    from, a brief answer to a question has to keep its names and numbers; and what was composed, as a poem is, nothing.
    """
    texts = [plain_text(message.get("content")) for message in messages]
    users = [place for place, message in enumerate(messages) if message.get("role") == "user"]
    if not users:
        return values_of(base_response, texts)
    asked = texts[users[-1]]
    texts[users[-1]] = beside = without_questions(asked)
    if beside == asked and "\n" not in asked.strip() and len(words_of(asked)) <= _REQUEST:
        del texts[users[-1]]
    if any(words_of(text) for text in texts):
        return values_of(base_response, texts, asked)
    return facts_of(base_response, asked) if beside != asked and len(words_of(base_response)) <= _BRIEF else ()
