"""Output formats. Each is made of the shards, so a format can be added to a finished run without segmenting again."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from osamd.dataset.plan import Header
from osamd.dataset.rows import Photo
from osamd.dataset.urls import Place

# Goes through all photos of the run, in order; may be called again.
AllPhotos = Callable[[], Iterator[Photo]]
NAMES: Final = ("coco", "yolo", "labelme", "png", "parquet")
# Their files are named after the image without its suffix.
BY_STEM: Final = frozenset({"yolo", "labelme", "png"})


class Format(Protocol):
    """Writes results. Writing the same results again gives the same bytes."""

    def write_shard(self, shard: int, photos: Iterable[Photo]) -> None:
        """Write the files that belong to single photos, or to a shard, as soon as the shard is whole.

        Raises:
            OSError: one cannot be written.
        """

    def finish(self, photos: AllPhotos) -> None:
        """Write the files that need all photos.

        Raises:
            OSError: one cannot be written.
        """


def make_format(name: str, out: Place, header: Header) -> Format:
    """The format of a name, one of ``NAMES`` or ``review``.

    Raises:
        InvalidRequestError: it needs a package that is not installed.
    """
    # Only the formats in use are imported: pyarrow alone takes a third of a second.
    if name == "coco":
        from osamd.dataset.formats.coco import Coco

        return Coco(out, header)
    if name == "yolo":
        from osamd.dataset.formats.yolo import Yolo

        return Yolo(out, header)
    if name == "labelme":
        from osamd.dataset.formats.labelme import Labelme

        return Labelme(out, header)
    if name == "png":
        from osamd.dataset.formats.png import Png

        return Png(out, header)
    if name == "parquet":
        from osamd.dataset.formats.parquet import Parquet

        return Parquet(out, header)
    from osamd.dataset.review import Review

    return Review(out, header)
