"""Pictures in messages: read from what an application gives, within limits, and never from an address.

Pillow is imported where there is a picture, and no sooner.
"""

import base64
import binascii
import hashlib
import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeGuard

from sda_engine.errors import MessageError
from sda_engine.settings import shown

if TYPE_CHECKING:
    from PIL import Image

KINDS: Final = 'a PIL image, a pathlib.Path, bytes, or a data URL such as "data:image/png;base64,..."'

# Pillow's other formats are rare, and some of them start programs
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Numbers of more than 8 bits mean black and white to whoever made them, and to nobody else
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"})
_DATA_URL = re.compile(r"data:(?P<kind>[^;,]*)(?P<parameters>(;[^;,]*)*),", re.IGNORECASE)
_LONGEST_HEAD = 200  # characters of a data URL before its data
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """One picture, as a model sees it. Two of the same size and pixels are equal, whatever file they came in.

    Attributes:
        image: in RGB, upright as its EXIF orientation says, on white where it was transparent. Nobody may change it.
        digest: SHA-256 of size and pixels, in hexadecimal digits.
    """

    image: "Image.Image" = field(compare=False, repr=False)
    digest: str

    @classmethod
    def of(cls, image: "Image.Image") -> Self:
        """The picture of an image in RGB that is in memory."""
        digest = hashlib.sha256(f"{image.width} x {image.height} ".encode())
        digest.update(image.tobytes())
        return cls(image, digest.hexdigest())


@dataclass(frozen=True)
class PictureLimits:
    """How many pictures a request may hold, and how large each may be.

    Attributes:
        most: pictures in a request.
        pixels: of a picture, width times height.
        bytes: of a picture's file, before it is unpacked.
    """

    most: int
    pixels: int
    bytes: int


def read_picture(source: object, where: str, limits: PictureLimits) -> Picture:
    """A picture from a PIL image, a path, bytes or a data URL.

    Addresses are not fetched. Only a pathlib.Path opens a file, never a text: no message in JSON can hold one, so that
    what strangers write opens nothing. Of an animation the first picture counts, of a PIL image the one that it is at.

    Args:
        source: where the picture comes from. A Picture stays as it is.
        where: what holds it, for errors, e.g. "messages[0]".
        limits: how large it may be; its size is looked at before it is unpacked.

    Raises:
        MessageError: it is none of that, too large, broken, or in a format or with numbers that nobody can read safely.
        ImportError: Pillow is not installed; the message names the extra.
    """
    if isinstance(source, Picture):
        return source
    if _is_image(source):
        return _picture(source, where, limits)
    return _picture(_opened(_bytes_of(source, where, limits), where, limits), where, limits)


def _is_image(source: object) -> TypeGuard["Image.Image"]:
    """Whether something is a PIL image, which nothing is before Pillow has been imported."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def _bytes_of(source: object, where: str, limits: PictureLimits) -> bytes:
    """The file that a picture comes in."""
    match source:
        case Path():
            return _file(source, where, limits)
        case str():
            data = _data(source, where, limits)
        case bytes() | bytearray():
            data = bytes(source)
        case _:
            raise MessageError(f"{where} has a picture of type {type(source).__name__}: it must be {KINDS}.")
    _check_bytes(len(data), where, limits)
    return data


def _file(path: Path, where: str, limits: PictureLimits) -> bytes:
    try:
        if not path.is_file():
            raise MessageError(
                f"{where} has the picture {str(path)!r}, and there is no such file: give the path of one, or its bytes."
            )
        with path.open("rb") as file:
            data = file.read(limits.bytes + 1)
            _check_bytes(max(len(data), path.stat().st_size), where, limits)
    except OSError as error:
        raise MessageError(f"{where} has the picture {str(path)!r}, which cannot be read: {error}.") from error
    return data


def _data(text: str, where: str, limits: PictureLimits) -> bytes:
    """What a data URL carries."""
    url = _DATA_URL.match(text[:_LONGEST_HEAD])
    if url is None:
        raise MessageError(_why_no_data(text, where))
    kind, parameters = url["kind"].strip().lower(), url["parameters"].lower().split(";")
    if not kind.startswith("image/") or "base64" not in parameters:
        raise MessageError(
            f"{where} has a picture in a data URL that begins {shown(url[0])}: it must begin "
            f"'data:image/png;base64,' or with another kind of image, written in base64."
        )
    _check_bytes((len(text) - url.end()) * 3 // 4 - 2, where, limits)  # the last two may be padding
    try:
        return base64.b64decode("".join(text[url.end() :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(
            f"{where} has a picture in a data URL that is no base64 ({error}): write it with base64.b64encode."
        ) from error


def _why_no_data(text: str, where: str) -> str:
    if text.lower().startswith(("http:", "https:")):
        return (
            f"{where} has a picture at {shown(text)}, and no address is fetched here: fetch it in your own code, which "
            f"knows what it may ask for, and give the bytes."
        )
    what = "at the address" if _ADDRESS.match(text) else "as the text"
    return (
        f"{where} has a picture {what} {shown(text)}: as a text it must be a data URL such as "
        f'"data:image/png;base64,...". For a file give pathlib.Path(...), since no text may open one: it could come '
        f"from a stranger."
    )


def _check_bytes(size: int, where: str, limits: PictureLimits) -> None:
    if size > limits.bytes:
        raise MessageError(
            f"{where} has a picture of {size:,} bytes: it may have {limits.bytes:,} at most. Make it smaller, or raise "
            f"EngineSettings.max_picture_bytes."
        )


def _check_pixels(image: "Image.Image", where: str, limits: PictureLimits) -> None:
    width, height = image.size
    if width * height > limits.pixels:
        raise MessageError(
            f"{where} has a picture of {width} x {height} pixels: it may have {limits.pixels:,} at most. Make it "
            f"smaller, or raise EngineSettings.max_picture_pixels."
        )
    if not width * height:
        raise MessageError(f"{where} has a picture of {width} x {height} pixels: it must have at least one.")


def _opened(data: bytes, where: str, limits: PictureLimits) -> "Image.Image":
    """The image in a file, of which only the head has been read."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Pictures in messages need Pillow: pip install 'sda-integrations[pictures]'") from error
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MessageError(
            f"{where} has a picture with more pixels than Pillow unpacks ({error}): it may have {limits.pixels:,} at "
            f"most. Make it smaller."
        ) from error
    except Exception as error:  # a decoder is foreign code: whatever it raises over a file is a refusal
        raise _unreadable(where, error) from error


def _picture(image: "Image.Image", where: str, limits: PictureLimits) -> Picture:
    _check_pixels(image, where, limits)
    if image.mode not in _MODES:
        raise MessageError(
            f"{where} has a picture of Pillow's mode {image.mode!r}, whose numbers do not say which of them is white: "
            f"convert it to 'L' or 'RGB' first."
        )
    try:
        return Picture.of(_flat(_upright(image)))
    except Exception as error:  # a decoder is foreign code: whatever it raises over a file is a refusal
        raise _unreadable(where, error) from error


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _flat(image: "Image.Image") -> "Image.Image":
    """A copy in RGB, on white where the image is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(layer, mask=layer)
    return flat


def _unreadable(where: str, error: Exception) -> MessageError:
    from PIL import UnidentifiedImageError

    # The text of this one tells an address in memory, which is no business of a server's clients
    why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
    return MessageError(
        f"{where} has a picture that cannot be read, since it is broken or in none of the formats "
        f"{', '.join(_FORMATS)}{why}. Save it anew, e.g. as PNG."
    )
