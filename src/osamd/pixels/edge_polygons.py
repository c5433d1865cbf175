"""Outlines of masks between pixels, for tools in whose coordinates a pixel is a square and not a point."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from osamd.types import AnyFloatArray, BoolArray, ByteArray, Mask

# Each pixel becomes this many by this many, so that an outline runs within it, around its centre.
FACTOR: Final = 3


@dataclass(frozen=True, slots=True)
class EdgePolygon:
    """A 4-connected part of a mask; the pixel in column x and row y is the square from (x, y) to (x + 1, y + 1).

    A pixel belongs to the part exactly if its centre, (x + 0.5, y + 0.5), is inside ``exterior`` and in none of
    ``holes``. Rings are (n, 2) arrays, closed, the last vertex being the first. They neither cross nor touch themselves
    or each other, as the OpenGIS simple feature model requires.
    """

    exterior: AnyFloatArray
    holes: tuple[AnyFloatArray, ...]


def edge_polygons(mask: Mask) -> tuple[EdgePolygon, ...]:
    """The mask as polygons with holes, exactly.

    Takes ``FACTOR`` squared bytes of memory per pixel of the mask's box.
    """
    enlarged = _without_touching_corners(np.pad(mask.inside, 1))
    contours, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    shift = np.array([mask.box.xmin - 1, mask.box.ymin - 1])
    closed = [np.concatenate([contour[:, 0], contour[:1, 0]]) for contour in contours]
    rings = [(ring + 0.5) / FACTOR + shift for ring in closed]
    parents = hierarchy[0, :, 3].tolist()
    holes: dict[int, list[AnyFloatArray]] = {}
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            holes.setdefault(parent, []).append(ring)
    return tuple(
        EdgePolygon(ring, tuple(holes.get(index, ())))
        for index, (ring, parent) in enumerate(zip(rings, parents, strict=True))
        if parent < 0
    )


def _without_touching_corners(inside: BoolArray) -> ByteArray:
    """Enlarge a padded mask, and cut the corners at which only two diagonal pixels of four belong to it."""
    enlarged = np.repeat(np.repeat(inside.view(np.uint8), FACTOR, axis=0), FACTOR, axis=1)
    top_left, top_right = inside[:-1, :-1], inside[:-1, 1:]
    bottom_left, bottom_right = inside[1:, :-1], inside[1:, 1:]
    falling = top_left & bottom_right & ~top_right & ~bottom_left
    rising = top_right & bottom_left & ~top_left & ~bottom_right
    rows, columns = np.nonzero(falling)
    enlarged[FACTOR * rows + FACTOR - 1, FACTOR * columns + FACTOR - 1] = 0
    enlarged[FACTOR * rows + FACTOR, FACTOR * columns + FACTOR] = 0
    rows, columns = np.nonzero(rising)
    enlarged[FACTOR * rows + FACTOR - 1, FACTOR * columns + FACTOR] = 0
    enlarged[FACTOR * rows + FACTOR, FACTOR * columns + FACTOR - 1] = 0
    return enlarged
