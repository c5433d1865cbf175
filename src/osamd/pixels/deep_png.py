"""16-bit PNG with colour or alpha that need the low bytes; Pillow reads only the high ones.

They are read twice, for the high and for the low bytes, so that memory stays below 8 bytes a pixel.
"""

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from osamd.pixels.png_chunks import COLOR_AT, DEPTH_AT, SIGNATURE
from osamd.pixels.samples import (
    COVERED_SHARE,
    Extent,
    blocks_of_rows,
    choose_scale,
    over_white,
    scale_of_alpha,
)
from osamd.types import ByteArray

SIXTEEN: Final = 16
# PNG's colour types: RGB, grey with alpha, RGB with alpha.
RGB, GREY_WITH_ALPHA, RGB_WITH_ALPHA = 2, 4, 6
KINDS: Final = frozenset({RGB, GREY_WITH_ALPHA, RGB_WITH_ALPHA})
# High bytes from here on mean that samples use all 16 bits.
TOP_BIT: Final = 128

Deep = npt.NDArray[np.uint16]
# Colours and alpha of some rows.
Picture = Callable[[slice], tuple[Deep, Deep | None]]


def needs_all_bits(data: bytes, image: Image.Image) -> bool:
    """Whether the high bytes, which Pillow has read, cover too little of the range to be used without the low ones.

    Args:
        data: the file.
        image: the same image, loaded.
    """
    if not (data.startswith(SIGNATURE) and data[DEPTH_AT] == SIXTEEN and data[COLOR_AT] in KINDS):
        return False
    # Pillow opens grey with alpha as RGBA.
    if image.mode not in {"RGB", "RGBA"} or "transparency" in image.info:
        return False
    ranges: Any = image.getextrema()
    lows, highs = zip(*ranges[:3], strict=True)
    return bool(max(highs) < TOP_BIT or max(highs) - min(lows) <= COVERED_SHARE * 256)


def decode(data: bytes, high: Image.Image, *, into: ByteArray) -> tuple[str, ...]:
    """Write the pixels, RGB over white, as they are stored.

    Args:
        data: the file.
        high: the same image, loaded; closed once its bytes have been copied.
        into: (height, width, 3) uint8.

    Returns:
        What was done to the samples, for humans.
    """
    rows = list(blocks_of_rows(high.height, high.width))
    picture = _grey(data, high) if data[COLOR_AT] == GREY_WITH_ALPHA else _colored(data, high, into)
    extent, alpha_extent = Extent(), Extent()
    for block in rows:
        colors, alpha = picture(block)
        extent = extent.with_samples(colors, None)
        if alpha is not None:
            alpha_extent = alpha_extent.with_samples(alpha, None)
    dtype = np.dtype(np.uint16)
    scale = choose_scale(extent, dtype)
    alpha_scale = scale_of_alpha(scale, alpha_extent, dtype)
    for block in rows:
        colors, alpha = picture(block)
        reduced = np.broadcast_to(scale.apply(colors), into[block].shape)
        into[block] = reduced if alpha is None else over_white(reduced, alpha_scale.apply(alpha))
    return (scale.note(),) if scale.note() else ()


def _grey(data: bytes, high: Image.Image) -> Picture:
    """Grey with alpha: two samples of two bytes fit into four bands of 8 bits."""
    high.close()
    picture = _loaded(data, "RGBA", mode="RGBA")

    def block(rows: slice) -> tuple[Deep, Deep | None]:
        samples = np.asarray(picture.crop((0, rows.start, picture.width, rows.stop))).view(">u2").astype(np.uint16)
        return samples[:, :, :1], samples[:, :, 1]

    return block


def _colored(data: bytes, high: Image.Image, into: ByteArray) -> Picture:
    """Colour: the high bytes are stored where the pixels will be; the low ones are read in place of high ones."""
    mode, width = high.mode, high.width
    high_alpha = np.empty((high.height, width), np.uint8) if mode == "RGBA" else None
    for rows in blocks_of_rows(high.height, width):
        upper = np.asarray(high.crop((0, rows.start, width, rows.stop)))
        into[rows] = upper[:, :, :3]
        if high_alpha is not None:
            high_alpha[rows] = upper[:, :, 3]
    high.close()
    low = _loaded(data, f"{mode};16L")

    def block(rows: slice) -> tuple[Deep, Deep | None]:
        lower = np.asarray(low.crop((0, rows.start, width, rows.stop)))
        colors = into[rows].astype(np.uint16) << 8 | lower[:, :, :3]
        return colors, None if high_alpha is None else high_alpha[rows].astype(np.uint16) << 8 | lower[:, :, 3]

    return block


def _loaded(data: bytes, raw_mode: str, *, mode: str | None = None) -> Image.Image:
    """The PNG with another bit depth and colour type in its header, but as many bytes per pixel."""
    picture = PngImagePlugin.PngImageFile(io.BytesIO(data))
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
    if mode is not None:
        picture._mode = mode  # noqa: SLF001 - only settable by plugins
    picture.load()
    return picture
