"""``labelme/*.json``: a polygon for an object in one piece, which labelme can edit; else its ``mask`` shape.

Both lose nothing: a polygon's vertices are centres of mask pixels, and a mask shape is the mask itself.
"""

import base64
import json
from collections.abc import Iterable
from typing import Any, Final

from osamd.dataset.formats import AllPhotos
from osamd.dataset.plan import Header
from osamd.dataset.rows import Instance, Photo, mask_of
from osamd.dataset.urls import Place, way_to
from osamd.dataset.whole_files import write_whole
from osamd.pixels.masks import TRIANGLE, cropped_array, encode_png, polygons

# The version of labelme's format that is written.
VERSION: Final = "6.3.1"


class Labelme:
    """One JSON file per photo, which names the image by a path relative to itself.

    Args:
        out: the output folder.
        header: the run's.
    """

    def __init__(self, out: Place, header: Header) -> None:
        self._folder = out / "labelme"
        self._names = header.names()

    def write_shard(self, shard: int, photos: Iterable[Photo]) -> None:  # noqa: ARG002 - one file per photo
        """Write each photo's file; nothing for one that failed."""
        for photo in photos:
            if photo.row.code:
                continue
            path = self._folder / f"{photo.item.stem}.json"
            content: dict[str, Any] = {
                "version": VERSION,
                "flags": {},
                "shapes": [self._shape(photo, one) for one in photo.row.instances],
                "imagePath": way_to(photo.item.path, path.parent),
                "imageData": None,
                "imageHeight": photo.row.height,
                "imageWidth": photo.row.width,
            }
            write_whole(path, json.dumps(content, indent=1).encode() + b"\n", is_durable=False)

    def finish(self, photos: AllPhotos) -> None:
        """Nothing: there is one file per photo."""

    def _shape(self, photo: Photo, one: Instance) -> dict[str, Any]:
        mask = mask_of(photo.row, one)
        (first, *others) = polygons(mask)
        shape: dict[str, Any] = {
            "label": self._names[one.category],
            "group_id": None,
            "description": "" if one.score is None else f"score {one.score:g}",
            "flags": {},
        }
        if others or first.holes or len(first.exterior) < TRIANGLE:
            box = mask.box
            return shape | {
                "shape_type": "mask",
                "points": [[box.xmin, box.ymin], [box.xmax, box.ymax]],
                "mask": base64.b64encode(encode_png(cropped_array(mask))).decode(),
            }
        return shape | {"shape_type": "polygon", "points": first.exterior.tolist(), "mask": None}
