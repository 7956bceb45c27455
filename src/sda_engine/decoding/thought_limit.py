"""How many tokens an answer may think with, and what closes a thought that has had them.

`Sampling.max_reasoning_tokens` asks for it. A thought that is cut gets its closing marker and nothing else: no word is
put into the model's mouth.
"""

from collections.abc import Sequence

from sda_engine.config import Region


class ThoughtLimit:
    """Counts the tokens of the thoughts in one answer.

    Args:
        most: tokens that they may have together, a marker that is forced apart.
        marker: the tokens that close a thought.
    """

    def __init__(self, most: int, marker: Sequence[int]) -> None:
        self.most = most
        self.thought = 0  # tokens so far
        self._marker = tuple(marker)
        self._is_closed = False

    def take(self, region: Region) -> None:
        """Take note of a token that was appended, and of the region that it belongs to."""
        if region != "thought":
            self._is_closed = False
        elif not self._is_closed:
            self.thought += 1

    def closing(self, token_ids: Sequence[int], region: Region) -> Sequence[int]:
        """The tokens that must come next, since a thought is to be closed; none where it may go on, or there is none.

        Where the model has begun to write the marker, they are the rest of it.

        Args:
            token_ids: the answer so far.
            region: what its next token would belong to.
        """
        if region != "thought" or self._is_closed or self.thought < self.most:
            return ()
        begun = min(len(self._marker) - 1, self.thought)
        while begun and tuple(token_ids[-begun:]) != self._marker[:begun]:
            begun -= 1
        return self._marker[begun:]

    def close(self) -> None:
        """Take note that those tokens come next; they count as no thought."""
        self._is_closed = True
