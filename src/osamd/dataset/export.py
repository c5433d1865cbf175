"""Other formats of a finished run, from its shards or from its Parquet files."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from osamd.dataset.exports import Exports
from osamd.dataset.failures import write_failures
from osamd.dataset.formats import open_formats
from osamd.dataset.formats.parquet import FOLDER, HEADER, SUFFIX, name_of
from osamd.dataset.manifest import NAME, Manifest, header_of_json
from osamd.dataset.plan import STATE, Header, Item
from osamd.dataset.rows import Instance, Photo, Row
from osamd.dataset.shards import Shards
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import sync_files
from osamd.errors import InvalidRequestError
from osamd.plurals import counted


def export(out: Place, names: Iterable[str]) -> tuple[int, int]:
    """Write formats of a finished run.

    Args:
        out: the run's output folder.
        names: of the formats.

    Returns:
        The number of photos, and of those that failed.

    Raises:
        InvalidRequestError: the folder holds no finished run; or a format needs a package that is not installed, or
            does not fit the names of the photos; or a name leads out of the folder.
        OSError: a file cannot be read or written.
    """
    path = out / STATE / NAME
    return _from_shards(out, Manifest(path), names) if path.exists() else _from_parquet(out, names)


def _from_shards(out: Place, manifest: Manifest, names: Iterable[str]) -> tuple[int, int]:
    header = manifest.header
    shards = Shards(out / STATE / "shards")
    formats = open_formats(names, out, header, manifest.all_items())
    failed = Exports(out, manifest=manifest, shards=shards, formats=formats).finish()
    if failed is None:
        left = sum(not shards.is_whole(shard) for shard in range(header.shard_count))
        raise InvalidRequestError(
            f"{out} holds a run that is not finished, {counted(left, 'shard')} of {header.shard_count:,} are left:"
            f" continue it with osamd batch --out {out}"
        )
    return header.count, failed


def _from_parquet(out: Place, names: Iterable[str]) -> tuple[int, int]:
    files = _ParquetFiles(out)

    def all_photos() -> Iterator[Photo]:
        for shard in range(files.header.shard_count):
            yield from files.photos(shard)

    formats = open_formats(names, out, files.header, (photo.item for photo in all_photos()))
    for shard in range(files.header.shard_count):
        for made in formats.values():
            made.write_shard(shard, files.photos(shard))
    sync_files(out)
    for made in formats.values():
        made.finish(all_photos)
    return files.header.count, write_failures(out, all_photos())


class _ParquetFiles:
    """The Parquet files of a run.

    Args:
        out: the output folder.

    Attributes:
        header: the run's.

    Raises:
        InvalidRequestError: some are missing, or are not those of one finished run; or pyarrow is not installed.
    """

    def __init__(self, out: Place) -> None:
        self._folder = out / FOLDER
        if not (self._folder / name_of(0)).exists():
            raise InvalidRequestError(f"{out} holds no results of osamd batch: neither {STATE} nor {FOLDER}/*{SUFFIX}")
        try:
            import pyarrow.parquet
        except ImportError:
            raise InvalidRequestError("reading Parquet files needs pyarrow: pip install 'osamd[parquet]'") from None
        self._read: Callable[..., Any] = pyarrow.parquet.read_table
        self._errors = pyarrow.ArrowInvalid
        self.header = self._header(0, self._table(0, columns=[]))
        missing = [
            name_of(shard) for shard in range(self.header.shard_count) if not (self._folder / name_of(shard)).exists()
        ]
        if missing:
            raise InvalidRequestError(
                f"{self._folder}: {counted(len(missing), 'file')} of {self.header.shard_count:,} missing, such as"
                f" {missing[0]}"
            )

    def photos(self, shard: int) -> Iterator[Photo]:
        """The photos of a shard, in order.

        Raises:
            InvalidRequestError: the file belongs to another run, or a row is not one of a photo.
        """
        table = self._table(shard)
        if self._header(shard, table) != self.header:
            raise InvalidRequestError(f"{self._folder / name_of(shard)} is of another run")
        for row in table.to_pylist():
            try:
                photo = _photo(row)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise InvalidRequestError(
                    f"{self._folder / name_of(shard)}: expected the columns and values of osamd batch --format parquet"
                ) from None
            yield photo

    def _header(self, shard: int, table: Any) -> Header:
        metadata = table.schema.metadata or {}
        return header_of_json(metadata.get(HEADER, b""), self._folder / name_of(shard))

    def _table(self, shard: int, columns: list[str] | None = None) -> Any:
        path = self._folder / name_of(shard)
        try:
            with path.open("rb") as file:
                return self._read(file, columns=columns)
        except self._errors as error:
            raise InvalidRequestError(f"{path}: not a Parquet file: {error}") from None


def _photo(row: dict[str, Any]) -> Photo:
    image_id = row["image_id"] if row["image_id_is_text"] else json.loads(row["image_id"])
    item = Item(row["index"], row["image"], os.fsdecode(row["path"]), image_id)
    instances = tuple(
        Instance(one["category_id"], one["score"], tuple(one["bbox"]), one["area"], one["counts"])
        for one in row["objects"]
    )
    found = Row(row["index"], row["width"], row["height"], instances, row["error_code"] or "", row["error"] or "")
    return Photo(item, found)
