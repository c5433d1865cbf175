"""Boxes of a detection data set, whatever its format."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osamd.dataset.plan import Category, ImageId, Target
from osamd.errors import InvalidRequestError

JSON_SUFFIX: Final = ".json"
YAML_SUFFIXES: Final = frozenset({".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class KnownBoxes:
    """The boxes of a data set.

    Attributes:
        categories: sorted by id.
        targets_of: the objects of an image, by its name; None if the data set does not know the image.
        image_ids: the data set's own ids by name; empty if it has none.
        images: absolute path by name, as far as the data set says where they are.
    """

    categories: tuple[Category, ...]
    targets_of: Callable[[str], tuple[Target, ...] | None]
    image_ids: dict[str, ImageId] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)


def is_data_set(given: str) -> bool:
    """Whether an INPUT is a file with boxes and not an image or a list of images."""
    return Path(given).suffix.lower() in {JSON_SUFFIX} | YAML_SUFFIXES and Path(given).is_file()


def read_data_set(path: Path) -> KnownBoxes:
    """Read a data set: a COCO JSON file, YOLO's ``data.yaml``, or a folder of YOLO's label files.

    Raises:
        InvalidRequestError: it cannot be read; the message says why.
    """
    from osamd.dataset.prompts import coco, yolo

    try:
        if path.is_dir():
            return yolo.read_labels(path)
        if path.suffix.lower() in YAML_SUFFIXES:
            return yolo.read_yaml(path)
        return coco.read_coco(path)
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or path}: {error.strerror}") from None
