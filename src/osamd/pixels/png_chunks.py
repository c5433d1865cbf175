"""Strip PNG chunks that its pixels do not need: corrupt or huge metadata is no reason to reject a picture.

Pillow rejects whole files for text or a colour profile that unpacks to more than a megabyte, and for a wrong checksum
or length of any chunk; browsers show them. Written after the PNG specification (W3C, third edition).
"""

import re
import struct
from typing import Final

from zlib_ng import zlib_ng

from osamd.pixels.structure import MOST_CHUNKS

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# Length and type; the content and a checksum follow.
HEAD: Final = struct.Struct(">I4s")
CHECKSUM: Final = struct.Struct(">I")
# Where the content of IHDR, the first chunk, has the bit depth and the colour type.
DEPTH_AT, COLOR_AT = 24, 25
# Bytes of tRNS by colour type; a palette has up to 256.
TRANSPARENT_GREY, TRANSPARENT_RGB, PALETTE = 0, 2, 3
TRANSPARENCY_BYTES: Final = {TRANSPARENT_GREY: range(2, 3), TRANSPARENT_RGB: range(6, 7), PALETTE: range(1, 257)}
XMP_KEYWORD: Final = b"XML:com.adobe.xmp\0\0"
# Of EXIF and XMP, which may contain the orientation.
MOST_KEPT_BYTES: Final = 1 << 20
# Chunk types to search for after an invalid length.
NEXT_CRITICAL: Final = re.compile(rb"PLTE|IDAT|IEND")
NAME: Final = re.compile(rb"[A-Za-z]{4}")
ANCILLARY: Final = 0x20


def without_remarks(data: bytes) -> bytes:
    """The PNG with the chunks that its pixels, its transparency and its orientation need, and no others.

    Args:
        data: a whole file. Other formats are returned unchanged, and so is a PNG with nothing to strip, or with more
            chunks than are examined.
    """
    if not data.startswith(SIGNATURE):
        return data
    kept: list[slice] = []
    for piece in _needed(data):
        if kept and kept[-1].stop == piece.start:
            kept[-1] = slice(kept[-1].start, piece.stop)
        else:
            kept.append(piece)
    if not kept or kept == [slice(0, len(data))]:
        return data
    view = memoryview(data)
    return b"".join(view[piece] for piece in kept)


def _needed(data: bytes) -> list[slice]:
    """Where the needed chunks are; empty if there are too many.

    Whatever follows a corrupt chunk is left to the decoder, which reports it.
    """
    needed = [slice(0, len(SIGNATURE))]
    position, seen = len(SIGNATURE), set[bytes]()
    for _ in range(MOST_CHUNKS):
        if position + HEAD.size > len(data):
            return [*needed, slice(position, len(data))]
        length, name = HEAD.unpack_from(data, position)
        end = position + HEAD.size + length + CHECKSUM.size
        is_ancillary = bool(name[0] & ANCILLARY) and NAME.fullmatch(name) is not None
        if is_ancillary and not _is_followed_by_a_chunk(data, end):
            found = NEXT_CRITICAL.search(data, position + HEAD.size)
            if found is None:
                return needed
            position = max(position + HEAD.size, found.start() - CHECKSUM.size)
            continue
        if not is_ancillary and end > len(data):
            return [*needed, slice(position, len(data))]
        if not is_ancillary or (name not in seen and _is_needed(data, position, length, name)):
            needed.append(slice(position, end))
        seen.add(name)
        if name == b"IEND":
            return needed
        position = end
    return []


def _is_followed_by_a_chunk(data: bytes, end: int) -> bool:
    """Whether a chunk that ends here is followed by another one or by the end of the file."""
    return end == len(data) or NAME.fullmatch(data, end + 4, end + HEAD.size) is not None


def _is_needed(data: bytes, position: int, length: int, name: bytes) -> bool:
    """Whether an ancillary chunk affects the picture and is intact."""
    start = position + HEAD.size
    match name:
        case b"tRNS":
            is_wanted = length in TRANSPARENCY_BYTES.get(data[COLOR_AT], ())
        case b"eXIf":
            is_wanted = length <= MOST_KEPT_BYTES
        case b"iTXt":
            # Not compressed, as XMP's specification requires, so its length is its real size.
            is_wanted = length <= MOST_KEPT_BYTES and data.startswith(XMP_KEYWORD, start)
        case _:
            is_wanted = False
    if not is_wanted:
        return False
    (checksum,) = CHECKSUM.unpack_from(data, start + length)
    return bool(checksum == zlib_ng.crc32(memoryview(data)[position + 4 : start + length]))
