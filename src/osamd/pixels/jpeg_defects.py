"""Repair JPEGs that Pillow rejects although their pixels are intact: a missing end marker, short metadata segments.

Cameras, networks and tools truncate files by two bytes; other viewers show them.
"""

import hashlib
import io
import struct
from typing import Final

from PIL import Image

from osamd.pixels.samples import blocks_of_rows

START: Final = b"\xff\xd8"
END: Final = b"\xff\xd9"
# Data that would change the picture if it were decoded, wherever the file was truncated.
OTHER_PIXELS: Final = bytes(range(1, 0xFF)) * 4
# Start of scan; application segments and comments.
SCAN: Final = 0xDA
REMARKS: Final = frozenset({*range(0xE0, 0xF0), 0xFE})
# The segments the pixels need: orientation, and how colours are stored (12 bytes after the length).
EXIF: Final = b"Exif\0\0"
ADOBE: Final = b"Adobe"
ADOBE_BYTES: Final = 14


def with_end(data: bytes) -> bytes | None:
    """The JPEG with its end marker, if nothing else is missing; otherwise None.

    With an end marker appended, libjpeg silently fills in missing pixels. So the file is decoded a second time with
    other data before the marker: if pixels are missing, the results differ.

    Args:
        data: a file Pillow calls truncated, whose size has been checked.
    """
    if not data.startswith(START):
        return None
    try:
        is_whole = _digest(data + END) == _digest(data + OTHER_PIXELS + END)
    # Corrupt elsewhere: decoders raise almost any exception.
    except Exception:  # noqa: BLE001
        return None
    return data + END if is_whole else None


def _digest(data: bytes) -> bytes:
    """A hash of the pixels at full size: the last scans of a progressive JPEG only add detail."""
    digest = hashlib.blake2b()
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        for rows in blocks_of_rows(image.height, image.width):
            digest.update(image.crop((0, rows.start, image.width, rows.stop)).tobytes())
    return digest.digest()


def without_remarks(data: bytes) -> bytes | None:
    """The JPEG without segments that its pixels do not need; None if it is not a JPEG.

    Args:
        data: a file Pillow cannot open.
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
