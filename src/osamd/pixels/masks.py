"""Mask logits to masks, and masks to boxes, PNG, COCO run lengths and polygons. Pure functions.

OpenCV does resizing, connected components and contours; zlib-ng compresses PNG; pycocotools writes the run lengths, so
that they are COCO's to the byte.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from zlib_ng import zlib_ng

from osamd.types import Box, ByteArray, Mask, MaskLogits

# How much faster OpenCV resizes than it warps, measured: 0.15 against 1.5 ns a pixel.
RESIZE_ADVANTAGE = 8
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of IHDR: 8 bits, grey, and the only methods of compression, filter and interlacing that matter here.
GREY_8_BIT = bytes([8, 0, 0, 0, 0])
PNG_LEVEL = 1
PNG_MEMORY_LEVEL = 9


def mask_from_logits(logits: MaskLogits, *, height: int, width: int) -> Mask | None:
    """Upsample logits bilinearly to the image, threshold them, and cut out the object.

    Only the region that can hold the object is upsampled: the box of the low-resolution pixels above the threshold,
    and one pixel more on each side, since bilinear interpolation reaches no further.

    Args:
        logits: a candidate.
        height: rows of the image.
        width: columns of the image.

    Returns:
        The mask, or None when nothing is above the threshold.
    """
    rows = max(1, min(logits.values.shape[0], math.ceil(logits.valid_height)))
    columns = max(1, min(logits.values.shape[1], math.ceil(logits.valid_width)))
    values = logits.values[:rows, :columns]
    above = values > logits.threshold
    if not above.any():
        return None
    scale_y, scale_x = logits.valid_height / height, logits.valid_width / width
    y0, y1 = _reach(above.any(axis=1), scale_y, height)
    x0, x1 = _reach(above.any(axis=0), scale_x, width)
    upsampled = _upsample(
        np.ascontiguousarray(values, np.float32), rows=(y0, y1), columns=(x0, x1), scale_y=scale_y, scale_x=scale_x
    )
    inside = upsampled > logits.threshold
    return mask_from_array(inside, offset=(x0, y0), height=height, width=width)


def _upsample(
    values: npt.NDArray[np.float32],
    *,
    rows: tuple[int, int],
    columns: tuple[int, int],
    scale_y: float,
    scale_x: float,
) -> npt.NDArray[np.float32]:
    """A window of low-resolution values at the image's size, bilinearly.

    Destination pixel centre (x + 0.5) maps to source (x + 0.5) * scale - 0.5: half-pixel centres, as in SAM's own
    post-processing (align_corners=False).

    Args:
        values: (h, w) float32.
        rows: first row of the window in the image, and the one behind its last.
        columns: the same for columns.
        scale_y: rows of ``values`` for one row of the image.
        scale_x: columns of ``values`` for one column of the image.
    """
    (y0, y1), (x0, x1) = rows, columns
    reached = values[: math.ceil(y1 * scale_y + 1.5), : math.ceil(x1 * scale_x + 1.5)]
    resized_shape = (round(reached.shape[0] / scale_y), round(reached.shape[1] / scale_x))
    # Resizing begins at the image's corner, but is so much faster that it may do more. To the same size OpenCV would
    # copy, whatever the factors are.
    if x1 * y1 <= RESIZE_ADVANTAGE * (x1 - x0) * (y1 - y0) and resized_shape != reached.shape:
        # Told factors instead of a size, OpenCV takes them as they are, so the scale stays exact.
        resized = cv2.resize(reached, None, fx=1 / scale_x, fy=1 / scale_y, interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)[y0:y1, x0:x1]
    to_source = np.array(
        [[scale_x, 0.0, (x0 + 0.5) * scale_x - 0.5], [0.0, scale_y, (y0 + 0.5) * scale_y - 0.5]], np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    window = cv2.warpAffine(values, to_source, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(window, np.float32)


def _reach(above: Any, scale: float, length: int) -> tuple[int, int]:
    """The image rows or columns that the True entries of a low-resolution profile, (n,) bool, can influence."""
    hits = np.flatnonzero(above)
    first = math.floor((hits[0] - 0.5) / scale - 1)
    last = math.ceil((hits[-1] + 1.5) / scale + 1)
    return max(0, first), min(length, last)


def mask_from_array(inside: npt.NDArray[np.bool_], *, offset: tuple[int, int], height: int, width: int) -> Mask | None:
    """Shrink a piece of a mask to its bounding box.

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
    """The mask inside its box: uint8, 0 or 255."""
    return mask.inside.view(np.uint8) * np.uint8(255)


