"""``failures.csv``: the photos that failed, and why."""

import csv
import io
from collections.abc import Iterable
from typing import Final

from osamd.dataset.rows import Photo
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import whole_file

NAME: Final = "failures.csv"


def write_failures(out: Place, photos: Iterable[Photo]) -> int:
    """Write the photos that failed, one row each; no file if there are none.

    Returns:
        How many failed.

    Raises:
        OSError: it cannot be written.
    """
    failed = [photo for photo in photos if photo.row.code]
    if not failed:
        (out / NAME).unlink(missing_ok=True)
        return 0
    with whole_file(out / NAME) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("image", "code", "message"))
        rows.writerows((photo.item.name, photo.row.code, photo.row.message) for photo in failed)
        text.detach()
    return len(failed)
