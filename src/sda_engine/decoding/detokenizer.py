"""Token ids to text while they arrive: characters are never split, stop strings are found across tokens."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"  # what a tokenizer shows for an incomplete character


class Detokenizer:
    """Turns a growing list of tokens into text, piece by piece.

    A token's text can depend on the ones before it (spaces, characters of several tokens), so each step decodes a
    short window with and without the new tokens and gives out the difference.

    Args:
        decode: token ids to text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0  # where the decoded window begins
        self._done = 0  # tokens before this have been given out

    def push(self, token_id: int) -> str:
        """The text that became complete with this token; "" inside a character."""
        self._ids.append(token_id)
        text = self._pending()
        if text.endswith(_REPLACEMENT):
            return ""
        return self._give_out(text)

    def flush(self) -> str:
        """What is left at the end, an incomplete character included."""
        return self._give_out(self._pending())

    def _pending(self) -> str:
        before = self._decode(self._ids[self._window : self._done])
        return self._decode(self._ids[self._window :])[len(before) :]

    def _give_out(self, text: str) -> str:
        if text:
            self._window, self._done = self._done, len(self._ids)
        return text


class StopChecker:
    """Finds the first stop string in a text that arrives in pieces, and holds back what may become one.

    Args:
        stop: the strings that end the text; none of them empty.
        may_end: told how the text goes on up to a stop string, whether it may end there; None for a text that may end
            anywhere. What it was told once it is not told again.
    """

    def __init__(self, stop: Sequence[str], may_end: Callable[[str], bool] | None = None) -> None:
        self._stop = tuple(stop)
        self._may_end = may_end
        self._held = ""
        self._untold = ""  # given out, and not told to `may_end`
        self._told = 0  # characters of what is held back that `may_end` was told of
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is safe to give out. After a stop string was found, nothing more is."""
        if self.stopped:
            return ""
        text = self._held + text
        end = self._end(text)
        if end is not None:
            self.stopped, self._held = True, ""
            return text[:end]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        given = len(text) - keep
        self._held = text[given:]
        if self._may_end is not None:
            self._untold += text[self._told : given]
            self._told = max(0, self._told - given)
        return text[:given]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _end(self, text: str) -> int | None:
        """The place of the first stop string that ends the text."""
        places = {place for stop in self._stop for place in _places(text, stop)}
        if self._may_end is None:
            return min(places, default=None)
        for place in sorted(place for place in places if place >= self._told):
            more, self._untold = self._untold + text[self._told : place], ""
            self._told = place
            if self._may_end(more):
                return place
        return None


def _places(text: str, part: str) -> list[int]:
    """Where a text holds a part, overlaps included."""
    places, place = [], text.find(part)
    while place >= 0:
        places.append(place)
        place = text.find(part, place + 1)
    return places


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
