"""EngineSettings: how one engine shares its machine between requests."""

from pydantic import Field

from sda_engine.pictures import PictureLimits
from sda_engine.settings import Settings


class EngineSettings(Settings):
    """How many requests run at once, what they may keep in memory, and how decoding is sped up.

    None of it changes what a greedy request answers in float32.

    Attributes:
        max_rows: rows that share a forward pass; a steered request has two, or three with `avoid`. Requests that come
            while there are as many wait.
        max_requests: requests that may run, wait or be rated; one more is refused with QueueFullError. None: however
            many there are, each waits for its turn, for as long as its timeout allows.
        cache_tokens: tokens whose keys and values the engine may hold, those of waiting scores and of stored prefixes
            included; what several begin with counts once. None: what fits in half of the memory that is free when the
            engine is made. A request takes part as soon as there is room for its prompts and a little more. Where
            memory runs out, stored prefixes go first, then the rows of requests whose evaluators work, then those of
            the youngest request: they are computed again later. One that alone might need more, with its
            `max_new_tokens`, is refused with CapacityError.
        prefix_cache: whether keys and values of prompts and answers are kept for prompts that begin alike. They take
            at most half of `cache_tokens`, and the least recently used go first.
        proposals: how many tokens at most are proposed from the prompt and verified in one forward pass; 0 for none.
        prefill_chunk: tokens of new prompts that a forward pass takes while others decode.
        max_pictures: pictures that the messages of a request may hold; 0 refuses them all.
        max_picture_pixels: width times height of a picture. It is looked at before the picture is unpacked, which takes
            three bytes a pixel.
        max_picture_bytes: bytes of a picture's file.
    """

    max_rows: int = Field(default=64, ge=3, description="a whole number of at least 3")
    max_requests: int | None = Field(default=None, ge=1, description="a whole number of at least 1, or None")
    cache_tokens: int | None = Field(default=None, ge=1, description="a whole number of at least 1, or None")
    prefix_cache: bool = Field(default=True, description="True or False")
    proposals: int = Field(default=8, ge=0, le=64, description="a whole number from 0 to 64")
    prefill_chunk: int = Field(default=128, ge=1, description="a whole number of at least 1")
    max_pictures: int = Field(default=8, ge=0, description="a whole number of at least 0")
    max_picture_pixels: int = Field(default=32_000_000, ge=1, description="a whole number of at least 1")
    max_picture_bytes: int = Field(default=20_000_000, ge=1, description="a whole number of at least 1")

    @property
    def picture_limits(self) -> PictureLimits:
        """What the pictures of a request may be like."""
        return PictureLimits(most=self.max_pictures, pixels=self.max_picture_pixels, bytes=self.max_picture_bytes)
