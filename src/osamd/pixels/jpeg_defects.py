"""JPEG that Pillow refuses although its pixels are whole: a missing end marker, remarks that are too short.

Cameras, networks and tools cut files two bytes too early; everything else shows them.
"""

import hashlib
import io
import struct
from typing import Final

from PIL import Image

from osamd.pixels.samples import blocks_of_rows

START: Final = b"\xff\xd8"
END: Final = b"\xff\xd9"
# Read as part of the picture this would change it, wherever it was cut.
OTHER_PIXELS: Final = bytes(range(1, 0xFF)) * 4
# Start of scan; application segments and comments.
SCAN: Final = 0xDA
REMARKS: Final = frozenset({*range(0xE0, 0xF0), 0xFE})
# What the pixels need of them: how the picture is turned, and how its colours are stored (12 bytes behind the length).
EXIF: Final = b"Exif\0\0"
ADOBE: Final = b"Adobe"
ADOBE_BYTES: Final = 14


def with_end(data: bytes) -> bytes | None:
    """The JPEG with its end marker, if that is all it lacks; else None.

    With its end marker put behind it, libjpeg makes up what is missing of a picture without a word. So it is decoded
    once more with other data before the marker: where pixels are missing, they are other ones.

    Args:
        data: what Pillow calls truncated, of a size that has been checked.
    """
    if not data.startswith(START):
        return None
    try:
        is_whole = _digest(data + END) == _digest(data + OTHER_PIXELS + END)
    # Broken beyond its end: decoders fail with almost any exception.
    except Exception:  # noqa: BLE001
        return None
    return data + END if is_whole else None


def _digest(data: bytes) -> bytes:
    """A hash of the pixels, at their whole size: the last scans of a progressive JPEG are details."""
    digest = hashlib.blake2b()
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        for rows in blocks_of_rows(image.height, image.width):
            digest.update(image.crop((0, rows.start, image.width, rows.stop)).tobytes())
    return digest.digest()


def without_remarks(data: bytes) -> bytes | None:
    """The JPEG without the segments that its pixels do not need; None for what is no JPEG.

    Args:
        data: what Pillow does not open.
    """
    if not data.startswith(START):
        return None
    kept, position = [START], len(START)
    while position + 4 <= len(data) and data[position] == START[0] and data[position + 1] != SCAN:
        marker = data[position + 1]
        (length,) = struct.unpack_from(">H", data, position + 2)
        content = data[position + 4 : position + 2 + length]
        is_whole_adobe = content.startswith(ADOBE) and length >= ADOBE_BYTES
        if marker not in REMARKS or content.startswith(EXIF) or is_whole_adobe:
            kept.append(data[position : position + 2 + length])
        position += 2 + length
    return b"".join([*kept, data[position:]])
