"""Pictures that show nothing, for contexts that are steered away from."""

from collections.abc import Mapping, Sequence

from sda_engine.pictures import Picture


def with_blank_pictures(turns: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Turns with a blank picture of the same size in place of each. The given ones are not changed."""
    return [{**turn, "content": _blank(turn["content"])} for turn in turns]


def blanked(picture: Picture) -> Picture:
    """A picture of the same size, all of it in the mean colour of the other."""
    from PIL import Image, ImageStat  # where there is a picture, and no sooner

    mean = tuple(round(value) for value in ImageStat.Stat(picture.image).mean)
    return Picture.of(Image.new("RGB", picture.image.size, mean))


def _blank(content: object) -> object:
    if not isinstance(content, (list, tuple)):
        return content
    return [
        {**part, "picture": blanked(picture)} if isinstance(picture := part.get("picture"), Picture) else part
        for part in content
    ]
