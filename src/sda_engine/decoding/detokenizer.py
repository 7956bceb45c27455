"""Token ids to text while they arrive: characters are never split, stop strings are found across tokens."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"  # what a tokenizer shows for bytes that are no character, or not yet
_UNFINISHED = 3  # of them that may still become a character, which has at most four bytes
_MOST_HELD = 16  # tokens that are decoded again with each new one in a run of broken characters


class Detokenizer:
    """Turns a growing list of tokens into text, piece by piece.

    A token's text can depend on the ones before it (spaces, characters of several tokens), so each step decodes the new
    tokens behind some that have been given out, and gives out the difference. What ends in an unfinished character is
    held back, but no more of it than a character can have.

    Args:
        decode: token ids to text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []  # tokens before the new ones, all given out
        self._before = ""  # what they decode to
        self._new: list[int] = []
        self._given = 0  # characters of the new tokens that have been given out

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; "" inside a character."""
        self._new.append(token_id)
        text = self._text(self._new)
        if not text.endswith(_REPLACEMENT):
            return self._give_out(text)
        broken = len(text) - len(text.rstrip(_REPLACEMENT))
        certain = max(self._given, len(text) - min(broken, _UNFINISHED))
        piece, self._given = text[self._given : certain], certain
        if len(self._new) >= _MOST_HELD:
            self._move_on(text[:certain])
        return piece

    def flush(self) -> str:
        """What is left at the end, an unfinished character included."""
        return self._give_out(self._text(self._new))

    def _text(self, new: Sequence[int]) -> str:
        text = self._decode([*self._context, *new])
        if _REPLACEMENT in text[: len(self._before)] and not text.startswith(self._before):
            return self._decode(new)  # some tokenizers unmake whole characters where bytes that are none follow
        return text[len(self._before) :]

    def _give_out(self, text: str) -> str:
        piece = text[self._given :]
        if text:
            self._make_context(len(self._new), len(text))
        elif len(self._new) >= _MOST_HELD:  # tokens without a text: one more of them changes nothing
            self._new.pop()
        return piece

    def _move_on(self, certain: str) -> None:
        """Make as many of the new tokens context as have a certain text, and the same one wherever they stand."""
        for count in range(len(self._new) - 1, 0, -1):
            alone = self._decode(self._new[:count])
            if certain.startswith(alone) and self._text(self._new[:count]) == alone:
                self._make_context(count, len(alone))
                return
        self._new.pop()  # an unfinished character, and so many tokens without a text

    def _make_context(self, count: int, characters: int) -> None:
        """The first new tokens, which decode to so many characters, become what later ones are decoded behind."""
        self._context, self._new = self._new[:count], self._new[count:]
        self._before = self._decode(self._context)
        self._given = max(0, self._given - characters)


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
