"""``annotations.coco.json``: COCO instances with compressed run lengths, which lose nothing."""

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

from osamd.dataset.formats import AllPhotos
from osamd.dataset.plan import Category, Header
from osamd.dataset.rows import Photo
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import whole_file

NAME: Final = "annotations.coco.json"


class Coco:
    """COCO JSON; images that failed are left out.

    Args:
        out: the output folder.
        header: the run's.
    """

    def __init__(self, out: Place, header: Header) -> None:
        self._path = out / NAME
        self._header = header

    def write_shard(self, shard: int, photos: Iterable[Photo]) -> None:
        """Nothing: the format is one file."""

    def finish(self, photos: AllPhotos) -> None:
        """Write the file, one photo at a time."""
        with whole_file(self._path) as file:
            info = {"description": "osamd batch", "model": self._header.model, "version": self._header.osamd}
            file.write(b'{"info":' + _dump(info) + b',"licenses":[],"categories":')
            file.write(_dump([_category(one) for one in self._header.categories]))
            _write_list(file, "images", (_image(photo) for photo in photos() if not photo.row.code))
            _write_list(file, "annotations", _annotations(photos()))
            file.write(b"}\n")


def _write_list(file: IO[bytes], name: str, values: Iterable[Any]) -> None:
    file.write(f',\n"{name}":['.encode())
    for index, value in enumerate(values):
        file.write((b",\n" if index else b"\n") + _dump(value))
    file.write(b"]")


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _category(one: Category) -> dict[str, Any]:
    return {"id": one.id, "name": one.name} | ({"supercategory": one.supercategory} if one.supercategory else {})


def _image(photo: Photo) -> dict[str, Any]:
    item, row = photo.item, photo.row
    return {"id": item.image_id, "file_name": item.name, "width": row.width, "height": row.height}


def _annotations(photos: Iterable[Photo]) -> Iterator[dict[str, Any]]:
    number = 0
    for photo in photos:
        for one in photo.row.instances:
            number += 1
            yield {
                "id": number,
                "image_id": photo.item.image_id,
                "category_id": one.category,
                "segmentation": {"size": [photo.row.height, photo.row.width], "counts": one.counts},
                "area": one.area,
                "bbox": list(one.box),
                "iscrowd": 0,
            } | ({} if one.score is None else {"score": one.score})
