"""Pictures: what is read, what is seen of it, and what is refused."""

import base64
import io
import os
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from sda_engine.errors import MessageError
from sda_engine.pictures import Picture, PictureLimits, read_picture
from tests.drawings import data_url, picture_file

LIMITS = PictureLimits(most=8, pixels=10_000, bytes=5_000)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def read(source, limits=LIMITS):
    return read_picture(source, "messages[0]", limits)


def head_of_png(width, height):
    """A file of a few bytes that says that it holds a picture of this size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_one_picture_from_five_sources_is_one_picture(tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(picture_file())
    image = Image.new("RGB", (4, 3), "red")
    sources = [image, file, picture_file(), bytearray(picture_file()), data_url(), picture_file(kind="BMP")]
    pictures = {read(source) for source in sources}
    assert len(pictures) == 1
    (picture,) = pictures
    assert picture.image.size == (4, 3)
    assert picture.image.getpixel((0, 0)) == RED
    assert read(picture) is picture


def test_size_and_pixels_tell_pictures_apart():
    sources = [picture_file("red"), picture_file("blue"), picture_file("red", (3, 4)), picture_file("red", (2, 6))]
    assert len({read(source).digest for source in sources}) == len(sources)


def test_a_picture_is_not_changed_by_what_happens_to_the_image_later():
    image = Image.new("RGB", (4, 3), "red")
    picture = read(image)
    image.putpixel((0, 0), (0, 0, 255))
    assert picture.image.getpixel((0, 0)) == RED
    assert Picture.of(picture.image) == picture


def test_a_picture_stands_upright_as_its_camera_says():
    image = Image.new("RGB", (4, 3), "white")
    image.putpixel((0, 0), RED)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    file = io.BytesIO()
    image.save(file, "PNG", exif=turned)
    seen = read(file.getvalue()).image
    assert seen.size == (3, 4)
    assert seen.getpixel((2, 0)) == RED


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode):
    if mode == "P":
        options = {"transparency": 0}
        data = picture_file(0, mode="P", **options)
    else:
        data = picture_file((255, 0, 0, 0) if mode == "RGBA" else (0, 0), mode=mode)
    assert read(data).image.getpixel((0, 0)) == WHITE


def test_half_of_a_colour_is_laid_on_white():
    red, green, blue = read(picture_file((255, 0, 0, 128), mode="RGBA")).image.getpixel((0, 0))
    assert (red, green) == (255, blue)
    assert 120 < green < 135


def test_of_an_animation_the_first_picture_counts():
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert read(file.getvalue()).image.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://example.org/cat.png", "no address is fetched here: fetch it in your own code"),
        ("HTTPS://example.org/cat.png", "no address is fetched here"),
        ("file:///etc/passwd", r"at the address 'file:///etc/passwd'.*no text may open one"),
        ("/etc/passwd", r"as the text '/etc/passwd'.*pathlib\.Path"),
        ("ftp://example.org/cat.png", "must be a data URL"),
        ("data:text/html;base64,AAAA", "begins 'data:text/html;base64,': it must begin"),
        ("data:image/png,AAAA", "written in base64"),
        ("data:image/png;base64,???", "no base64.*base64.b64encode"),
        (b"", "broken or in none of the formats PNG"),
        (b"GIF89a and then nothing", "broken or in none"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of the formats"),
        (3, "of type int: it must be a PIL image"),
        (None, "of type NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_remedy(source, said):
    with pytest.raises(MessageError, match=said) as refused:
        read(source)
    assert str(refused.value).startswith("messages[0] has a picture")


def test_a_path_must_lead_to_a_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(MessageError, match="no such file"):
            read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_path_that_never_ends_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(MessageError, match="no such file"):
        read(tmp_path / "pipe.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_half_a_file_is_refused(kind):
    data = io.BytesIO()
    Image.effect_noise((60, 60), 99).convert("RGB").save(data, kind)
    whole = data.getvalue()
    limits = PictureLimits(most=8, pixels=10_000, bytes=50_000)
    assert read(whole, limits).image.size == (60, 60)
    with pytest.raises(MessageError, match="cannot be read, since it is broken"):
        read(whole[: len(whole) // 2], limits)


def test_what_is_no_picture_is_refused_without_an_address_in_memory():
    with pytest.raises(MessageError, match=r"BMP, TIFF\. Save it anew") as refused:
        read(b"no picture")
    assert "0x" not in str(refused.value)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_numbers_that_say_not_what_is_white_are_refused(mode):
    with pytest.raises(MessageError, match=f"mode '{mode}'.*convert it to 'L' or 'RGB'"):
        read(Image.new(mode, (4, 3)))


@pytest.mark.parametrize("source", [Image.new("RGB", (101, 100)), picture_file(size=(101, 100))])
def test_more_pixels_than_the_limit_are_refused_with_both_numbers(source):
    with pytest.raises(MessageError, match=r"101 x 100 pixels: it may have 10,000 at most.*max_picture_pixels"):
        read(source)
    assert read(Image.new("RGB", (100, 100))).image.size == (100, 100)


@pytest.mark.parametrize("side", [5_000, 11_000, 60_000])
def test_a_bomb_is_refused_by_its_head_before_it_is_unpacked(side, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(MessageError, match=r"pixels.*it may have 10,000 at most"):
        read(head_of_png(side, side))


def test_an_image_without_a_pixel_is_refused():
    with pytest.raises(MessageError, match="0 x 5 pixels: it must have at least one"):
        read(Image.new("RGB", (0, 5)))


def test_a_file_of_more_bytes_than_the_limit_is_refused_in_all_ways(tmp_path):
    data = b"\x00" * (LIMITS.bytes + 1)
    file = tmp_path / "large.png"
    file.write_bytes(data)
    for source in (data, file, f"data:image/png;base64,{base64.b64encode(data).decode()}"):
        with pytest.raises(MessageError, match=r"5,00\d bytes: it may have 5,000 at most.*max_picture_bytes"):
            read(source)


def test_errors_do_not_repeat_a_picture():
    with pytest.raises(MessageError) as refused:
        read("data:image/png;base64," + "A" * 3000 + "?")
    with pytest.raises(MessageError) as no_url:
        read("x" * 100_000)
    assert len(str(refused.value)) < 400
    assert len(str(no_url.value)) < 1000


def test_pillow_is_imported_for_a_picture_only_and_missed_by_the_name_of_its_extra():
    code = """
import sys
sys.modules["PIL"] = None
from sda_engine.pictures import PictureLimits, read_picture
try:
    read_picture(b"x", "messages[0]", PictureLimits(1, 1, 1))
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Pictures in messages need Pillow: pip install 'sda-integrations[pictures]'\n"
