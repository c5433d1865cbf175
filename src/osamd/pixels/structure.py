"""Check the structure of an encoded image before decoding: some files of a megabyte take minutes to decode.

Decoders limit an image's pixels, but not the work per pixel. This counts the pieces that no real image has many of and
that are most expensive to decode, in time that does not depend on what the file claims. Whatever passes is stopped by
the CPU limit of ``Decoder``. Pure.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Final

from osamd.errors import InvalidImageError

# JPEG: each scan processes the whole image again. Encoders write about ten.
MOST_SCANS: Final = 64
# Beside the scans. A file of 64 MiB has a thousand segments of the largest size.
MOST_SEGMENTS: Final = 4096
# EXIF, which Pillow concatenates one by one; a megabyte of it.
MOST_EXIF_SEGMENTS: Final = 16
# Stray bytes between segments, which Pillow reads one by one.
MOST_SKIPPED_BYTES: Final = 65_536
# Of PNG. libpng writes 8 KiB a chunk.
MOST_CHUNKS: Final = 65_536
# Strips or tiles of TIFF, each some microseconds of Pillow's Python.
MOST_PIECES: Final = 65_536
# Of the first page; there are a few dozen.
MOST_TAGS: Final = 4096
# Of GIF, before its first frame: a megabyte of comments.
MOST_BLOCKS: Final = 4096
# Of WebP, all of which are listed before the first is decoded.
MOST_FRAMES: Final = 65_536
# Run-length BMP is decoded by Pillow's Python: 0.1 s a million pixels and 0.3 s a million bytes.
MOST_RUN_LENGTH_PIXELS: Final = 4_000_000
MOST_RUN_LENGTH_BYTES: Final = 4_000_000

SCAN: Final = b"\xff\xda"
START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1
EXIF: Final = b"Exif\0\0"
# In JPEG's compressed data, FF is followed by 0 or by the number of a restart, or it begins a segment.
SEGMENT: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
FILL: Final = re.compile(rb"\xff+")
# Which way of coding, and how many components.
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL: Final = frozenset({0xC0, 0xC1, 0xC9})
# They have no length.
ALONE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})

IMAGE_DESCRIPTOR, EXTENSION, TRAILER = 0x2C, 0x21, 0x3B

ANIMATED: Final = 2

STRIP_OFFSETS, STRIP_LENGTHS, TILE_OFFSETS, TILE_LENGTHS = 273, 279, 324, 325
PIECES: Final = frozenset({STRIP_OFFSETS, STRIP_LENGTHS, TILE_OFFSETS, TILE_LENGTHS})
COMPRESSION: Final = 259
SCANS_OF_A_PIECE: Final = 4
OLD_JPEG, JPEG = 6, 7

OS2_HEADER: Final = 12
RUN_LENGTHS: Final = frozenset({1, 2})


def check_structure(data: bytes) -> None:
    """Reject an image that is made of far more pieces than any encoder writes.

    Args:
        data: the encoded image. Anything else, and corrupt files, pass: decoders report those better.

    Raises:
        InvalidImageError: names what there are too many of, and the limit.
    """
    for signature, check in CHECKS:
        if data.startswith(signature):
            try:
                check(data)
            # Truncated, or with offsets outside the file.
            except (IndexError, OverflowError, struct.error):
                return


def _check_jpeg(data: bytes) -> None:
    position, segments, skipped = 2, 0, 0
    frame, components, exif_segments = 0, 0, 0
    while (fill := FILL.search(data, position)) is not None:
        skipped += fill.end() - position - 1
        segments += 1
        if skipped > MOST_SKIPPED_BYTES:
            raise _refused("JPEG", MOST_SKIPPED_BYTES, "bytes between its segments")
        if segments > MOST_SEGMENTS:
            raise _refused("JPEG", MOST_SEGMENTS, "segments")
        code = data[fill.end()]
        position = fill.end() + 1
        if code in FRAMES:
            frame, components = code, data[position + 7]
        if code == START_OF_SCAN:
            # Decoders stop behind a sequential scan of everything. Others are gone through where there may be too many.
            is_only = frame in SEQUENTIAL and data[position + 2] == components
            if not is_only and data.count(SCAN, position) >= MOST_SCANS:
                _check_scans(data, position)
            return
        exif_segments += code == APP1 and data.startswith(EXIF, position + 2)
        if exif_segments > MOST_EXIF_SEGMENTS:
            raise _refused("JPEG", MOST_EXIF_SEGMENTS, "segments of EXIF", "remove its metadata")
        if code not in ALONE:
            position += _length(data, position)


def _check_scans(data: bytes, position: int) -> None:
    """Count scans, and segments between them, up to the end of the image; what is behind that is not decoded."""
    scans, segments = 1, 0
    position += _length(data, position)
    while (found := SEGMENT.search(data, position)) is not None:
        code = data[found.end() - 1]
        if code == END_OF_IMAGE:
            return
        scans += code == START_OF_SCAN
        segments += 1
        if scans > MOST_SCANS:
            raise _refused("JPEG", MOST_SCANS, "scans", "save it as a baseline JPEG")
        if segments > MOST_SEGMENTS:
            raise _refused("JPEG", MOST_SEGMENTS, "segments")
        position = found.end() + (0 if code in ALONE else _length(data, found.end()))


def _length(data: bytes, position: int) -> int:
    """Of a JPEG's segment, its own two bytes included."""
    length: int = struct.unpack_from(">H", data, position)[0]
    return length


