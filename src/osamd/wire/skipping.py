"""Leaves out parts of JSON bodies that nobody reads, however large, before anything is counted or parsed.

Works on pieces with NumPy: a body of 60 MB takes a second or two, and other threads can run in between.
"""

import re
from collections.abc import Collection, Iterator
from typing import Final

import numpy as np

from osamd.errors import InvalidRequestError
from osamd.wire.pieces import PIECE_BYTES, find

# Between a key and its value.
COLON: Final = re.compile(rb"\s{0,64}:\s{0,64}(?=[\[{])")
LEAST_PIECE_BYTES: Final = 256
MOST_SKIPPED: Final = 10_000
# Maps brackets to 1 and -1 as int8, and everything else to 0.
STEPS: Final = bytes({ord("["): 1, ord("{"): 1, ord("]"): 255, ord("}"): 255}.get(code, 0) for code in range(256))


def without_values(raw: bytes, names: Collection[str]) -> bytes:
    """A JSON body with ``null`` for the lists and objects under some keys, at any depth.

    Args:
        raw: the body in UTF-8; where it is not JSON, the parser will say so.
        names: keys, of ASCII letters.

    Raises:
        InvalidRequestError: there are more than ``MOST_SKIPPED`` of them, or one does not end.
    """
    kept: list[bytes] = []
    done = 0
    for start, end in _places(raw, names):
        kept += [raw[done:start], b"null"]
        done = end
    kept.append(raw[done:])
    return b"".join(kept)


def values_under(raw: bytes, names: Collection[str]) -> Iterator[bytes]:
    """What ``without_values`` leaves out, one after the other; arguments and errors as there."""
    return (raw[start:end] for start, end in _places(raw, names))


def _places(raw: bytes, names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Where the lists and objects under some keys begin and end; none of those within others."""
    count = 0
    following = {name: find(raw, _key(name), 0) for name in names}
    while True:
        name, start = min(following.items(), key=lambda entry: (entry[1] < 0, entry[1]))
        if start < 0:
            return
        after = start + len(_key(name))
        value = COLON.match(raw, after)
        # A key whose quotation mark is escaped is text within a string.
        count += 1
        if count > MOST_SKIPPED:
            raise InvalidRequestError(f"expected at most {MOST_SKIPPED:,} of {', '.join(names)}")
        if value is not None and raw[max(0, start - 1) : start] != b"\\":
            after = _end_of_value(raw, value.end())
            yield value.end(), after
        following = {
            other: find(raw, _key(other), max(after, at)) if 0 <= at < after or other == name else at
            for other, at in following.items()
        }


def _key(name: str) -> bytes:
    return f'"{name}"'.encode("ascii")


def _end_of_value(raw: bytes, start: int) -> int:
    """Where the list or object that begins at ``start`` ends."""
    depth, is_text, position = 0, False, start
    size = LEAST_PIECE_BYTES
    while position < len(raw):
        # Most are empty, so begin with little.
        piece = raw[position : position + size]
        size = min(2 * size, PIECE_BYTES)
        # Do not split an escape.
        rest = len(piece) - len(piece.rstrip(b"\\"))
        if rest % 2:
            piece = raw[position : position + len(piece) + 1]
        plain = piece.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        steps = np.frombuffer(plain.translate(STEPS), np.int8)
        if is_text or b'"' in plain:
            is_inside = np.logical_xor.accumulate(np.frombuffer(plain, np.uint8) == ord('"')) ^ is_text
            steps = steps * ~is_inside
            is_text = bool(is_inside[-1])
        depths = depth + np.cumsum(steps, dtype=np.int32)
        ends = np.flatnonzero(depths <= 0)
        if len(ends):
            return position + int(ends[0]) + 1
        depth = int(depths[-1])
        position += len(piece)
    raise InvalidRequestError("the body is not JSON: unterminated list or object")
