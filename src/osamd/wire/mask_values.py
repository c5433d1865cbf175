"""Writes masks as JSON values, in pieces.

Nothing here holds the interpreter lock for long, whatever the mask: a value of millions of vertices in one call of a
JSON library would stop the event loop for a second.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from osamd.settings import MaskLayout
from osamd.types import ByteArray, Mask
from osamd.wire.json_pieces import pairs
from osamd.wire.mask_fields import MaskFormat
from osamd.wire.pieces import PIECE_BYTES

if TYPE_CHECKING:
    from osamd.pixels.masks import Polygon

ROWS_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class MaskForm:
    """How to write a mask.

    Attributes:
        layout: whether at the size of the image or of the bounding box.
        mask_format: as requested.
        simplify: tolerance of polygons, in pixels.
        pixels: (H, W, 3) uint8 RGB, the image, for cut-outs; else None.
    """

    layout: MaskLayout
    mask_format: MaskFormat
    simplify: float
    pixels: ByteArray | None

    @property
    def is_whole(self) -> bool:
        """Whether at the size of the image."""
        return self.layout == "full"


def write_mask(mask: Mask, form: MaskForm) -> Iterator[bytes]:
    """A mask as a JSON value, in pieces."""
    from osamd.pixels import masks

    match form.mask_format:
        case "none":
            yield b"null"
        case "cutout":
            yield from _base64_string(cut_out_of(form.pixels, [mask], is_whole=form.is_whole))
        case "polygon":
            yield from _polygons(masks.polygons(mask, tolerance=form.simplify))
        case "rle":
            yield from _run_lengths(mask, is_whole=form.is_whole)
        case _:
            yield from _base64_string(masks.mask_png(mask, is_whole=form.is_whole))


def write_array(data: memoryview, *, shape: Sequence[int], dtype: str) -> Iterator[bytes]:
    """An ``ArraySchema`` as JSON, in pieces.

    Args:
        data: the array's bytes.
        shape: of the array.
        dtype: the name of its numbers' type.
    """
    yield b'{"shape":[%b],"dtype":"%b","data":' % (b",".join(b"%d" % length for length in shape), dtype.encode())
    yield from _base64_string([data])
    yield b"}"


def cut_out_of(pixels: ByteArray | None, masks: Sequence[Mask], *, is_whole: bool) -> Iterator[bytes]:
    """A PNG of the image where the masks are, in pieces; see ``cut_out``.

    Raises:
        RuntimeError: there is no image.
    """
    from osamd.pixels.cutouts import cut_out

    if pixels is None:
        raise RuntimeError("cut-outs need a result with pixels")
    return cut_out(pixels, masks, is_whole=is_whole)


def crossings(mask: Mask) -> int:
    """How often rows enter and leave the mask, which bounds the number of its polygons' vertices."""
    import numpy as np

    inside = mask.inside
    within = sum(
        int(np.count_nonzero(rows[:, 1:] != rows[:, :-1]))
        for start in range(0, len(inside), ROWS_AT_ONCE)
        for rows in (inside[start : start + ROWS_AT_ONCE],)
    )
    # Rows begin and end outside.
    return within + 2 * len(inside)


def _base64_string(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The bytes of all parts together."""
    yield b'"'
    rest = b""
    for part in parts:
        for start in range(0, len(part), PIECE_BYTES):
            data = rest + part[start : start + PIECE_BYTES]
            # Base64 has groups of three bytes.
            whole = len(data) - len(data) % 3
            yield base64.b64encode(data[:whole])
            rest = data[whole:]
    yield base64.b64encode(rest) + b'"'


def _run_lengths(mask: Mask, *, is_whole: bool) -> Iterator[bytes]:
    """An ``RleSchema``."""
    from osamd.pixels.run_lengths import encode_rle

    size = (mask.height, mask.width) if is_whole else mask.inside.shape
    yield b'{"size":[%d,%d],"counts":"' % size
    for piece in encode_rle(mask, is_whole=is_whole):
        # The only one of its characters that JSON escapes.
        yield piece.replace(b"\\", b"\\\\")
    yield b'"}'


def _polygons(parts: Sequence["Polygon"]) -> Iterator[bytes]:
    """A list of ``PolygonSchema``."""
    yield b"["
    for index, part in enumerate(parts):
        yield b',{"exterior":' if index else b'{"exterior":'
        yield from pairs(part.exterior)
        yield b',"holes":['
        for number, hole in enumerate(part.holes):
            if number:
                yield b","
            yield from pairs(hole)
        yield b"]}"
    yield b"]"
