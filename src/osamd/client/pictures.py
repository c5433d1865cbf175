"""Convert images of all kinds that Python programs use to fields of a request.

NumPy and Pillow are only needed if the caller passes their objects.
"""

import base64
import errno
import io
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osamd.client.png import array_to_png
from osamd.errors import InvalidImageError, InvalidPromptError

# A drive letter is not a scheme.
SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Pillow modes that PNG stores unchanged. Others are converted to RGB; floats and 32-bit integers are rejected.
PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16L", "I;16B", "I;16N"})
CONVERTED_MODES: Final = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
UNSCALED_MODES: Final = frozenset({"I", "F"})
KINDS: Final = (
    "a path, bytes, a file object, a NumPy array, a Pillow image, an http(s) URL or a data URI; prefix base64 text with"
    " data:image/...;base64,"
)


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image as it is sent.

    Attributes:
        fields: ``image`` in base64 or as a data URI, or ``image_url`` for the server to fetch.
        content: its encoded bytes; None if only the server will have them, or will reject them.
    """

    fields: Mapping[str, str]
    content: bytes | None


def sent_image(image: object) -> SentImage:
    """Convert an image for a request.

    Raises:
        InvalidImageError: it cannot be sent; the message says what is expected.
        OSError: the file cannot be read.
    """
    if isinstance(image, str):
        if image[:5].lower() == "data:":
            return SentImage({"image": image}, _content_of(image))
        scheme = SCHEME.match(image)
        if scheme is not None:
            if scheme[1].lower() not in {"http", "https"}:
                raise InvalidImageError(f"{scheme[0]} URLs are not supported: expected {KINDS}", field="image")
            return SentImage({"image_url": image}, None)
    content = _encoded(image)
    return SentImage({"image": base64.b64encode(content).decode("ascii")}, content)


def _content_of(data_uri: str) -> bytes | None:
    try:
        return base64.b64decode(data_uri.partition(",")[2]) or None
    except ValueError:
        return None


def mask_text(mask: object) -> str:
    """A mask to refine, in base64.

    Raises:
        InvalidPromptError: it cannot be sent; the message says what is expected.
        OSError: the file cannot be read.
    """
    try:
        return base64.b64encode(_encoded(mask)).decode("ascii")
    except InvalidImageError as error:
        raise InvalidPromptError(str(error), field="mask_input") from None


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
    # NumPy arrays, and arrays of other libraries that convert to NumPy.
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
        # Not a possible file name: most likely base64.
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
            f"Pillow images of mode {image.mode} have no defined range: convert to L, I;16 or RGB", field="image"
        )
    written = io.BytesIO()
    # Pixels as in memory, ignoring EXIF: coordinates refer to image.size.
    plain = image if image.mode in PNG_MODES else image.convert(CONVERTED_MODES.get(image.mode, "RGB"))
    plain.save(written, "PNG", compress_level=1, exif=b"")
    return written.getvalue()
