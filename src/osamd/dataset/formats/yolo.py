"""``yolo/``: segmentation labels as ultralytics documents them, links to the images, and ``data.yaml``.

A YOLO object is one polygon. Parts and holes are joined to it by bridges without an area, as ultralytics' own converter
does for parts; drawn on pixels, a bridge is one pixel wide.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from osamd.dataset.formats import AllPhotos
from osamd.dataset.plan import Header
from osamd.dataset.rows import Photo, mask_of
from osamd.dataset.urls import Place, UrlPath, is_url, way_to
from osamd.dataset.whole_files import link, write_whole
from osamd.errors import InvalidRequestError
from osamd.pixels.masks import TRIANGLE, Polygon, polygons

# (N, 2) x, y of pixel centres.
Line = npt.NDArray[np.int64]
# Of a coordinate; a hundredth of a pixel in an image of 10 000.
DIGITS = 6
# Vertices that are compared at once, so that memory stays small.
BLOCK = 1024


class Yolo:
    """YOLO segmentation labels, and links to the images where ultralytics looks for them.

    Args:
        out: the output folder.
        header: the run's.
    """

    def __init__(self, out: Place, header: Header) -> None:
        self._folder = out / "yolo"
        self._header = header
        # YOLO's classes are numbered from 0 without gaps.
        self._classes = {category.id: number for number, category in enumerate(header.categories)}

    def write_shard(self, shard: int, photos: Iterable[Photo]) -> None:  # noqa: ARG002 - one file per photo
        """Write each photo's label, empty if nothing was found, and the link; nothing for one that failed."""
        for photo in photos:
            if photo.row.code:
                continue
            lines = "".join(self._line(photo, index) for index in range(len(photo.row.instances)))
            write_whole(self._folder / "labels" / f"{photo.item.stem}.txt", lines.encode(), is_durable=False)
            image = self._folder / "images" / photo.item.name
            # In a bucket there are no links, and none leads there.
            if not (isinstance(image, UrlPath) or is_url(photo.item.path)):
                _check_inside(image, Path(str(self._folder), "images"))
                link(image, way_to(photo.item.path, image.parent))

    def finish(self, photos: AllPhotos) -> None:  # noqa: ARG002
        """Write ``data.yaml``, with all images for training and validation."""
        names = "".join(f"  {index}: {json.dumps(one.name)}\n" for index, one in enumerate(self._header.categories))
        text = f"# All images are in both splits: divide them as you like.\ntrain: images\nval: images\nnames:\n{names}"
        write_whole(self._folder / "data.yaml", text.encode())

    def _line(self, photo: Photo, index: int) -> str:
        row = photo.row
        outline = one_outline(polygons(mask_of(row, row.instances[index])))
        # From pixel centres to fractions of the size: the centre of the first pixel is at half a pixel.
        fractions = (outline + 0.5) / (row.width, row.height)
        values = " ".join(f"{value:.{DIGITS}g}" for value in fractions.ravel())
        return f"{self._classes[row.instances[index].category]} {values}\n"


def _check_inside(image: Path, folder: Path) -> None:
    """Refuse to write through another photo's link, which is where this one has a folder."""
    if not image.parent.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequestError(
            f"{image.parent} leads out of {folder}: a photo is called like the folder of another one; rename it, or"
            " use a format other than yolo"
        )


def one_outline(parts: tuple[Polygon, ...]) -> Line:
    """One closed line around all parts and holes of a mask: (N, 2) pixel centres, N >= 3.

    Filled by the even-odd rule with its edge, as OpenCV's ``fillPoly`` does, it gives the mask and the bridges.
    """
    outline: Line = parts[0].exterior.astype(np.int64)
    rings = [*parts[0].holes]
    for part in parts[1:]:
        rings += [part.exterior, *part.holes]
    for ring in rings:
        outline = _joined(outline, ring.astype(np.int64))
    missing = TRIANGLE - len(outline)
    return np.concatenate([outline, outline[-1:].repeat(missing, axis=0)]) if missing > 0 else outline


def _joined(outline: Line, ring: Line) -> Line:
    """Insert a ring into an outline, there and back along the shortest line between two of their vertices."""
    best, at, start = None, 0, 0
    for first in range(0, len(outline), BLOCK):
        block = outline[first : first + BLOCK]
        # Both are sorted out in blocks: the distances of two long outlines would not fit in memory.
        for other in range(0, len(ring), BLOCK):
            distances = ((block[:, None] - ring[None, other : other + BLOCK]) ** 2).sum(axis=2)
            nearest = int(distances.argmin())
            row, column = divmod(nearest, distances.shape[1])
            if best is None or distances[row, column] < best:
                best, at, start = int(distances[row, column]), first + row, other + column
    turned = np.concatenate([ring[start:], ring[: start + 1]])
    return np.concatenate([outline[: at + 1], turned, outline[at:]])