def encode_png(pixels: ByteArray) -> bytes:
    """An 8-bit grey PNG (ISO/IEC 15948) of (h, w) uint8 pixels.

    Eight bits although one would do: clients read masks with ``> 127``, and some decoders give 0 and 1 for one-bit PNG.
    Of masks, whose rows are few long runs, zlib's run-length strategy makes the smallest files, and the fastest.
    """
    height, width = pixels.shape
    # A row begins with the number of its filter, which is none.
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = pixels
    stream = zlib_ng.compressobj(PNG_LEVEL, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, PNG_MEMORY_LEVEL, zlib_ng.Z_RLE)
    compressed = stream.compress(rows) + stream.flush()
    header = struct.pack(">II", width, height) + GREY_8_BIT
    return PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", compressed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib_ng.crc32(kind + data))


def encode_color_png(pixels: ByteArray) -> bytes:
    """A PNG of (H, W, 3) uint8 RGB pixels."""
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV wrote no PNG")
    return data.tobytes()


# Colours that stay apart for most kinds of colour vision (Okabe and Ito, 2008), RGB.
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


@dataclass(frozen=True, slots=True)
class RunLengths:
    """COCO's compressed run-length encoding.

    Attributes:
        size: rows and columns.
        counts: the compressed string; columns first, as COCO has it.
    """

    size: tuple[int, int]
    counts: str


def encode_rle(pixels: ByteArray) -> RunLengths:
    """COCO run lengths of (h, w) uint8 pixels, where non-zero means object; what pycocotools' ``decode`` reads."""
    encoded = cast("dict[str, Any]", coco.encode(np.asfortranarray(pixels > 0, np.uint8)))
    return RunLengths(size=(pixels.shape[0], pixels.shape[1]), counts=encoded["counts"].decode("ascii"))


Ring = tuple[tuple[int, int], ...]
# Vertices of a ring with an area.
TRIANGLE = 3


@dataclass(frozen=True, slots=True)
class Polygon:
    """One 8-connected part of a mask, in image pixels.

    The vertices are centres of mask pixels, of the hole's rim too. A pixel belongs to the part exactly when its centre
    is inside or on ``exterior`` and not strictly inside any of ``holes`` (what GEOS and shapely call ``covers``). An
    island in a hole is a part of its own.
    """

    exterior: Ring
    holes: tuple[Ring, ...]


def polygons(mask: Mask, *, tolerance: float = 0.0) -> tuple[Polygon, ...]:
    """The mask as polygons with holes, the largest first.

    Contours are followed by OpenCV (Suzuki and Abe, 1985).

    Args:
        mask: at least a pixel.
        tolerance: 0 leaves no vertex out, so that the polygons are exact. Otherwise vertices are left out as long as no
            point of the outline is further than so many pixels from the simplified one (Douglas and Peucker, 1973);
            parts and holes of which no area is left are left out too, but for the largest part.
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
    rings: list[Ring] = [tuple((int(x), int(y)) for x, y in outline[:, 0] + shift) for outline in outlines]
    fewest = TRIANGLE if tolerance else 1
    holes: dict[int, list[Ring]] = {}
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0 and len(ring) >= fewest:
            holes.setdefault(parent, []).append(ring)
    shown = [index for index in parts if len(rings[index]) >= fewest or index == parts[0]]
    return tuple(Polygon(rings[index], tuple(holes.get(index, ()))) for index in shown)
