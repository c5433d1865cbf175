"""Encode NumPy arrays as lossless PNG without an image library, which users of the client may not have."""

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

from osamd.errors import InvalidImageError

if TYPE_CHECKING:
    import numpy as np

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# PNG's colour types by the number of channels: grey, grey with alpha, RGB, RGBA.
COLOR_TYPES: Final = {1: 0, 2: 4, 3: 2, 4: 6}
SUB_FILTER: Final = 1
# Higher levels are slower without making photos much smaller.
LEVEL: Final = 1
PLANE, CHANNELS = 2, 3
BYTES_OF_DEEPEST: Final = 2


def array_to_png(pixels: "np.ndarray[Any, Any]") -> bytes:
    """Encode an array as PNG.

    Args:
        pixels: (H, W), (H, W, 1) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGBA; uint8, uint16,
            which the server scales by the range in use (docs/guides/images.md), or bool for black and white.

    Raises:
        InvalidImageError: it has another shape or type, or no pixels.
    """
    import numpy as np

    channels = 1 if pixels.ndim == PLANE else pixels.shape[-1] if pixels.ndim == CHANNELS else 0
    if channels not in COLOR_TYPES:
        raise InvalidImageError(
            f"expected an array of shape (H, W), (H, W, 3) or (H, W, 4), got {pixels.shape}", field="image"
        )
    if pixels.size == 0:
        raise InvalidImageError(f"the array has no pixels: its shape is {pixels.shape}", field="image")
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    # Of either byte order.
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > BYTES_OF_DEEPEST:
        raise InvalidImageError(
            f"expected an array of uint8 or uint16, got {pixels.dtype}: scale it first, such as"
            " (array * 255).astype(np.uint8) for floats from 0 to 1",
            field="image",
        )
    height, width = pixels.shape[:2]
    depth = pixels.dtype.itemsize
    # PNG is big-endian.
    samples = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">"))
    rows = samples.view(np.uint8).reshape(height, width * channels * depth)
    # Differences to the previous pixel compress far better than the pixels of a photo.
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    step = channels * depth
    filtered[:, 0] = SUB_FILTER
    filtered[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, COLOR_TYPES[channels], 0, 0, 0)
    data = zlib.compress(filtered.data, LEVEL)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
