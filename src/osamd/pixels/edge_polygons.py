"""Outlines of masks between pixels, for tools in whose coordinates a pixel is a square and not a point.

By marching squares (Lorensen and Cline, 1987, in two dimensions), at the level at which the outline crosses the border
of two pixels in its middle.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from osamd.types import AnyFloatArray, BoolArray, IntArray, Mask

# Steps between two yields, about a millisecond.
STEPS_AT_ONCE: Final = 8192
# Of exteriors and holes that are compared with each other; more are found by labelling the whole mask.
FEW_PAIRS: Final = 256


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


@dataclass(frozen=True, slots=True)
class _Ring:
    """One outline of a padded mask.

    Attributes:
        places: (n, 2) of its vertices, closed.
        pixel: one of the mask's pixels at it, in row-major order.
        area: twice what it encloses; negative for a hole.
    """

    places: AnyFloatArray
    pixel: int
    area: float


def edge_polygons(mask: Mask) -> Generator[None, None, list[EdgePolygon]]:
    """The mask as polygons with holes, exactly. Yields now and then."""
    padded = np.pad(mask.inside, 1)
    crossings = _crossings(padded)
    yield
    exteriors: list[_Ring] = []
    holes: list[_Ring] = []
    for ring in (yield from _rings(crossings.following)):
        places = crossings.places[ring]
        x, y = places.T
        # Outlines keep the mask on their left, where y points down.
        area = float(np.dot(np.roll(x, -1), y) - np.dot(x, np.roll(y, -1)))
        found = _Ring(_without_straight_ones(places), int(crossings.pixels[ring[0]]), area)
        (exteriors if area > 0 else holes).append(found)
        yield
    owners = _owners(exteriors, holes, padded)
    shift = np.array([mask.box.xmin - 1, mask.box.ymin - 1])
    by_owner: dict[int, list[AnyFloatArray]] = {}
    for hole, owner in zip(holes, owners, strict=True):
        by_owner.setdefault(owner, []).append(hole.places + shift)
    return [EdgePolygon(ring.places + shift, tuple(by_owner.get(index, ()))) for index, ring in enumerate(exteriors)]


def _owners(exteriors: Sequence[_Ring], holes: Sequence[_Ring], padded: BoolArray) -> list[int]:
    """The index of the exterior of each hole."""
    if len(exteriors) == 1:
        return [0] * len(holes)
    if len(exteriors) * len(holes) <= FEW_PAIRS:
        # The smallest that contains it: parts may lie in holes of others.
        order = sorted(range(len(exteriors)), key=lambda index: exteriors[index].area)
        outlines = [ring.places.astype(np.float32) for ring in exteriors]
        return [next(index for index in order if _contains(outlines[index], hole.pixel, padded)) for hole in holes]
    _, parts = cv2.connectedComponents(padded.view(np.uint8), connectivity=4)
    part_of = parts.ravel()
    of_part = {int(part_of[ring.pixel]): index for index, ring in enumerate(exteriors)}
    return [of_part[int(part_of[hole.pixel])] for hole in holes]


def _contains(outline: AnyFloatArray, pixel: int, padded: BoolArray) -> bool:
    row, column = divmod(pixel, padded.shape[1])
    return cv2.pointPolygonTest(outline, (column + 0.5, row + 0.5), measureDist=False) > 0


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
