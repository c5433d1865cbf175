"""Outlines of masks for tools whose polygons have no holes, and which simplify them by a share of their length."""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np

from osamd.pixels.masks import TRIANGLE
from osamd.types import IntArray, Mask

# The share of a mask's area that specks beside it may have together, and small holes: a seam is worse.
SPECKS: Final = 0.001
SMALL_HOLES: Final = 0.005
# Of parts and of holes. A mask of noise has a million, which nobody can edit.
MOST: Final = 256
# Of a square with the area 1.
PERIMETER: Final = 4.0


def outlines(mask: Mask, *, factor: float) -> tuple[IntArray, ...]:
    """The parts of a mask as polygons, the largest first.

    A hole becomes part of the outline around it, connected by a seam of no width that is passed twice, so that every
    filling rule leaves the hole out. The first vertex is not on a seam.

    Args:
        mask: at least a pixel.
        factor: each outline may be off by this share of its own length, as with OpenCV's ``approxPolyDP``, or of the
            perimeter of a square with its area, if that is less: ragged outlines are long, not large.

    Returns:
        (n, 2) int64 of each, x and y of at least three vertices, which are centres of mask pixels. Parts without an
        area are left out, and so are the smallest parts and holes, up to ``SPECKS`` and ``SMALL_HOLES`` of the area,
        and all beyond the ``MOST`` largest.
    """
    padded = np.pad(mask.inside.view(np.uint8), 1)
    contours, hierarchy = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy[0, :, 3].tolist()
    areas = [cv2.contourArea(contour) for contour in contours]
    outer = [index for index, parent in enumerate(parents) if parent < 0]
    total = sum(areas[index] for index in outer)
    parts = _largest(outer, areas, rest=SPECKS * total)
    holes = _largest([index for index, parent in enumerate(parents) if parent >= 0], areas, rest=SMALL_HOLES * total)
    shift = np.array([mask.box.xmin - 1, mask.box.ymin - 1])
    simple = {index: _simplified(contours[index], areas[index], factor) for index in (*parts, *holes)}
    found = []
    for part in parts:
        outline = simple[part]
        for hole in holes:
            if parents[hole] == part and len(simple[hole]) >= TRIANGLE:
                outline = _with_hole(outline, simple[hole])
        if len(outline) >= TRIANGLE:
            found.append(outline + shift)
    return tuple(found)


def _largest(indices: Sequence[int], areas: Sequence[float], *, rest: float) -> list[int]:
    """The largest, at most ``MOST``, without those that together have less than the area ``rest``."""
    kept = []
    for index in sorted(indices, key=lambda index: areas[index]):
        rest -= areas[index]
        if rest < 0:
            kept.append(index)
    return kept[: -MOST - 1 : -1]


def _simplified(contour: Any, area: float, factor: float) -> IntArray:
    length = min(cv2.arcLength(contour, closed=True), PERIMETER * area**0.5)
    simple = cv2.approxPolyDP(contour, factor * length, closed=True)
    chosen: IntArray = (contour if len(simple) < TRIANGLE else simple)[:, 0].astype(np.int64)
    return chosen


def _with_hole(outline: IntArray, hole: IntArray) -> IntArray:
    """Connect a hole's first vertex with the nearest one of the outline, except its first."""
    near = 1 + int(((outline[1:] - hole[0]) ** 2).sum(axis=1).argmin())
    return np.concatenate([outline[: near + 1], hole, hole[:1], outline[near:]])
