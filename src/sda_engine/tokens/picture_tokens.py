"""Token ids that stand for places in pictures, and pictures as a model reads them.

In a vocabulary all tokens of all pictures are one and the same. Ours tell which picture they are of, and which of its
tokens: below 0, so that they are no token of any vocabulary. Whatever compares texts by their tokens, the prefix store
say, then tells pictures apart, and knows one again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

_PLACES = 2**20  # tokens of one picture that can be told apart


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture as a model's processor hands it on.

    Attributes:
        number: which picture it is, among all that the engine knows.
        tokens: image tokens that it takes.
        inputs: the model's inputs for a chat with this picture, and hardly anything else: token ids, pixel values, ...
        both_ways: whether its tokens attend to each other in both directions.
    """

    number: int
    tokens: int
    inputs: Mapping[str, Tensor]
    both_ways: bool

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs."""
        return sum(value.nbytes for value in self.inputs.values())


@dataclass(frozen=True)
class PictureSpan:
    """Neighbouring tokens of one picture.

    Attributes:
        start, stop: where they are, among the tokens that were looked through.
        number: of the picture.
        first: which of the picture's tokens is the first of them.
    """

    start: int
    stop: int
    number: int
    first: int


def picture_token_id(number: int, place: int) -> int:
    """What stands for a token of a picture.

    Args:
        number: of the picture.
        place: of the token in it, below 2**20.
    """
    assert 0 <= place < _PLACES, place
    return -(number * _PLACES + place) - 1


def is_of_picture(token_id: int) -> bool:
    """Whether a token id stands for a place in a picture."""
    return token_id < 0


def text_of_prompt(token_ids: Sequence[int]) -> list[int]:
    """The token ids without those of pictures."""
    return [token_id for token_id in token_ids if not is_of_picture(token_id)]


def picture_spans(token_ids: Sequence[int]) -> Iterator[PictureSpan]:
    """The runs of picture tokens; one ends where the picture does, or something stands between its tokens."""
    start, expected = 0, 0
    for place, token_id in enumerate(token_ids):
        if token_id != expected or not is_of_picture(token_id):
            if is_of_picture(expected) and start < place:
                yield _span(token_ids, start, place)
            start = place
        expected = token_id - 1 if is_of_picture(token_id) else 0
    if is_of_picture(expected) and start < len(token_ids):
        yield _span(token_ids, start, len(token_ids))


def _span(token_ids: Sequence[int], start: int, stop: int) -> PictureSpan:
    number, first = divmod(-token_ids[start] - 1, _PLACES)
    return PictureSpan(start, stop, number, first)
