"""What the rows of a prompt need of its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from sda_engine.tokens import PreparedPicture, is_of_picture


@dataclass(eq=False)
class RowPictures:
    """The pictures of one prompt; the rows that begin with it share this.

    Attributes:
        prompt: the token ids of the prompt.
        pictures: number -> the picture, of all that are in it.
        positions: (axes, prompt tokens) where tokens stand in time, height and width, in models that know such; None
            in others, and until the first pass has worked them out.
    """

    prompt: Sequence[int]
    pictures: Mapping[int, PreparedPicture]
    positions: Tensor | None = None

    def __post_init__(self) -> None:
        self._blocks: list[tuple[int, int]] = []  # that attend to themselves in both directions
        if any(picture.both_ways for picture in self.pictures.values()):
            for is_picture, run in groupby(range(len(self.prompt)), lambda place: is_of_picture(self.prompt[place])):
                if is_picture:
                    places = list(run)
                    self._blocks.append((places[0], places[-1] + 1))

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The runs of tokens between two places that attend to each other in both directions: start and stop of each.

        One pass reads such a run as a whole.
        """
        return [block for block in self._blocks if block[0] < stop and block[1] > start]

    def end_of_piece(self, start: int, stop: int) -> int:
        """Where a piece of the prompt from `start` on is to end, so that it cuts no such run: about at `stop`."""
        for first, end in self.blocks(stop - 1, stop + 1):
            if first < stop < end:
                return first if first > start else end
        return stop
