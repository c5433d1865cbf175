"""Boxes from YOLO's label files: ``class x y width height``, or ``class`` and a polygon, as fractions of the size."""

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from osamd.dataset.plan import Category, Target
from osamd.dataset.prompts.boxes import KnownBoxes
from osamd.dataset.prompts.coordinates import fraction
from osamd.errors import InvalidRequestError

CLASSES: Final = "classes.txt"
DATA: Final = ("data.yaml", "data.yml")
SPLITS: Final = ("train", "val", "test")
# From labels/train to the data set.
LEVELS_UP: Final = 2
BOX_FIELDS: Final = 5
EXPECTED: Final = "expected a YOLO data set with train, val and names"
# A class and three corners.
FEWEST_POLYGON_FIELDS: Final = 7


def read_labels(folder: Path) -> KnownBoxes:
    """Read a folder of label files whose names are those of the images, with ``.txt``.

    The classes' names are in ``classes.txt`` or ``data.yaml`` in this folder or one of the two above it; without either
    they are their numbers.

    Raises:
        InvalidRequestError: there are no label files, or one is malformed.
        OSError: one cannot be read.
    """
    files = [path for path in folder.rglob("*.txt") if path.name != CLASSES]
    if not files:
        raise InvalidRequestError(f"{folder}: expected YOLO label files (.txt)")
    names = _names_near(folder)
    # Read once now, so that a malformed one is reported before any work.
    used = {target.category for path in files for target in _read(path)}
    return KnownBoxes(_categories(names, used), functools.partial(_targets_in, folder))


def read_yaml(path: Path) -> KnownBoxes:
    """Read a ``data.yaml``: the images of all its splits, whose labels are in ``labels`` where they are in ``images``.

    Raises:
        InvalidRequestError: it is malformed, or has no images, or two of one name.
        OSError: a file cannot be read.
    """
    from osamd.dataset.inputs import add_image, find_images, name_of

    content = _load(path)
    root = path.parent / str(content.get("path") or "")
    entries = [entry for split in SPLITS for entry in _entries(content.get(split), f"{path}: {split}")]
    if not entries:
        raise InvalidRequestError(f"{path}: expected train, val or test")
    images: dict[str, str] = {}
    for entry in entries:
        for file in find_images([str(root / entry)]).images.values():
            add_image(images, name_of(file, str(root)), file)
    labels = {name: _label_of(file) for name, file in images.items()}
    used = {target.category for label in labels.values() for target in _read(label)}

    def targets_of(name: str) -> tuple[Target, ...] | None:
        return _read(labels[name]) if name in labels else None

    return KnownBoxes(_categories(_names(content, path), used), targets_of, images=dict(sorted(images.items())))


def _targets_in(folder: Path, name: str) -> tuple[Target, ...] | None:
    path = folder / PurePosixPath(name).with_suffix(".txt")
    return _read(path) if path.is_file() else None


def _label_of(image: str) -> Path:
    """Where the label of an image is: the last folder called ``images`` becomes ``labels``."""
    before, found, after = image.rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{before}{os.sep}labels{os.sep}{after}" if found else image).with_suffix(".txt")


def _read(path: Path) -> tuple[Target, ...]:
    """The objects of a label file; none if it does not exist, which is how YOLO marks backgrounds."""
    try:
        lines = _lines(path)
    except FileNotFoundError:
        return ()
    return tuple(_target(line.split(), f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path}: not a text file in UTF-8") from None


def _target(parts: list[str], where: str) -> Target:
    try:
        category, values = int(parts[0]), [fraction(part) for part in parts[1:]]
    except ValueError:
        category, values = -1, []
    is_polygon = len(parts) >= FEWEST_POLYGON_FIELDS and len(parts) % 2
    if category < 0 or not (len(parts) == BOX_FIELDS or is_polygon):
        raise InvalidRequestError(
            f"{where}: expected 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 ...', as fractions of the photo's"
            " size"
        )
    if is_polygon:
        columns, rows = values[0::2], values[1::2]
        return Target(category, (min(columns), min(rows), max(columns), max(rows)), is_fraction=True)
    x, y, width, height = values
    return Target(category, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), is_fraction=True)


def _categories(names: Mapping[int, str], used: Iterable[int]) -> tuple[Category, ...]:
    return tuple(Category(number, names.get(number, str(number))) for number in sorted({*names, *used}))


def _names_near(folder: Path) -> dict[int, str]:
    for place in (folder, *folder.absolute().parents[:LEVELS_UP]):
        if (classes := place / CLASSES).is_file():
            return dict(enumerate(line.strip() for line in _lines(classes) if line.strip()))
        for data in DATA:
            if (path := place / data).is_file():
                return _names(_load(path), path)
    return {}


def _names(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    names = content.get("names") or {}
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(type(number) is int for number in names):
        raise InvalidRequestError(f"{path}: expected names to be a list, or numbers with names")
    return {number: str(name) for number, name in names.items()}


def _entries(value: object, where: str) -> list[str]:
    entries: list[Any] = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(entry, str) for entry in entries):
        raise InvalidRequestError(f"{where}: expected a path, or a list of paths")
    return entries


def _load(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise InvalidRequestError(
            f"reading {path} needs PyYAML: pip install 'osamd[yolo]', or list the classes' names in {CLASSES}"
        ) from None
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = path if mark is None else f"{path}:{mark.line + 1}"
        # The text of the whole error has several lines.
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise InvalidRequestError(f"{where}: not YAML: {reason}; {EXPECTED}") from None
    if not isinstance(content, dict):
        raise InvalidRequestError(f"{path}: {EXPECTED}")
    return content
