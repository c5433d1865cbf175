"""Mask logits to masks, and masks to boxes, PNG and polygons. Pure functions.

OpenCV finds connected components and contours; zlib-ng compresses PNG. COCO's run lengths are in ``run_lengths``.

What is as large as an image is processed in blocks of rows: the kernel maps and clears arrays of tens of megabytes for
each use, and a few requests at a time would need gigabytes.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from osamd.pixels.upsampling import above_threshold
from osamd.types import Box, ByteArray, IntArray, Mask, MaskLogits

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour types of IHDR.
GREY, INDEXED = 0, 3
PNG_LEVEL = 1
PNG_MEMORY_LEVEL = 9
# Pixels of a PNG compressed at a time, which takes some milliseconds.
BLOCK_PIXELS = 1 << 20


def mask_from_logits(logits: MaskLogits, *, height: int, width: int) -> Mask | None:
    """Upsample mask logits bilinearly to the image's size, threshold them, and crop the mask.

    Only the region that can contain the object is upsampled: the box of the low-resolution pixels above the threshold,
    plus one pixel on each side, the reach of bilinear interpolation.

    Args:
        logits: a candidate.
        height: rows of the image.
        width: columns of the image.

    Returns:
        The mask, or None if nothing is above the threshold.
    """
    if logits.detail is not None:
        values, edges = logits.detail.values, logits.detail.window
        valid_height, valid_width = map(float, values.shape)
    else:
        rows = max(1, min(logits.values.shape[0], math.ceil(logits.valid_height)))
        columns = max(1, min(logits.values.shape[1], math.ceil(logits.valid_width)))
        values, edges = logits.values[:rows, :columns], (0.0, 0.0, float(width), float(height))
        valid_height, valid_width = logits.valid_height, logits.valid_width
    above = values > logits.threshold
    if not above.any():
        return None
    left, top, right, bottom = edges
    scale_y, scale_x = valid_height / (bottom - top), valid_width / (right - left)
    down, across = _reach(above.any(axis=1), scale_y, top, bottom), _reach(above.any(axis=0), scale_x, left, right)
    inside = above_threshold(
        np.ascontiguousarray(values, np.float32),
        logits.threshold,
        rows=down,
        columns=across,
        scale_y=scale_y,
        scale_x=scale_x,
        origin=(left, top),
    )
    return mask_from_array(inside, offset=(across[0], down[0]), height=height, width=width)


def _reach(above: Any, scale: float, start: float, end: float) -> tuple[int, int]:
    """The image rows or columns that the True entries of a low-resolution profile, (n,) bool, can affect.

    The profile lies between two edges in the image, and so do the centres of the rows.
    """
    hits = np.flatnonzero(above)
    first = math.floor(start + (hits[0] - 0.5) / scale - 1)
    last = math.ceil(start + (hits[-1] + 1.5) / scale + 1)
    return max(math.ceil(start - 0.5), first), min(math.ceil(end - 0.5), last)


def mask_from_array(inside: npt.NDArray[np.bool_], *, offset: tuple[int, int], height: int, width: int) -> Mask | None:
    """Crop a piece of a mask to its bounding box.

    Args:
        inside: (h, w) bool.
        offset: x and y of its top-left pixel in the image.
        height: rows of the image.
        width: columns of the image.
    """
    rows = np.flatnonzero(inside.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(inside.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    x, y = offset
    return Mask(
        inside=np.ascontiguousarray(inside[top : bottom + 1, left : right + 1]),
        box=Box(x + left, y + top, x + right, y + bottom),
        height=height,
        width=width,
    )


def full_array(mask: Mask) -> ByteArray:
    """The mask at image size: (height, width) uint8, 0 or 255."""
    full = np.zeros((mask.height, mask.width), np.uint8)
    paint(full, mask)
    return full


def paint(canvas: ByteArray, mask: Mask) -> None:
    """Set the mask's pixels of a (height, width) uint8 canvas to 255."""
    box = mask.box
    window = canvas[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1]
    np.maximum(window, cropped_array(mask), out=window)


