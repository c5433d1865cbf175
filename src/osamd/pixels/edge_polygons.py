"""Outlines of masks between pixels, for tools in whose coordinates a pixel is a square and not a point.

By marching squares (Lorensen and Cline, 1987, in two dimensions), at the level at which the outline crosses the border
of two pixels in its middle.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from osamd.types import AnyFloatArray, BoolArray, IntArray, Mask

# Steps between two yields, about a millisecond.
STEPS_AT_ONCE: Final = 8192


@dataclass(frozen=True, slots=True)
class EdgePolygon:
    """A 4-connected part of a mask; the pixel in column x and row y is the square from (x, y) to (x + 1, y + 1).

    A pixel belongs to the part exactly if its centre, (x + 0.5, y + 0.5), is inside ``exterior`` and in none of
    ``holes``. Rings are (n, 2) arrays, closed, the last vertex being the first. They neither cross nor touch themselves
    or each other, as the OpenGIS simple feature model requires.
    """

    exterior: AnyFloatArray
    holes: tuple[AnyFloatArray, ...]


@dataclass(frozen=True, slots=True)
class _Crossings:
    """Borders between a pixel of a padded mask and one that is not in it, each crossed by the outline once.

    Attributes:
        places: (n, 2) of the outline's vertices, as x and y.
        pixels: (n,) the pixel of the mask at each, in row-major order.
        following: (n,) the next crossing of the outline.
    """

    places: AnyFloatArray
    pixels: IntArray
    following: IntArray


def edge_polygons(mask: Mask) -> Generator[None, None, list[EdgePolygon]]:
    """The mask as polygons with holes, exactly. Yields now and then."""
    padded = np.pad(mask.inside, 1)
    crossings = _crossings(padded)
    yield
    exteriors: dict[int, AnyFloatArray] = {}
    holes: list[tuple[int, AnyFloatArray]] = []
    shift = np.array([mask.box.xmin - 1, mask.box.ymin - 1])
    for ring in (yield from _rings(crossings.following)):
        places = crossings.places[ring]
        x, y = places.T
        # Outlines keep the mask on their left, where y points down.
        is_exterior = float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) < 0
        closed = _without_straight_ones(places) + shift
        if is_exterior:
            exteriors[int(crossings.pixels[ring[0]])] = closed
        else:
            holes.append((int(crossings.pixels[ring[0]]), closed))
        yield
    if not holes or len(exteriors) == 1:
        return [EdgePolygon(ring, tuple(hole for _, hole in holes)) for ring in exteriors.values()]
    _, parts = cv2.connectedComponents(padded.view(np.uint8), connectivity=4)
    part_of = parts.ravel()
    by_part: dict[int, list[AnyFloatArray]] = {}
    for pixel, hole in holes:
        by_part.setdefault(int(part_of[pixel]), []).append(hole)
    return [EdgePolygon(ring, tuple(by_part.get(int(part_of[pixel]), ()))) for pixel, ring in exteriors.items()]


def _crossings(padded: BoolArray) -> _Crossings:
    """All crossings of an outline that has the mask on its left.

    It turns left where the pixel ahead on its left is not in the mask, else goes straight on where the one on its right
    is not, else turns right. So two pixels that touch at a corner only are apart.
    """
    columns = padded.shape[1]
    flat = padded.ravel()
    # Each crossing is named by the pixel left of it or above it, twice, plus 1 if it is above: sorted, so that they can
    # be looked up.
    beside = np.flatnonzero(flat[:-1] != flat[1:])
    above = np.flatnonzero(flat[:-columns] != flat[columns:])
    names = np.sort(np.concatenate([2 * beside, 2 * above + 1]))
    first, is_above = names >> 1, (names & 1).astype(bool)
    is_first_in = flat[first]
    # By the direction of travel, up, right, down, left: offsets of the pixels ahead on the left and on the right from
    # the first one, and the names of the crossings to the left, straight on and to the right, from that pixel's.
    directions = np.where(is_above, np.where(is_first_in, 1, 3), np.where(is_first_in, 0, 2))
    ahead_left = np.array([-columns, 1, columns + 1, columns - 1])[directions]
    ahead_right = np.array([1 - columns, columns + 1, columns, -1])[directions]
    turns = np.array(
        [
            [1 - 2 * columns, -2 * columns, 3 - 2 * columns],
            [0, 3, 2 * columns],
            [3, 2 * columns, 1],
            [2 * columns - 2, -1, -2],
        ]
    )
    turn = np.where(~flat[first + ahead_left], 0, np.where(~flat[first + ahead_right], 1, 2))
    following = np.searchsorted(names, 2 * first + turns[directions, turn])
    x, y = (first % columns).astype(np.float64), (first // columns).astype(np.float64)
    places = np.stack([x + np.where(is_above, 0.5, 1.0), y + np.where(is_above, 1.0, 0.5)], axis=1)
    second = first + np.where(is_above, columns, 1)
    return _Crossings(places, np.where(is_first_in, first, second), following)


def _rings(following: IntArray) -> Generator[None, None, list[IntArray]]:
    """The cycles of a permutation. Yields now and then."""
    steps = following.tolist()
    is_seen = bytearray(len(steps))
    rings = []
    count = 0
    for start in range(len(steps)):
        ring, step = [], start
        while not is_seen[step]:
            is_seen[step] = 1
            ring.append(step)
            step = steps[step]
            count += 1
            if count % STEPS_AT_ONCE == 0:
                yield
        if ring:
            rings.append(np.array(ring))
    return rings


def _without_straight_ones(places: AnyFloatArray) -> AnyFloatArray:
    """A closed ring of the vertices at which the outline turns."""
    after = np.roll(places, -1, axis=0) - places
    turns = (after != np.roll(after, 1, axis=0)).any(axis=1)
    kept = places[turns]
    return np.concatenate([kept, kept[:1]])
