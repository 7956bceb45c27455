"""What a message holds: a text, or parts, some of which are pictures.

A content is a string where there is no picture. Else it is a list of {"type": "text", "text": ...} and
{"type": "image", "picture": Picture}, or {"type": "image", "image": ...} as long as nobody has read the picture; no two
texts follow each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from sda_engine.errors import MessageError
from sda_engine.pictures import Picture, PictureLimits, read_picture

Part = Mapping[str, object]
Content = str | Sequence[Part]

_TURNS_WITH_PICTURES = ("user", "tool")
_SOURCES = ("picture", "image", "url", "path")
_PARTS = '{"type": "text", "text": "..."} or {"type": "image", "image": ...}'


def normalise_content(content: object, where: str, role: object) -> Content:
    """The content of a turn, checked. Texts that follow each other become one, each on a line of its own.

    Raises:
        MessageError: it is neither a text nor a list of texts and pictures, or holds a picture in a turn that has none.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise MessageError(
            f"{where} has content of type {type(content).__name__}: it must be a text, or a list of {_PARTS}."
        )
    parts = [_normalise_part(part, where) for part in content]
    if role not in _TURNS_WITH_PICTURES and any(map(_is_picture, parts)):
        raise MessageError(
            f"{where} has the role {role!r} and holds a picture: pictures stand in user turns and in the results of "
            f"tools. Move it into a user turn."
        )
    return _merged(parts, "\n")


def joined(contents: Iterable[Content], separator: str) -> Content:
    """Several contents as one, with a text between each two."""
    parts: list[Part] = []
    for place, content in enumerate(contents):
        parts += [_text_part(separator)] if place else []
        parts += [_text_part(content)] if isinstance(content, str) else content
    return _merged(parts, "")


def plain_text(content: object, *, picture: str = "") -> str:
    """The texts of a content, a line each.

    Args:
        content: of a message.
        picture: what stands for each picture; "" leaves them out.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        return str(content)
    texts = [picture if _is_picture(part) else _text_of(part) for part in content]
    return "\n".join(text for text in texts if text)


def has_pictures(messages: Sequence[Mapping[str, object]]) -> bool:
    """Whether normalised messages hold a picture, be it one that nobody has read yet."""
    return any(map(_is_picture, _parts(messages)))


def pictures_of(messages: Sequence[Mapping[str, object]]) -> tuple[Picture, ...]:
    """The pictures of messages in their order, once they have been read."""
    return tuple(picture for part in _parts(messages) if isinstance(picture := part.get("picture"), Picture))


def read_pictures(messages: Sequence[Mapping[str, object]], limits: PictureLimits | None) -> list[Mapping[str, object]]:
    """Normalised messages with the pictures in them read; those that are read already stay as they are.

    Args:
        messages: never changed.
        limits: how many and how large they may be; None for a model that reads text only.

    Raises:
        MessageError: there are too many, one cannot be read, or the model cannot read any.
        ImportError: Pillow is not installed; the message names the extra.
    """
    count = sum(map(_is_picture, _parts(messages)))
    if not count:
        return list(messages)
    if limits is None:
        place = next(place for place, message in enumerate(messages) if has_pictures([message]))
        raise MessageError(
            f"messages[{place}] holds a picture, and this model reads text only: load a vision-language model such as "
            f"Qwen2.5-VL, SmolVLM or Gemma 3, or describe the picture in words."
        )
    if count > limits.most:
        raise MessageError(
            f"The messages hold {count} pictures: a request may have {limits.most} at most. Leave some out, or raise "
            f"EngineSettings.max_pictures."
        )
    return [_read(message, f"messages[{place}]", limits) for place, message in enumerate(messages)]


def _read(message: Mapping[str, object], where: str, limits: PictureLimits) -> Mapping[str, object]:
    content = message["content"]
    if isinstance(content, str) or not isinstance(content, Sequence):
        return message
    parts = [
        {"type": "image", "picture": read_picture(_source(part), where, limits)} if _is_picture(part) else part
        for part in content
    ]
    return {**message, "content": parts}


def _parts(messages: Iterable[Mapping[str, object]]) -> list[Part]:
    """The parts of all contents that are no plain text."""
    contents = [message.get("content") for message in messages]
    lists = [content for content in contents if isinstance(content, Sequence) and not isinstance(content, str)]
    return [part for content in lists for part in content if isinstance(part, Mapping)]


def _normalise_part(part: object, where: str) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if not isinstance(part, Mapping) or kind not in ("text", "image", "image_url"):
        raise MessageError(
            f"{where} has a content part of type {kind!r}: each part must be {_PARTS}. Describe other files in words."
        )
    if kind == "text":
        if not isinstance(text := part.get("text"), str):
            raise MessageError(
                f"{where} has a text part with text of type {type(text).__name__}: it must be "
                f'{{"type": "text", "text": "..."}}.'
            )
        return _text_part(text)
    if kind == "image_url":
        url = part.get("image_url")
        part = {"url": url.get("url") if isinstance(url, Mapping) else url}
    if _source(part) is None:
        raise MessageError(
            f'{where} has an image part without an image: it must be {{"type": "image", "image": ...}} with a PIL '
            f"image, a pathlib.Path, bytes or a data URL."
        )
    if isinstance(part.get("picture"), Picture):
        return {"type": "image", "picture": part["picture"]}
    return {"type": "image", "image": _source(part)}


def _source(part: Part) -> object:
    """What the picture of a part is to be read from; None where it does not say."""
    return next((part[key] for key in _SOURCES if part.get(key) is not None), None)


def _is_picture(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image"


def _text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def _text_of(part: object) -> str:
    return str(part.get("text", "")) if isinstance(part, Mapping) else str(part)


def _merged(parts: Iterable[Part], separator: str) -> Content:
    """The parts with neighbouring texts as one; a string where there is nothing but text."""
    merged: list[Part] = []
    for is_picture, run in groupby(parts, _is_picture):
        if is_picture:
            merged += run
        elif text := separator.join(map(_text_of, run)):
            merged.append(_text_part(text))
    if not any(map(_is_picture, merged)):
        return _text_of(merged[0]) if merged else ""
    return merged