def cropped_array(mask: Mask) -> ByteArray:
    """The mask within its box: uint8, 0 or 255."""
    return mask.inside.view(np.uint8) * np.uint8(255)


def encode_png(pixels: ByteArray) -> bytes:
    """Encode (h, w) uint8 pixels as an 8-bit grey PNG (ISO/IEC 15948).

    Eight bits rather than one: clients test ``> 127``, and some decoders return 0 and 1 for one-bit PNG. Masks have
    rows of few long runs, for which zlib's run-length strategy is fastest and gives the smallest files.
    """
    return _png(pixels, GREY)


def encode_labels(labels: ByteArray) -> bytes:
    """Encode (h, w) uint8 labels as an indexed PNG whose pixel values are the labels; 0 is black.

    Labels that follow each other have colours that are easy to tell apart.
    """
    steps = np.arange(256)
    # Hues a golden ratio apart, at three levels of brightness.
    hues = np.stack([steps * 0.618034 % 1 * 180, np.full(256, 170), 255 - steps % 3 * 55], axis=1)
    palette = cv2.cvtColor(hues.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    palette[0] = 0
    return _png(labels, INDEXED, png_chunk(b"PLTE", palette.tobytes()))


def _png(pixels: ByteArray, color_type: int, palette: bytes = b"") -> bytes:
    height, width = pixels.shape
    compressed = b"".join(_compressed(_rows_of(pixels)))
    head = png_head(width=width, height=height, color_type=color_type)
    return head + palette + png_chunk(b"IDAT", compressed) + PNG_END


def mask_png(mask: Mask, *, is_whole: bool) -> Iterator[bytes]:
    """Encode a mask as ``encode_png`` does, in pieces, without an array of its size.

    Args:
        mask: what to encode.
        is_whole: whether at the size of the image, instead of the mask's bounding box.
    """
    height, width = (mask.height, mask.width) if is_whole else mask.inside.shape
    yield png_head(width=width, height=height, color_type=GREY)
    for data in _compressed(_rows_of_mask(mask, is_whole=is_whole)):
        yield png_chunk(b"IDAT", data)
    yield PNG_END


def _blocks(height: int, width: int) -> Iterator[tuple[int, int, ByteArray]]:
    """Blocks of a PNG's rows: the first, one past the last, and an array to fill, which is the same for all blocks.

    Each row begins with its filter type, 0 for none.
    """
    most = max(1, BLOCK_PIXELS // width)
    rows = np.zeros((min(most, height), width + 1), np.uint8)
    for start in range(0, height, most):
        end = min(start + most, height)
        yield start, end, rows[: end - start]


def _rows_of(pixels: ByteArray) -> Iterator[ByteArray]:
    for start, end, rows in _blocks(*pixels.shape):
        rows[:, 1:] = pixels[start:end]
        yield rows


def _rows_of_mask(mask: Mask, *, is_whole: bool) -> Iterator[ByteArray]:
    inside = mask.inside.view(np.uint8)
    height, width = (mask.height, mask.width) if is_whole else inside.shape
    top, left = (mask.box.ymin, mask.box.xmin + 1) if is_whole else (0, 1)
    for start, end, rows in _blocks(height, width):
        first, last = max(start, top), min(end, top + len(inside))
        rows[:, left : left + inside.shape[1]] = 0
        if first < last:
            part = rows[first - start : last - start, left : left + inside.shape[1]]
            np.multiply(inside[first - top : last - top], np.uint8(255), out=part)
        yield rows


def _compressed(blocks: Iterable[ByteArray]) -> Iterator[bytes]:
    """The zlib stream of the blocks, in pieces; empty ones are left out."""
    stream = png_compressor()
    # Joined with what follows, so that small pictures are one piece.
    before = b""
    for rows in blocks:
        if before:
            yield before
        before = stream.compress(rows)
    yield before + stream.flush()


def png_compressor() -> Any:
    """A zlib-ng stream for the rows of a PNG."""
    return zlib_ng.compressobj(PNG_LEVEL, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, PNG_MEMORY_LEVEL, zlib_ng.Z_RLE)


def png_head(*, width: int, height: int, color_type: int) -> bytes:
    """The signature and header of a PNG with 8 bits per sample, not interlaced."""
    # The last three: default compression and filter methods, not interlaced.
    return PNG_SIGNATURE + png_chunk(b"IHDR", struct.pack(">II", width, height) + bytes([8, color_type, 0, 0, 0]))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib_ng.crc32(kind + data))


PNG_END = png_chunk(b"IEND", b"")


def encode_color_png(pixels: ByteArray) -> bytes:
    """Encode (H, W, 3) uint8 RGB pixels as PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV failed to encode a PNG")
    return data.tobytes()


# Colours that most people with colour-vision deficiencies can distinguish (Okabe and Ito, 2008), RGB.
COLORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66))
OVERLAY_OPACITY = 0.45


def overlay(image: ByteArray, masks: Sequence[Mask]) -> ByteArray:
    """The image with each mask tinted in its own colour and outlined.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: of that image.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = image.copy()
    thickness = max(2, round(max(image.shape[:2]) / 400))
    for index, mask in enumerate(masks):
        color = COLORS[index % len(COLORS)]
        box = mask.box
        window = canvas[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1]
        tinted = window * (1 - OVERLAY_OPACITY) + np.array(color) * OVERLAY_OPACITY
        window[mask.inside] = tinted[mask.inside].astype(np.uint8)
        padded = np.pad(mask.inside.view(np.uint8), 1)
        contours, _ = cv2.findContours(
            padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(box.xmin - 1, box.ymin - 1)
        )
        cv2.drawContours(canvas, contours, -1, color, thickness, lineType=cv2.LINE_AA)
    return canvas


# The fewest vertices of a ring with an area.
TRIANGLE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """One 8-connected part of a mask, in image pixels.

    Rings are (n, 2) int64, x and y of vertices, which are centres of mask pixels, also around holes. A pixel belongs to
    the part exactly if its centre is inside or on ``exterior`` and not strictly inside any of ``holes`` (what GEOS and
    shapely call ``covers``). An island in a hole is a separate part.
    """

    exterior: IntArray
    holes: tuple[IntArray, ...]


def polygons(mask: Mask, *, tolerance: float = 0.0) -> tuple[Polygon, ...]:
    """The mask as polygons with holes, the largest first.

    Contours are traced by OpenCV (Suzuki and Abe, 1985).

    Args:
        mask: at least a pixel.
        tolerance: 0 keeps every vertex, so that the polygons are exact. Otherwise vertices are dropped as long as no
            point of the outline is further than this many pixels from the simplified one (Douglas and Peucker, 1973);
            parts and holes without any area left are dropped as well, except the largest part.
    """
    # One pixel of margin: without it OpenCV cannot tell a part at the border from the frame.
    padded = np.pad(mask.inside.view(np.uint8), 1)
    shift = np.array([mask.box.xmin - 1, mask.box.ymin - 1])
    contours, hierarchy = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy[0, :, 3].tolist()
    parts = [index for index, parent in enumerate(parents) if parent < 0]
    parts.sort(key=lambda index: -cv2.contourArea(contours[index]))
    outlines = [cv2.approxPolyDP(contour, tolerance, closed=True) if tolerance else contour for contour in contours]
    if tolerance and len(outlines[parts[0]]) < TRIANGLE:
        outlines[parts[0]] = contours[parts[0]]
    rings: list[IntArray] = [outline[:, 0] + shift for outline in outlines]
    fewest = TRIANGLE if tolerance else 1
    holes: dict[int, list[IntArray]] = {}
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0 and len(ring) >= fewest:
            holes.setdefault(parent, []).append(ring)
    shown = [index for index in parts if len(rings[index]) >= fewest or index == parts[0]]
    return tuple(Polygon(rings[index], tuple(holes.get(index, ()))) for index in shown)
