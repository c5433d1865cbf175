"""Boxes from YOLO's label files: ``class x y width height``, or ``class`` and a polygon, as fractions of the size."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from osamd.dataset.plan import Category, Target
from osamd.dataset.prompts.boxes import KnownBoxes
from osamd.dataset.prompts.coordinates import fraction
from osamd.errors import InvalidRequestError

CLASSES: Final = "classes.txt"
DATA: Final = ("data.yaml", "data.yml")
LABEL_SUFFIX: Final = ".txt"
SPLITS: Final = ("train", "val", "test")
# Named by many files that were downloaded without its images.
OPTIONAL_SPLIT: Final = "test"
# From labels/train to the data set.
LEVELS_UP: Final = 2
BOX_FIELDS: Final = 5
# Of a data.yaml whose labels have key points behind the box.
POSE: Final = "kpt_shape"
EXPECTED: Final = "expected a YOLO data set with train, val and names"
# A class and three corners.
FEWEST_POLYGON_FIELDS: Final = 7


@dataclass(frozen=True, slots=True)
class _About:
    """What a data set says of its labels.

    Attributes:
        names: of the classes.
        has_key_points: whether each label is a box and key points behind it.
    """

    names: Mapping[int, str]
    has_key_points: bool = False


def read_labels(folder: Path) -> KnownBoxes:
    """Read a folder of label files whose names are those of the images, with ``.txt``.

    The classes' names are in ``classes.txt`` or ``data.yaml`` in this folder or one of the two above it; without either
    they are their numbers.

    Raises:
        InvalidRequestError: there are no label files, or one is malformed.
        OSError: one cannot be read.
    """
    from osamd.dataset.inputs import folders_below

    files = [
        Path(parent, name)
        for parent, found in folders_below(str(folder))
        for name in found
        if Path(name).suffix == LABEL_SUFFIX and name != CLASSES
    ]
    if not files:
        raise InvalidRequestError(f"{folder}: expected YOLO label files (.txt)")
    about = _about(folder)
    # Read once now, so that a malformed one is reported before any work.
    used = {target.category for path in files for target in _read(path, about)}

    def targets_of(name: str) -> tuple[Target, ...] | None:
        path = folder / PurePosixPath(name).with_suffix(LABEL_SUFFIX)
        return _read(path, about) if path.is_file() else None

    return KnownBoxes(_categories(about.names, used), targets_of)


def read_yaml(path: Path) -> KnownBoxes:
    """Read a ``data.yaml``: the images of all its splits, whose labels are in ``labels`` where they are in ``images``.

    Raises:
        InvalidRequestError: it is malformed, or has no images, or two of one name.
        OSError: a file cannot be read.
    """
    from osamd.dataset.inputs import add_image, find_images, name_of

    content = _load(path)
    about = _about_of(content, path)
    root = path.parent / str(content.get("path") or "")
    splits = {split: _entries(content.get(split), f"{path}: {split}") for split in SPLITS}
    if not any(splits.values()):
        raise InvalidRequestError(f"{path}: expected train, val or test")
    images: dict[str, str] = {}
    for split, entries in splits.items():
        for place in (_place(root, entry) for entry in entries):
            if split == OPTIONAL_SPLIT and not place.exists():
                continue
            for file in find_images([str(place)]).images.values():
                add_image(images, name_of(file, str(root)), file)
    labels = {name: _label_of(file) for name, file in images.items()}
    used = {target.category for label in labels.values() for target in _read(label, about)}

    def targets_of(name: str) -> tuple[Target, ...] | None:
        return _read(labels[name], about) if name in labels else None

    return KnownBoxes(_categories(about.names, used), targets_of, images=dict(sorted(images.items())))


def _place(root: Path, entry: str) -> Path:
    """Where the images of a split are.

    Exports of Roboflow write ``../train/images`` for a folder beside the file, and Ultralytics reads it so.
    """
    place = root / entry
    beside = root / entry.removeprefix("../")
    return beside if not place.exists() and beside.exists() else place


def _label_of(image: str) -> Path:
    """Where the label of an image is: the last folder called ``images`` becomes ``labels``."""
    before, found, after = image.rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{before}{os.sep}labels{os.sep}{after}" if found else image).with_suffix(LABEL_SUFFIX)


def _read(path: Path, about: _About) -> tuple[Target, ...]:
    """The objects of a label file; none if it does not exist, which is how YOLO marks backgrounds."""
    try:
        lines = _lines(path)
    except FileNotFoundError:
        return ()
    most = BOX_FIELDS if about.has_key_points else None
    return tuple(
        _target(line.split()[:most], f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    )


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


def _about(folder: Path) -> _About:
    """What the nearest files say: names, from either kind, and whether there are key points."""
    names: dict[int, str] | None = None
    for place in (folder, *folder.absolute().parents[:LEVELS_UP]):
        if names is None and (classes := place / CLASSES).is_file():
            # The line's number is the class, so a blank one counts.
            names = {number: line.strip() for number, line in enumerate(_lines(classes)) if line.strip()}
        for data in DATA:
            if (path := place / data).is_file():
                if names is not None:
                    return _About(names, has_key_points=_has_key_points(path))
                return _about_of(_load(path), path)
    return _About(names or {})


def _has_key_points(path: Path) -> bool:
    """Whether a ``data.yaml`` beside ``classes.txt`` says so; without PyYAML, it is not read."""
    try:
        return bool(_load(path).get(POSE))
    except InvalidRequestError:
        return False


def _about_of(content: Mapping[str, Any], path: Path) -> _About:
    return _About(_names(content, path), has_key_points=bool(content.get(POSE)))


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
