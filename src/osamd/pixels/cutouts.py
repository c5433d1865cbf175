"""Objects cut out of their image: the image where a mask is, transparent everywhere else. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from osamd.pixels.masks import PNG_END, png_chunk, png_compressor, png_head
from osamd.types import Box, ByteArray, Mask

OPAQUE: Final = 255
ALPHA: Final = 3
CHANNELS: Final = 4
# PNG's number for RGB with alpha.
RGBA: Final = 6
# PNG's filter type for the difference to the pixel on the left.
SUB: Final = 1
# Bytes of rows compressed at a time, which takes some milliseconds.
BLOCK_BYTES: Final = 1 << 20


def cut_out(pixels: ByteArray, masks: Sequence[Mask], *, is_whole: bool) -> Iterator[bytes]:
    """Encode a cut-out as PNG with alpha.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        masks: of this image; their union is visible.
        is_whole: whether the PNG has the size of the image, instead of the masks' bounding box.

    Returns:
        The PNG, in pieces; pixels outside all masks are black and transparent.
    """
    window = _whole(pixels) if is_whole or not masks else _around(masks)
    canvas = np.zeros((window.ymax - window.ymin + 1, window.xmax - window.xmin + 1, 4), np.uint8)
    for mask in masks:
        box = mask.box
        part = canvas[
            box.ymin - window.ymin : box.ymax - window.ymin + 1, box.xmin - window.xmin : box.xmax - window.xmin + 1
        ]
        colors = pixels[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1]
        np.copyto(part[:, :, :ALPHA], colors, where=mask.inside[:, :, np.newaxis])
        part[:, :, ALPHA][mask.inside] = OPAQUE
    return encode_rgba_png(canvas)


def encode_rgba_png(pixels: ByteArray) -> Iterator[bytes]:
    """Encode (h, w, 4) uint8 RGBA pixels as a PNG, in pieces.

    OpenCV returns a PNG in one piece, copied while it holds the interpreter lock, takes four times as long, and makes
    larger files.
    """
    height, width = pixels.shape[:2]
    yield png_head(width=width, height=height, color_type=RGBA)
    rows = pixels.reshape(height, width * CHANNELS)
    stream = png_compressor()
    step = max(1, BLOCK_BYTES // (width * CHANNELS))
    for start in range(0, height, step):
        block = rows[start : start + step]
        filtered = np.empty((len(block), 1 + width * CHANNELS), np.uint8)
        filtered[:, 0] = SUB
        filtered[:, 1 : 1 + CHANNELS] = block[:, :CHANNELS]
        np.subtract(block[:, CHANNELS:], block[:, :-CHANNELS], out=filtered[:, 1 + CHANNELS :])
        yield png_chunk(b"IDAT", stream.compress(filtered))
    yield png_chunk(b"IDAT", stream.flush()) + PNG_END


def _whole(pixels: ByteArray) -> Box:
    return Box(0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1)


def _around(masks: Sequence[Mask]) -> Box:
    boxes = [mask.box for mask in masks]
    return Box(
        min(box.xmin for box in boxes),
        min(box.ymin for box in boxes),
        max(box.xmax for box in boxes),
        max(box.ymax for box in boxes),
    )
