"""What a turn of a chat says: a text, or, where it holds pictures, a list of parts.

A part is {"type": "text", "text": ...} or {"type": "image", ...}. Two texts never stand side by side in a list, since a
template may write them without anything between, and what neither holds could then be read as a control token.
"""

from collections.abc import Mapping, Sequence

Content = str | Sequence[Mapping[str, object]]
PICTURE = "image"
_TEXT = "text"


def parts_of(content: object) -> list[Mapping[str, object]]:
    """The parts of a content; a text is one, and an empty text none."""
    if isinstance(content, (list, tuple)):
        return list(content)
    text = "" if content is None else str(content)
    return [text_part(text)] if text else []


def text_part(text: str) -> Mapping[str, object]:
    """A text as a part."""
    return {"type": _TEXT, "text": text}


def texts_of(content: object) -> list[str]:
    """The texts of a content, without its pictures."""
    return [str(part["text"]) for part in parts_of(content) if part["type"] == _TEXT]


def holds_pictures(content: object) -> bool:
    """Whether there is a picture in a content."""
    return isinstance(content, (list, tuple)) and any(part["type"] == PICTURE for part in content)


def join_contents(contents: Sequence[object], separator: str) -> Content:
    """One content of several, with a separator between them; those that are empty are left out.

    A text, where all of them are texts.
    """
    filled = [content for content in contents if content]
    if not any(map(holds_pictures, filled)):
        return separator.join("".join(texts_of(content)) for content in filled)
    parts: list[Mapping[str, object]] = []
    for content in filled:
        between = [text_part(separator)] if parts else []
        for part in (*between, *parts_of(content)):
            if part["type"] == _TEXT and parts and parts[-1]["type"] == _TEXT:
                parts[-1] = text_part(f"{parts[-1]['text']}{part['text']}")
            else:
                parts.append(part)
    return parts