def _check_png(data: bytes) -> None:
    position = 8
    for _ in range(MOST_CHUNKS):
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"IEND":
            return
        position += length + 12
    raise _refused("PNG", MOST_CHUNKS, "chunks")


def _check_gif(data: bytes) -> None:
    flags = data[10]
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    is_extension = False
    for _ in range(MOST_BLOCKS):
        byte = data[position]
        if is_extension:
            # The length of a block; the last one is empty.
            position += byte + 1
            is_extension = byte > 0
        elif byte in {IMAGE_DESCRIPTOR, TRAILER}:
            return
        else:
            is_extension = byte == EXTENSION
            position += 2 if is_extension else 1
    raise _refused("GIF", MOST_BLOCKS, "blocks before its first frame", "remove its comments")


def _check_webp(data: bytes) -> None:
    is_animated = data[8:16] == b"WEBPVP8X" and data[20] & ANIMATED
    if is_animated and data.count(b"ANMF") > MOST_FRAMES:
        raise _refused("WebP", MOST_FRAMES, "frames")


def _check_tiff(data: bytes) -> None:
    tags = list(_tiff_tags(data))
    pieces = max((count for tag, count, _ in tags if tag in PIECES), default=0)
    if pieces > MOST_PIECES:
        raise _refused("TIFF", MOST_PIECES, "strips or tiles", "save it with larger ones")
    is_jpeg = any(tag == COMPRESSION and value in {OLD_JPEG, JPEG} for tag, _, value in tags)
    most_scans = MOST_SCANS + SCANS_OF_A_PIECE * pieces
    if is_jpeg and data.count(SCAN) > most_scans:
        raise _refused("TIFF", most_scans, "JPEG scans")


def _tiff_tags(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each tag of the first page with its count and, where that is 1, its value."""
    order = "<" if data.startswith(b"II") else ">"
    is_big = b"+" in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
    entry = struct.Struct(order + ("HHQH6x" if is_big else "HHIH2x"))
    at = start + (8 if is_big else 2)
    if entries > MOST_TAGS:
        raise _refused("TIFF", MOST_TAGS, "tags", "remove its metadata")
    for number in range(entries):
        # The values that matter here are numbers of two bytes.
        tag, _, count, value = entry.unpack_from(data, at + number * entry.size)
        yield tag, count, value


def _check_bmp(data: bytes) -> None:
    header_size, width, height, compression = struct.unpack_from("<Iii4xI", data, 14)
    # The header of OS/2 has no compression.
    if header_size == OS2_HEADER or compression not in RUN_LENGTHS:
        return
    if abs(width * height) > MOST_RUN_LENGTH_PIXELS:
        raise _refused("run-length BMP", MOST_RUN_LENGTH_PIXELS, "pixels", "save it as PNG")
    if len(data) > MOST_RUN_LENGTH_BYTES:
        raise _refused("run-length BMP", MOST_RUN_LENGTH_BYTES, "bytes", "save it as PNG")


def _refused(kind: str, most: int, what: str, advice: str = "save it again") -> InvalidImageError:
    return InvalidImageError(f"the {kind} has more than {most:,} {what}: {advice}", field="image")


CHECKS: Final[tuple[tuple[bytes, Callable[[bytes], None]], ...]] = (
    (b"\xff\xd8", _check_jpeg),
    (b"\x89PNG\r\n\x1a\n", _check_png),
    (b"GIF8", _check_gif),
    (b"RIFF", _check_webp),
    (b"II*\0", _check_tiff),
    (b"MM\0*", _check_tiff),
    (b"II+\0", _check_tiff),
    (b"MM\0+", _check_tiff),
    (b"BM", _check_bmp),
)
