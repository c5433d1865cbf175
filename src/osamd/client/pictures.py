"""Every kind of image that a Python program has at hand, as fields of a request.

NumPy and Pillow are only used when the caller passes something of theirs.
"""

import base64
import errno
import io
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

from osamd.client.png import array_to_png
from osamd.errors import InvalidImageError

# A drive letter is no scheme.
SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Pillow's modes that PNG keeps as they are. The others are converted to RGB, floats and 32-bit integers refused.
PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16L", "I;16B", "I;16N"})
CONVERTED_MODES: Final = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
UNSCALED_MODES: Final = frozenset({"I", "F"})
KINDS: Final = (
    "a path, bytes, a file object, a NumPy array, a Pillow image, an http(s) URL or a data URI; base64 text needs"
    " data:image/...;base64, in front of it"
)


def image_fields(image: object) -> dict[str, str]:
    """``image`` in base64, or ``image_url`` for the server to fetch.

    Raises:
        InvalidImageError: it is nothing that can be sent; the message says what is expected.
        OSError: the file cannot be read.
    """
    if isinstance(image, str):
        if image[:5].lower() == "data:":
            return {"image": image}
        scheme = SCHEME.match(image)
        if scheme is not None:
            if scheme[1].lower() not in {"http", "https"}:
                raise InvalidImageError(f"{scheme[0]} URLs are not supported: expected {KINDS}", field="image")
            return {"image_url": image}
    return {"image": base64.b64encode(_encoded(image)).decode("ascii")}


def _encoded(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, memoryview):
        return image.tobytes()
    if isinstance(image, str | os.PathLike):
        return _read_path(image)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _from_pillow(image)
    if callable(getattr(image, "read", None)):
        return _read_file(image)
    # NumPy's own arrays, and those of other libraries that can be made one.
    if hasattr(image, "__array__"):
        import numpy as np

        return array_to_png(np.asarray(image))
    raise InvalidImageError(f"expected {KINDS}; got {type(image).__name__}", field="image")


def _read_path(path: "str | os.PathLike[str]") -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            raise
        # No file can have this name: it is most likely base64.
        raise InvalidImageError(f"not a path: expected {KINDS}", field="image") from None


def _read_file(file: Any) -> bytes:
    data = file.read()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidImageError("the file is open in text mode: open it in binary mode (rb)", field="image")
    if not data:
        raise InvalidImageError("the file object is empty or at its end: call seek(0) before passing it", field="image")
    return bytes(data)


def _from_pillow(image: Any) -> bytes:
    if image.mode in UNSCALED_MODES:
        raise InvalidImageError(
            f"Pillow images of mode {image.mode} have no defined range: convert it to L, I;16 or RGB", field="image"
        )
    written = io.BytesIO()
    # Pixels as they are in memory: coordinates are those of image.size, whatever its EXIF says.
    plain = image if image.mode in PNG_MODES else image.convert(CONVERTED_MODES.get(image.mode, "RGB"))
    plain.save(written, "PNG", compress_level=1, exif=b"")
    return written.getvalue()
