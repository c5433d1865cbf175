"""``masks/*.png``: one grey PNG per object, 0 and 255, of the image's size; ``masks.csv`` says what each is."""

import csv
import io
from collections.abc import Iterable

from osamd.dataset.formats import AllPhotos
from osamd.dataset.plan import Header
from osamd.dataset.rows import Photo, full_mask
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import whole_file, write_whole
from osamd.pixels.masks import encode_png


class Png:
    """A PNG per object, ``NAME_NUMBER.png``, numbered from 0 in each photo. Overlapping objects stay apart.

    Args:
        out: the output folder.
        header: the run's.
    """

    def __init__(self, out: Place, header: Header) -> None:
        self._folder = out / "masks"
        self._names = header.names()

    def write_shard(self, shard: int, photos: Iterable[Photo]) -> None:  # noqa: ARG002 - one file per object
        """Write the masks."""
        for photo in photos:
            for number, one in enumerate(photo.row.instances):
                pixels = full_mask(photo.row, one).view("u1") * 255
                write_whole(self._folder / _name(photo, number), encode_png(pixels), is_durable=False)

    def finish(self, photos: AllPhotos) -> None:
        """Write ``masks.csv``: file, image, category and score of each mask."""
        with whole_file(self._folder / "masks.csv") as file:
            text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(("file", "image", "category_id", "category", "score"))
            for photo in photos():
                for number, one in enumerate(photo.row.instances):
                    score = "" if one.score is None else f"{one.score:g}"
                    name = self._names[one.category]
                    rows.writerow((_name(photo, number), photo.item.name, one.category, name, score))
            text.detach()


def _name(photo: Photo, number: int) -> str:
    return f"{photo.item.stem}_{number}.png"
