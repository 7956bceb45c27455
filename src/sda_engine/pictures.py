"""Pictures of a chat, as the engine works with them."""

import hashlib
from dataclasses import dataclass
from typing import Self

from PIL import Image, ImageStat


@dataclass(frozen=True)
class Picture:
    """A picture, loaded, and what tells it from others.

    Attributes:
        image: in RGB.
        digest: hexadecimal, of its size and its pixels.
    """

    image: Image.Image
    digest: str

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """A picture that is in memory."""
        loaded = image.convert("RGB")
        return cls(loaded, hashlib.sha256(repr(loaded.size).encode() + loaded.tobytes()).hexdigest())


def blanked(picture: Picture) -> Picture:
    """A picture of the same size that shows nothing: all of it has the other's mean colour."""
    mean = ImageStat.Stat(picture.image).mean
    return Picture.of(Image.new("RGB", picture.image.size, tuple(round(value) for value in mean)))
