"""Which turns a chat template takes, and chats that are made to fit it.

Some templates refuse a system turn (Gemma 1 and 2), some leave one out without a word (the first of Phi 3), and some
want user and assistant to alternate (Gemma 3, Mistral). No list of models is needed: a template is tried out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

from sda_engine.contents import Content, joined

Turn = Mapping[str, object]

_BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class TurnRules:
    """What a chat template takes.

    Attributes:
        takes_system: whether a chat may begin with a system turn.
        takes_bare_system: whether it may do so where no user turn stands behind that one.
        takes_later_system: whether further system turns may follow.
        joined: the roles of which no two turns may follow each other.
    """

    takes_system: bool
    takes_bare_system: bool
    takes_later_system: bool
    joined: frozenset[str]

    def fit(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns as the template takes them; those that it takes already stay as they are.

        The text of a system turn that it does not take goes to the head of the user turn behind it, or into a user turn
        of its own where none stands there. A blank line is between all texts that come together.
        """
        turns = merge_leading_system(turns)
        kept = 0
        if turns[0]["role"] != "system" or self._takes_first(turns):
            kept = len(turns) if self.takes_later_system else int(turns[0]["role"] == "system")
        return _join_neighbours([*turns[:kept], *_system_as_user(turns[kept:])], self.joined)

    def _takes_first(self, turns: Sequence[Turn]) -> bool:
        """Whether the system turn at the start can stay."""
        before_user = len(turns) > 1 and turns[1]["role"] == "user"
        return self.takes_system if before_user else self.takes_bare_system


def find_turn_rules(render: Callable[[list[dict[str, str]]], object]) -> TurnRules:
    """Try out a chat template on short chats.

    Args:
        render: writes a chat by the template, and raises what it likes where the template refuses it.
    """

    def takes(*roles: str) -> bool:
        chat = [{"role": role, "content": f"text-{place}-of-the-{role}"} for place, role in enumerate(roles)]
        try:
            text = str(render(chat))
        except Exception:  # noqa: BLE001 - a template is foreign code: whatever it raises is a refusal
            return False
        return all(turn["content"] in text for turn in chat)

    system = takes("system", "user")
    repeats = {"user": ("user", "user"), "assistant": ("user", "assistant", "assistant", "user")}
    return TurnRules(
        takes_system=system,
        takes_bare_system=system and takes("system") and takes("system", "assistant", "user"),
        takes_later_system=system and takes("system", "user", "assistant", "system", "user"),
        joined=frozenset(role for role, chat in repeats.items() if not takes(*chat)),
    )


def merge_leading_system(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with the system turns at the start as one, since most chat templates know one system turn."""
    leading = list(takewhile(lambda turn: turn["role"] == "system", turns))
    if len(leading) < 2:
        return list(turns)
    return [_joined(leading), *turns[len(leading) :]]


def _system_as_user(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with each system turn at the head of the user turn behind it, or as a user turn in its place."""
    fitted: list[Turn] = []
    behind_system = False
    for turn in turns:
        is_system = turn["role"] == "system"
        if behind_system and (is_system or turn["role"] == "user"):
            fitted[-1] = _joined([fitted[-1], turn])
        else:
            fitted.append({**turn, "role": "user"} if is_system else turn)
        behind_system = is_system
    return fitted


def _join_neighbours(turns: Sequence[Turn], roles: frozenset[str]) -> list[Turn]:
    """The turns with neighbours of one of these roles as one; one that calls tools stays alone, as templates want."""
    joined: list[Turn] = []
    for turn in turns:
        alike = joined and turn["role"] in roles and turn["role"] == joined[-1]["role"]
        if alike and not turn.get("tool_calls") and not joined[-1].get("tool_calls"):
            joined[-1] = _joined([joined[-1], turn])
        else:
            joined.append(turn)
    return joined


def _joined(turns: Sequence[Turn]) -> Turn:
    """One turn of several of a role, with a blank line between their contents."""
    if len(turns) == 1:
        return turns[0]
    contents = [cast(Content, turn["content"]) for turn in turns if turn["content"]]
    return {**turns[0], "content": joined(contents, _BLANK_LINE)}
