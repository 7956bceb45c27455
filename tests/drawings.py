"""Pictures for tests, drawn and written as files."""

import base64
import io

from PIL import Image


def picture_file(color="red", size=(4, 3), *, mode="RGB", kind="PNG", **options):
    """A picture of one colour, as the bytes of a file."""
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind, **options)
    return file.getvalue()


def data_url(color="red", size=(4, 3)):
    """The same as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(picture_file(color, size)).decode()}"
