"""The turns of a chat in the form in which a chat template takes them."""

from collections.abc import Callable, Mapping, Sequence

from sda_engine.models import TurnRules, find_turn_rules

Turn = Mapping[str, object]
Render = Callable[[Sequence[Turn], str], object]

_PROBE = "text-of-the-user"


class FittedTurns:
    """Fits turns to chat templates, each of which is tried out once. One thread at a time.

    Args:
        render: writes a chat by a template, and raises what it likes where the template refuses it.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._rules: dict[str, TurnRules] = {}  # by template
        self._takes_text: dict[str, bool] = {}  # likewise: whether a turn's content may be a text

    def fit(self, turns: Sequence[Turn], template: str) -> list[Turn]:
        """The turns, those that the template does not take brought into a form that it takes; see `TurnRules`."""
        if template not in self._rules:
            self._try_out(template)
        fitted = self._rules[template].fit(turns)
        return fitted if self._takes_text[template] else [_in_parts(turn) for turn in fitted]

    def _try_out(self, template: str) -> None:
        # templates of models that see may take turns in parts alone, and leave a text out without a word
        in_text, in_parts = ([{"role": "user", "content": content}] for content in (_PROBE, parts_of(_PROBE)))
        takes_text = self._writes(in_text, template) or not self._writes(in_parts, template)
        self._takes_text[template] = takes_text
        self._rules[template] = find_turn_rules(
            lambda chat: self._render(chat if takes_text else [_in_parts(turn) for turn in chat], template)
        )

    def _writes(self, chat: Sequence[Turn], template: str) -> bool:
        """Whether a template writes the probe in a chat."""
        try:
            return _PROBE in str(self._render(chat, template))
        except Exception:  # noqa: BLE001 - a template is foreign code: whatever it raises is a refusal
            return False


def parts_of(content: object) -> Sequence[Mapping[str, object]]:
    """A content in parts; a text is one, and an empty text none."""
    if isinstance(content, (list, tuple)):
        return content
    return [{"type": "text", "text": content}] if content else []


def texts_of(content: object) -> list[str]:
    """The texts of a content, without its pictures."""
    return [str(part["text"]) for part in parts_of(content) if part["type"] == "text"]


def _in_parts(turn: Turn) -> dict[str, object]:
    """A turn whose content is a list of parts."""
    return {**turn, "content": list(parts_of(turn["content"]))}
