"""Converts osam's nested lists of an embedding to base64, row by row.

Parsing a million numbers in one call holds the interpreter lock for a tenth of a second. A row takes microseconds, and
other threads can run between rows.
"""

import array
import base64
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic_core import from_json

from osamd.wire.pieces import pieces

OPENING: Final = re.compile(rb"\[\s{0,4096}\[\s{0,4096}\[")
# Matches the content of a row, and what follows it.
ROW: Final = re.compile(
    rb"([^\[\]{}\"]{1,100000})\]\s{0,4096}"
    rb"(?:(?P<row>,\s{0,4096}\[)|(?P<channel>\]\s{0,4096},\s{0,4096}\[\s{0,4096}\[)|(?P<end>\]\s{0,4096}\]))"
)
# osam's largest embedding, SAM's, has 16 384 rows and a million values.
MOST_ROWS: Final = 65_536
MOST_VALUES: Final = 2_500_000
# In Python they are numbers.
BOOLEANS: Final = (b"true", b"false")


@dataclass(frozen=True, slots=True)
class Respelt:
    """Nested lists in base64.

    Attributes:
        shape: (C, H, W).
        base64: the values, float32.
        end: where the lists end in the body.
    """

    shape: tuple[int, int, int]
    base64: bytes
    end: int

    def array_named(self, name: str) -> bytes:
        """The array in osam's base64 form, with a placeholder for the base64."""
        shape = ",".join(map(str, self.shape))
        return f'{{"shape":[{shape}],"dtype":"float32","data":"{name}"}}'.encode()


def respell(raw: bytes, start: int) -> Respelt | None:
    """Convert the triply nested lists that begin at ``start``; None if there are none.

    Lists with rows of different lengths, too many rows, or anything but numbers are left unchanged, so that the JSON
    parser reports what is wrong with them.
    """
    opening = OPENING.match(raw, start)
    if opening is None:
        return None
    values = array.array("d")
    rows_of_channels = [0]
    width, position, following, rows = 0, opening.end(), "row", 0
    while following != "end":
        row = ROW.match(raw, position)
        rows += 1
        if row is None or rows > MOST_ROWS or len(values) > MOST_VALUES or any(word in row[1] for word in BOOLEANS):
            return None
        try:
            numbers = from_json(b"[" + row[1] + b"]")
            values.extend(numbers)
        # Not JSON, or not numbers.
        except (ValueError, TypeError, OverflowError):
            return None
        width = width or len(numbers)
        if len(numbers) != width:
            return None
        rows_of_channels[-1] += 1
        position, following = row.end(), str(row.lastgroup)
        if following == "channel":
            rows_of_channels.append(0)
    if len(set(rows_of_channels)) > 1:
        return None
    with np.errstate(over="ignore"):
        data = np.frombuffer(values, np.float64).astype(np.float32).tobytes()
    encoded = b"".join(map(base64.b64encode, pieces(data)))
    return Respelt((len(rows_of_channels), rows_of_channels[0], width), encoded, position)
