"""Processes large bodies piece by piece.

A C call on a whole body of 60 MB holds the interpreter lock for tens or hundreds of milliseconds. On a piece it takes
about a millisecond, and other threads can run between pieces.
"""

import codecs
import json
from collections.abc import Iterator
from typing import Final

# A multiple of 3 and of 4, so that pieces of bytes and of base64 stay whole.
PIECE_BYTES: Final = 192 * 1024
# json.detect_encoding looks at four bytes.
ENOUGH_TO_DETECT: Final = 4
UTF8: Final = frozenset({"utf-8", "utf-8-sig"})


def pieces(raw: bytes, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes from ``start`` to ``end``, at most ``PIECE_BYTES`` at a time."""
    end = len(raw) if end is None else end
    for position in range(start, end, PIECE_BYTES):
        yield raw[position : min(position + PIECE_BYTES, end)]


def count_of(raw: bytes, mark: bytes, *, most: int) -> int:
    """How often a single byte, or a few that do not overlap, occur; counting stops above ``most``."""
    count = 0
    step = PIECE_BYTES
    for position in range(0, len(raw), step):
        # A mark of several bytes that begins in this piece may end in the next one.
        count += raw.count(mark, position, position + step + len(mark) - 1)
        if count > most:
            break
    return count


def find(raw: bytes, mark: bytes, start: int) -> int:
    """The first occurrence of ``mark`` at or after ``start``; -1 if there is none."""
    reach = PIECE_BYTES + len(mark) - 1
    while (found := raw.find(mark, start, start + reach)) < 0 and start < len(raw):
        start += PIECE_BYTES
    return found


def is_blank(raw: bytes) -> bool:
    """Whether there is nothing but white space."""
    return all(piece.isspace() for piece in pieces(raw))


def as_utf8(raw: bytes) -> tuple[bytes, int]:
    """JSON converted to UTF-8, and the offset after its byte order mark.

    UTF-16 and UTF-32 are recognised by their byte order mark, or else by the zeros in the first characters (RFC 4627,
    section 3).

    Raises:
        UnicodeDecodeError: it starts like one of these but is invalid.
    """
    encoding = json.detect_encoding(raw[:ENOUGH_TO_DETECT])
    if encoding in UTF8:
        return raw, len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0
    decoder = codecs.getincrementaldecoder(encoding)()
    written = [decoder.decode(piece).encode() for piece in pieces(raw)]
    written.append(decoder.decode(b"", final=True).encode())
    return b"".join(written), 0
