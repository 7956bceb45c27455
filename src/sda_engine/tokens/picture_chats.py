"""Chats with pictures as token ids, by the processor of a model that sees."""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from sda_engine.contents import pictures_of
from sda_engine.errors import MessageError
from sda_engine.pictures import Picture
from sda_engine.tokens.picture_tokens import PreparedPicture, picture_token_id

_MOST_BYTES = 256 * 2**20  # of prepared pictures that are kept
_MOST_NUMBERS = 65_536  # pictures that are known again
_LOOK = "Look."

Turns = Sequence[Mapping[str, object]]
_Known = tuple[bytes | None, str]  # the salt, and the digest of a picture


class PictureChats:
    """Prepares pictures and renders chats with them. One thread at a time.

    A picture is prepared once for each salt, and kept for a while; what is kept is bounded. Under each salt it is
    another picture, of a number of its own: so whatever goes by numbers, the features that a model made of it say,
    tells nobody whether a picture was sent by somebody of another salt.

    Args:
        processor: of the model; a copy of it is used.
        tokenizer: the engine's own copy, which takes the place of the processor's.
        image_token_id: the token that the model puts pictures in the place of.
    """

    def __init__(self, processor: ProcessorMixin, tokenizer: PreTrainedTokenizerBase, image_token_id: int) -> None:
        self._processor: Any = copy.copy(processor)  # whose classes have no common type for what follows
        self._processor.tokenizer = tokenizer
        self._processor.image_processor = _ImageProcessor(self._processor.image_processor)
        self._image_token_id = image_token_id
        self._numbers: OrderedDict[_Known, int] = OrderedDict()
        self._next_number = 0
        self._prepared: OrderedDict[int, PreparedPicture] = OrderedDict()
        self._bytes = 0

    def prepare(self, picture: Picture, template: str, salt: bytes | None = None) -> PreparedPicture:
        """A picture as the model reads it.

        Args:
            picture: the picture.
            template: the chat template.
            salt: among whose pictures it may be known again; None for those without one.

        Raises:
            MessageError: the processor cannot read it.
        """
        number = self._number_of(picture, salt)
        if number not in self._prepared:
            self._keep(self._read(picture, number, template))
        self._prepared.move_to_end(number)
        return self._prepared[number]

    def render(
        self, turns: Turns, template: str, salt: bytes | None = None, /, *, sanitize: bool, **options: object
    ) -> list[int]:
        """Token ids of a chat, with those of its pictures as `picture_token_id` has them.

        Args:
            turns: plain dicts.
            template: the chat template.
            salt: see `prepare`.
            sanitize: whether control tokens in the texts are marked, to be encoded as text.
            options: tools and variables, for the template.

        Raises:
            MessageError: a picture cannot be read, or they do not take as many tokens together as each takes alone.
        """
        pictures = [self.prepare(picture, template, salt) for picture in pictures_of(turns)]
        found = self._apply(turns, template, sanitize_control_tokens=sanitize, **options)
        ids = [int(token_id) for token_id in found["input_ids"][0]]
        ours = [picture_token_id(picture.number, place) for picture in pictures for place in range(picture.tokens)]
        places = [place for place, token_id in enumerate(ids) if token_id == self._image_token_id]
        if len(places) != len(ours):
            raise MessageError(
                f"The {len(pictures)} pictures of the messages take {len(places)} tokens together and {len(ours)} when "
                f"each stands alone, and this engine reads them one by one. Send one picture, or load another model."
            )
        for place, token_id in zip(places, ours, strict=True):
            ids[place] = token_id
        return ids

    def _read(self, picture: Picture, number: int, template: str) -> PreparedPicture:
        content = [{"type": "image", "picture": picture}, {"type": "text", "text": _LOOK}]
        try:
            found = self._apply([{"role": "user", "content": content}], template)
        except Exception as error:  # a processor is foreign code: whatever it raises is a refusal
            raise MessageError(
                f"The model's processor cannot read a picture of {picture.image.size} pixels: {error}. Scale it to "
                f"some hundred pixels each way."
            ) from error
        inputs = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        places = inputs["input_ids"][0] == self._image_token_id
        types = inputs.get("token_type_ids")
        both_ways = types is not None and bool((types[0][places] == 1).any())
        return PreparedPicture(number, int(places.sum()), inputs, both_ways)

    def _apply(self, turns: Turns, template: str, **options: object) -> BatchFeature:
        with torch.inference_mode():
            found: BatchFeature = self._processor.apply_chat_template(
                [{**turn, "content": _for_processor(turn["content"])} for turn in turns],
                chat_template=template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **options,
            )
        return found

    def _number_of(self, picture: Picture, salt: bytes | None) -> int:
        known = salt, picture.digest
        if known not in self._numbers:
            self._numbers[known] = self._next_number
            self._next_number += 1
            if len(self._numbers) > _MOST_NUMBERS:
                self._numbers.popitem(last=False)
        self._numbers.move_to_end(known)
        return self._numbers[known]

    def _keep(self, picture: PreparedPicture) -> None:
        self._prepared[picture.number] = picture
        self._bytes += picture.nbytes
        while self._bytes > _MOST_BYTES and len(self._prepared) > 1:
            _, oldest = self._prepared.popitem(last=False)
            self._bytes -= oldest.nbytes


class _ImageProcessor:
    """An image processor that remembers what it made of the last pictures: the rows of a request have the same.

    Args:
        inner: the image processor of transformers; its attributes are this one's.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._images: list[object] = []
        self._options: dict[str, object] = {}
        self._made: BatchFeature | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def __call__(self, images: object, **options: object) -> BatchFeature:
        flat = _flat(images)
        same = len(flat) == len(self._images) and all(map(lambda one, other: one is other, flat, self._images))
        if self._made is None or not same or options != self._options:
            self._made = self._inner(images, **options)
            self._images, self._options = flat, dict(options)
        return copy.copy(self._made)  # processors take out of it what the model does not need


def _flat(images: object) -> list[object]:
    if isinstance(images, (list, tuple)):
        return [image for one in images for image in _flat(one)]
    return [images]


def _for_processor(content: object) -> object:
    """A content with its pictures as processors take them."""
    if not isinstance(content, (list, tuple)):
        return content
    return [
        {"type": "image", "image": part["picture"].image} if part["type"] == "image" else dict(part) for part in content
    ]
