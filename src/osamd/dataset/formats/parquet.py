"""``shards/*.parquet``: one row per photo, failed ones too, with its objects as a list.

Loses nothing, so that every other format can be made from it; the run's header is in each file's metadata.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from osamd.dataset.formats import AllPhotos
from osamd.dataset.manifest import header_to_json
from osamd.dataset.plan import Header
from osamd.dataset.rows import Photo
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import whole_file
from osamd.errors import InvalidRequestError

FOLDER: Final = "shards"
SUFFIX: Final = ".parquet"
# In a file's metadata: the header.
HEADER: Final = b"osamd"


class Parquet:
    """A Parquet file per shard.

    Args:
        out: the output folder.
        header: the run's.

    Raises:
        InvalidRequestError: pyarrow is not installed.
    """

    def __init__(self, out: Place, header: Header) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet
        except ImportError:
            raise InvalidRequestError("--format parquet needs pyarrow: pip install 'osamd[parquet]'") from None
        self._arrow = pa
        self._folder = out / FOLDER
        an_object = pa.struct(
            [
                ("category_id", pa.int64()),
                ("score", pa.float64()),
                ("bbox", pa.list_(pa.int64(), 4)),
                ("area", pa.int64()),
                ("counts", pa.string()),
            ]
        )
        # A server does not tell the digest of its files, and its rows are those of this process.
        metadata = {HEADER: header_to_json(replace(header, digest=""))}
        self._schema = pa.schema(
            [
                ("index", pa.int64()),
                ("image", pa.string()),
                ("image_id", pa.string()),
                ("image_id_is_text", pa.bool_()),
                # Bytes: on Linux a path need not be text.
                ("path", pa.binary()),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("error_code", pa.string()),
                ("error", pa.string()),
                ("objects", pa.list_(an_object)),
            ],
            metadata=metadata,
        )

    def write_shard(self, shard: int, photos: Iterable[Photo]) -> None:
        """Write the shard's file."""
        table = self._arrow.Table.from_pylist([_row(photo) for photo in photos], schema=self._schema)
        with whole_file(self._folder / name_of(shard)) as file:
            self._arrow.parquet.write_table(table, file, compression="zstd")

    def finish(self, photos: AllPhotos) -> None:
        """Nothing: there is one file per shard."""


def name_of(shard: int) -> str:
    """A shard's file."""
    return f"{shard:05d}{SUFFIX}"


def _row(photo: Photo) -> dict[str, Any]:
    item, row = photo.item, photo.row
    return {
        "index": item.index,
        "image": item.name,
        "image_id": str(item.image_id),
        "image_id_is_text": isinstance(item.image_id, str),
        "path": os.fsencode(item.path),
        "width": row.width,
        "height": row.height,
        "error_code": row.code or None,
        "error": row.message or None,
        "objects": [
            {
                "category_id": one.category,
                "score": one.score,
                "bbox": list(one.box),
                "area": one.area,
                "counts": one.counts,
            }
            for one in row.instances
        ],
    }
