"""Output formats. Each is made of the shards, so a format can be added to a finished run without segmenting again."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from osamd.dataset.plan import STATE, Header, Item
from osamd.dataset.rows import Photo
from osamd.dataset.urls import Place, UrlPath
from osamd.dataset.whole_files import LONGEST_NAME
from osamd.errors import InvalidRequestError

# Goes through all photos of the run, in order; may be called again.
AllPhotos = Callable[[], Iterator[Photo]]
NAMES: Final = ("coco", "yolo", "labelme", "png", "parquet")
# The longest ending of files that are named after the image without its suffix. No photo has a million objects.
ENDINGS: Final = {"yolo": ".txt", "labelme": ".json", "png": "_999999.png"}


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


def open_formats(names: Iterable[str], out: Place, header: Header, items: Iterable[Item]) -> dict[str, Format]:
    """The formats of a run, by name.

    Args:
        names: some of ``NAMES``, and ``review``.
        out: the output folder.
        header: of the run.
        items: all images of the run.

    Raises:
        InvalidRequestError: a format needs a package that is not installed, or does not fit the names of the images.
    """
    chosen = list(names)
    if isinstance(out, UrlPath):
        check_stems(items, chosen, longest=None)
    else:
        check_stems(items, chosen, folds_case=_folds_case(out))
    return {name: make_format(name, out, header) for name in chosen}


def check_stems(
    items: Iterable[Item],
    formats: Iterable[str],
    *,
    longest: int | None = LONGEST_NAME,
    folds_case: bool = False,
) -> None:
    """Refuse images whose files would have one name, or too long a name, for formats with a file for each.

    Args:
        items: all images of the run.
        formats: the names of the formats.
        longest: of a file's name, in bytes; None if there is no limit.
        folds_case: whether the output folder takes names for the same that differ only in case or Unicode form.

    Raises:
        InvalidRequestError: names two that would have the same file, or one whose name is too long.
    """
    by_stem = sorted(ENDINGS.keys() & set(formats))
    if not by_stem:
        return
    names: dict[str, str] = {}
    for item in items:
        stem = unicodedata.normalize("NFC", item.stem).casefold() if folds_case else item.stem
        other = names.setdefault(stem, item.name)
        if other != item.name:
            where = ", and the output folder ignores case" if folds_case else ""
            raise InvalidRequestError(
                f"{other} and {item.name} would have the same file in --format {', '.join(by_stem)}, which names files"
                f" without the image's suffix{where}: rename one, or use another format"
            )
        if longest is not None:
            _check_lengths(item, by_stem, longest)


def _folds_case(out: Path) -> bool:
    """Whether names that differ only in case are the same here, as on SMB, exFAT and most Macs."""
    # A folder of every run, or of its Parquet files, by another name.
    return any((out / name.upper()).is_dir() for name in (STATE, "shards"))


def _check_lengths(item: Item, formats: Iterable[str], longest: int) -> None:
    for name in formats:
        # yolo also has a link with the image's own name.
        paths = [item.stem + ENDINGS[name], *([item.name] if name == "yolo" else [])]
        if any(len(part.encode()) > longest for path in paths for part in path.split("/")):
            raise InvalidRequestError(
                f"{item.name} is too long for --format {name}, whose files could have names of more than {longest}"
                " bytes: rename it, or use another format"
            )


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
