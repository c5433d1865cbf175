"""Clicks from a CSV file."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from osamd.dataset.plan import Category, Target
from osamd.dataset.prompts.coordinates import pixels
from osamd.errors import InvalidRequestError

REQUIRED: Final = ("image", "x", "y")
OPTIONAL: Final = ("point_label", "object", "category")
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
            _check_columns(path, rows.fieldnames or ())
            for row in rows:
                where = f"{path}:{rows.line_num}"
                # DictReader's names for values without a column, and its values for columns without one.
                if None in row or None in row.values():
                    raise InvalidRequestError(f"{where}: expected as many values as there are columns")
                key, click = _click(row, where, alone=str(rows.line_num))
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


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse columns that would be ignored: ``label`` may be meant as ``point_label`` or as ``category``."""
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InvalidRequestError(f"{path}: expected the columns image, x and y; missing {', '.join(missing)}")
    known = (*REQUIRED, *OPTIONAL)
    wrong = [name for index, name in enumerate(columns) if name not in known or name in columns[:index]]
    if wrong:
        raise InvalidRequestError(
            f"{path}: column {wrong[0]!r}: expected {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)}, each"
            " once"
        )


def _click(row: Mapping[str, str], where: str, *, alone: str) -> tuple[tuple[str, str, str], tuple[float, float, int]]:
    if not row["image"]:
        raise InvalidRequestError(f"{where}: expected the name of an image")
    label = LABELS.get(row.get("point_label", "").strip())
    if label is None:
        raise InvalidRequestError(f"{where}: expected a point_label of 1 or 0")
    try:
        x, y = pixels(row["x"]), pixels(row["y"])
    except ValueError:
        raise InvalidRequestError(f"{where}: expected x and y in pixels, got {row['x']!r} and {row['y']!r}") from None
    name = row.get("object", "").strip()
    # A line number cannot be confused with the name of an object.
    key = (row["image"], f"object {name}" if name else alone, row.get("category", "").strip() or UNNAMED)
    return key, (x, y, label)
