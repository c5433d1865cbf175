"""The header of a JPEG 2000 codestream, by which OpenJPEG allocates memory, whatever the container says.

Written after ISO/IEC 15444-1, annex A.
"""

import math
import struct
from dataclasses import dataclass
from typing import Final

from osamd.errors import InvalidImageError

FILE_SIGNATURE: Final = b"\0\0\0\x0cjP  \r\n\x87\n"
# Start of codestream, and the size marker that must follow it.
CODESTREAM: Final = b"\xff\x4f\xff\x51"
SIZE: Final = struct.Struct(">HHIIIIIIIIH")
CODING_STYLE: Final = b"\xff\x52"
MOST_COMPONENTS: Final = 4
# OpenJPEG allocates about a kilobyte for each component of each tile.
MOST_TILES: Final = 4096
# OpenJPEG decodes to int32.
COMPONENT_BYTES: Final = 4
MOST_HALVINGS: Final = 3


@dataclass(frozen=True, slots=True)
class Codestream:
    """Columns, rows and components, and how often the size can be halved while decoding."""

    width: int
    height: int
    components: int
    halvings: int

    def nbytes(self, halvings: int) -> int:
        """Bytes that OpenJPEG decodes to after this many halvings."""
        scale = 1 << halvings
        return math.ceil(self.width / scale) * math.ceil(self.height / scale) * self.components * COMPONENT_BYTES


def is_jpeg2000(data: bytes) -> bool:
    """Whether the bytes begin like a JPEG 2000 file or codestream."""
    return data.startswith((FILE_SIGNATURE, CODESTREAM))


def codestream_of(data: bytes) -> Codestream:
    """Read the header of the codestream.

    Raises:
        InvalidImageError: there is none, or it has too many components or tiles.
    """
    start = data.find(CODESTREAM)
    try:
        _, _, x1, y1, x0, y0, tile_x, tile_y, _, _, components = SIZE.unpack_from(data, start + len(CODESTREAM))
        style = data.index(CODING_STYLE, start)
        # After the marker: length, style, progression, layers and transform; then the levels.
        levels = data[style + 9]
        width, height = x1 - x0, y1 - y0
        tiles = math.ceil(x1 / tile_x) * math.ceil(y1 / tile_y)
    except (struct.error, ValueError, IndexError, ZeroDivisionError):
        raise InvalidImageError("the image is corrupt: its JPEG 2000 codestream has no header", field="image") from None
    if start < 0 or not 0 < components <= MOST_COMPONENTS or tiles > MOST_TILES:
        raise InvalidImageError(
            f"the JPEG 2000 has {components} components and {tiles} tiles;"
            f" the limits are {MOST_COMPONENTS} and {MOST_TILES}",
            field="image",
        )
    return Codestream(width, height, components, min(levels, MOST_HALVINGS))


def halvings_for(codestream: Codestream, *, rows: int, columns: int) -> int:
    """How often the size can be halved with at least this many rows and columns left."""
    fitting = (
        count
        for count in range(codestream.halvings, 0, -1)
        if codestream.height >> count >= rows and codestream.width >> count >= columns
    )
    return next(fitting, 0)
