"""Thresholds low-resolution values at the resolution of an image, without an array of float32 of the image's size.

That would be 200 MB for 50 megapixels, which the kernel would map for each mask, and clear in 30 ms.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from osamd.types import BoolArray

Values = npt.NDArray[np.float32]
# What OpenCV may resize in one call, 16 MiB: faster than in blocks, and small enough for the heap.
RESIZED_PIXELS: Final = 1 << 22
# Pixels in a block, so that it stays in the processor's cache.
BLOCK_PIXELS: Final = 1 << 16


def above_threshold(
    values: Values,
    threshold: float,
    *,
    rows: tuple[int, int],
    columns: tuple[int, int],
    scale_y: float,
    scale_x: float,
    origin: tuple[float, float] = (0.0, 0.0),
) -> BoolArray:
    """Where bilinearly upsampled values exceed a threshold, in a window of the image.

    Destination pixel centre (x + 0.5) maps to source (x + 0.5 - origin) * scale - 0.5: half-pixel centres, as in SAM's
    own post-processing (align_corners=False). Beyond the outermost centres, values are repeated.

    Small windows are resized by OpenCV, large ones and those of values with an origin in blocks, with coordinates in
    float64. They round differently, so pixels whose exact value is next to the threshold may differ: within a millionth
    of the largest value where OpenCV uses Intel's library, else, with its coordinates in float32, within some
    hundred-thousandths.

    Args:
        values: (h, w) float32.
        threshold: values above it are inside.
        rows: first row of the window in the image, and one past its last.
        columns: the same for columns.
        scale_y: rows of ``values`` per row of the image.
        scale_x: columns of ``values`` per column of the image.
        origin: x and y of the top-left edge of ``values`` in the image.

    Returns:
        (rows, columns) bool, of the window.
    """
    (y0, y1), (x0, x1) = rows, columns
    reached = values[: math.ceil(y1 * scale_y + 1.5), : math.ceil(x1 * scale_x + 1.5)]
    resized_shape = (round(reached.shape[0] / scale_y), round(reached.shape[1] / scale_x))
    # resize has to start at the image's corner, but is fast enough to compute more than needed. At equal size OpenCV
    # would copy, ignoring the factors.
    if not any(origin) and x1 * y1 <= RESIZED_PIXELS and resized_shape != reached.shape:
        # Given factors instead of a size, OpenCV uses the exact scale.
        resized = cv2.resize(reached, None, fx=1 / scale_x, fy=1 / scale_y, interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)[y0:y1, x0:x1] > threshold
    return _in_blocks(
        values,
        np.float32(threshold),
        across=_places(columns, scale_x, values.shape[1], origin[0]),
        down=_places(rows, scale_y, values.shape[0], origin[1]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Between which source pixels each of a window is, along one axis.

    Attributes:
        before: the index of the first.
        share: of the second, 0..1.
    """

    before: npt.NDArray[np.intp]
    share: Values


def _in_blocks(values: Values, threshold: np.float32, *, across: _Places, down: _Places) -> BoolArray:
    """``above_threshold``, a block of rows at a time."""
    first = int(down.before[0])
    before = down.before - first
    values = values[first : first + int(before[-1]) + 2]
    wide = np.take(values, across.before, axis=1)
    wide += (np.take(values, across.before + 1, axis=1, mode="clip") - wide) * across.share
    # value + gain * share > threshold, with as few operations a pixel as possible.
    gain = np.diff(wide, axis=0, append=wide[-1:])
    missing = threshold - wide
    height, width = len(before), wide.shape[1]
    most = min(height, max(1, BLOCK_PIXELS // width))
    gained, needed = np.empty((2, most, width), np.float32)
    inside = np.empty((height, width), np.bool_)
    for start in range(0, height, most):
        some = before[start : start + most]
        block = slice(0, len(some))
        # Without "clip", NumPy would fill a copy first.
        np.take(gain, some, axis=0, out=gained[block], mode="clip")
        np.take(missing, some, axis=0, out=needed[block], mode="clip")
        gained[block] *= down.share[start : start + most, np.newaxis]
        np.greater(gained[block], needed[block], out=inside[start : start + most])
    return inside


def _places(window: tuple[int, int], scale: float, length: int, origin: float) -> _Places:
    """The places of a window's pixels in ``length`` source pixels that start at ``origin`` in the image."""
    places = np.clip((np.arange(*window) + 0.5 - origin) * scale - 0.5, 0, length - 1)
    before = np.minimum(places.astype(np.intp), max(0, length - 2))
    return _Places(before, (places - before).astype(np.float32))
