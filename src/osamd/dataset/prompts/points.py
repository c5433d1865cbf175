"""Clicks from a CSV file."""

import csv
import math
from pathlib import Path
from typing import Final

from osamd.dataset.plan import Category, Target
from osamd.errors import InvalidRequestError

REQUIRED: Final = ("image", "x", "y")
LABELS: Final = {"": 1, "1": 1, "0": 0}
UNNAMED: Final = "object"

# Clicks of one object: x, y and label.
Clicks = list[tuple[float, float, int]]


def read_points(path: Path) -> tuple[tuple[Category, ...], dict[str, tuple[Target, ...]]]:
    """Read CSV with the columns ``image``, ``x``, ``y`` and optionally ``point_label``, ``object``, ``category``.

    Rows with the same image and ``object`` are clicks on one object, ``point_label`` 0 outside it; without ``object``
    each row is an object of its own. Categories are numbered from 1 in alphabetical order.

    Returns:
        The categories, and the objects of each image by its name.

    Raises:
        InvalidRequestError: it cannot be read; the message names the line.
    """
    objects: dict[tuple[str, str, str], Clicks] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
            if missing:
                raise InvalidRequestError(f"{path}: expected the columns image, x and y; missing {', '.join(missing)}")
            for row in rows:
                key, click = _click(row, f"{path}:{rows.line_num}", alone=str(rows.line_num))
                objects.setdefault(key, []).append(click)
    except OSError as error:
        raise InvalidRequestError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequestError(f"{path}: not a CSV file: {error}") from None
    names = sorted({category for _, _, category in objects})
    ids = {name: number for number, name in enumerate(names, 1)}
    targets: dict[str, list[Target]] = {}
    for (image, _, category), clicks in objects.items():
        points, labels = tuple((x, y) for x, y, _ in clicks), tuple(label for _, _, label in clicks)
        targets.setdefault(image, []).append(Target(ids[category], points=points, point_labels=labels))
    categories = tuple(Category(number, name) for name, number in ids.items())
    return categories, {image: tuple(found) for image, found in targets.items()}


def _click(
    row: dict[str, str | None], where: str, *, alone: str
) -> tuple[tuple[str, str, str], tuple[float, float, int]]:
    label = LABELS.get((row.get("point_label") or "").strip())
    if label is None:
        raise InvalidRequestError(f"{where}: expected a point_label of 1 or 0")
    try:
        x, y = float(row["x"] or ""), float(row["y"] or "")
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InvalidRequestError(f"{where}: expected x and y in pixels")
    name = (row.get("object") or "").strip()
    # A line number cannot be confused with the name of an object.
    key = (row["image"] or "", f"object {name}" if name else alone, (row.get("category") or "").strip() or UNNAMED)
    return key, (x, y, label)
