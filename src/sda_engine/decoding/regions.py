"""Which part of an answer its next token belongs to: a thought, text, a call, or JSON by a schema."""

from collections.abc import Mapping

from transformers.utils.chat_parsing.response_templates import load_response_template

from sda_engine.config import Region

_FIELDS: Mapping[str, Region] = {  # of a response template
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "thought"),
    "tool_calls": "call",
}
_LONGEST = 256  # characters of a marker at most
_MORE = "\0"  # stands for the rest of the answer, so that no pattern takes what there is for all of it


def closes_thoughts(response_template: Mapping[str, object] | None, marker: str) -> bool:
    """Whether a marker closes the thoughts in answers that are read by a response template."""
    template = None if response_template is None else load_response_template(dict(response_template))
    fields = {} if template is None else template.fields
    patterns = [field.close_re for name, field in fields.items() if _FIELDS.get(name) == "thought"]
    found = [None if pattern is None else pattern.search(marker + _MORE) for pattern in patterns]
    return bool(found) and all(match is not None and match.end() <= len(marker) for match in found)


class Regions:
    """Finds the markers in the text of an answer as soon as they are whole.

    A response parser tells of some of them a character late, since white space that belongs to them may follow. Here
    the token behind a marker is in the region that the marker opens, and white space after it likewise.

    Args:
        response_template: what opens and closes thoughts and calls; None for text alone.
        prefix: what the prompt has already written of the answer.
        outside: the region of what is neither thought nor call.
    """

    def __init__(self, response_template: Mapping[str, object] | None, prefix: str, outside: Region) -> None:
        template = None if response_template is None else load_response_template(dict(response_template))
        fields = {} if template is None else template.fields
        self._openings = {name: field.open_re for name, field in fields.items() if field.open_re is not None}
        self._closings = {name: field.close_re for name, field in fields.items()}
        self._outside = outside
        self._field: str | None = None  # the one that is open
        self._text = ""
        self._behind = 0  # where the next marker is looked for: not before the end of the last one
        self.push(prefix)

    @property
    def here(self) -> Region:
        """The region of the next token."""
        return self._outside if self._field is None else _FIELDS.get(self._field, self._outside)

    @property
    def possible(self) -> frozenset[Region]:
        """All regions that this answer may have."""
        return frozenset([self._outside, *(_FIELDS[name] for name in self._openings if name in _FIELDS)])

    def push(self, text: str) -> None:
        """Take more of the answer's text, as the response parser gets it."""
        if not self._openings:
            return
        self._text += text
        while (found := self._next_marker()) is not None:
            self._field, self._behind = found
        self._behind = max(self._behind, len(self._text) - _LONGEST)

    def _next_marker(self) -> tuple[str | None, int] | None:
        """The field that the first whole marker opens, None where it closes one, and where it ends."""
        watched = self._openings if self._field is None else {None: self._closings[self._field]}
        text, whole = self._text + _MORE, len(self._text)
        matches = [
            (match.start(), name, match.end())
            for name, pattern in watched.items()
            if pattern is not None and (match := pattern.search(text, self._behind)) is not None
            if match.start() < match.end() <= whole
        ]
        if not matches:
            return None
        _, name, end = min(matches, key=lambda match: match[0])
        return name, end
