"""What a run does: the photos, what to find in each, and the categories. Plain values, written to the manifest."""

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from osamd import __version__
from osamd.errors import InvalidRequestError

# The format of the manifest and the shards; raised when either changes.
VERSION: Final = 1
# In the folder for the results: what a run needs to continue.
STATE: Final = ".osamd"

Ask = Literal["boxes", "points", "text", "everything"]
# COCO's image ids are numbers; some data sets use text.
ImageId = int | str


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects.

    Attributes:
        id: as in the data set it comes from, else counted from 1.
        name: its label.
        supercategory: COCO's; empty if there is none.
    """

    id: int
    name: str
    supercategory: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A known object: its category, and a box or clicks that mark it.

    Attributes:
        category: the category's id.
        box: x1, y1, x2, y2, both corners included, in pixels; or, if ``is_fraction``, edges as fractions of the size.
        is_fraction: whether ``box`` is relative to the image's size, 0..1, as in YOLO.
        points: x, y in pixels.
        point_labels: one per point, 1 foreground and 0 background.
    """

    category: int
    box: tuple[float, float, float, float] | None = None
    is_fraction: bool = False
    points: tuple[tuple[float, float], ...] = ()
    point_labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One photo.

    Attributes:
        index: position in the run, from 0.
        name: relative to INPUT, with slashes; what the outputs call it. Below a folder, it is always a file in there.
        path: of its file.
        image_id: as in the data set it comes from, else ``index`` + 1.
        targets: the objects to segment; empty if words, or everything, are looked for.

    Raises:
        InvalidRequestError: the name leaves the folder it is used in, or the name or path cannot be a file's.
    """

    index: int
    name: str
    path: str
    image_id: ImageId
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        # Every name passes here, and many come from files that somebody else wrote: data sets, manifests, Parquet.
        if not (_is_inside(self.name) and _is_path(self.path)):
            raise InvalidRequestError(
                f"photo {self.index} has the name {self.name!r} and the path {self.path!r}: expected a name with"
                " slashes, without . and .. as parts and without a slash in front, and a path that a file can have"
            )

    @property
    def stem(self) -> str:
        """The name without its suffix, for files beside others."""
        folder, _, name = self.name.rpartition("/")
        return f"{folder}/{_stem(name)}" if folder else _stem(name)


@dataclass(frozen=True, slots=True)
class Header:
    """What holds for all photos of a run. Two runs with equal headers give the same bytes on the same machine.

    Attributes:
        model: the model's name.
        digest: of the model's files; empty if a server runs it.
        ask: how objects are found.
        texts: the words, for ``text``.
        categories: sorted by id.
        shard_size: photos per shard.
        count: of photos.
        items_sha256: hash of the manifest's lines, which are the photos.
        osamd: version of this package.
        version: of the format.
    """

    model: str
    digest: str
    ask: Ask
    texts: tuple[str, ...]
    categories: tuple[Category, ...]
    shard_size: int
    count: int
    items_sha256: str
    osamd: str = __version__
    version: int = VERSION

    @property
    def shard_count(self) -> int:
        """How many shards there are; the last may be smaller."""
        return -(-self.count // self.shard_size)

    def first_of(self, shard: int) -> int:
        """Index of a shard's first photo."""
        return shard * self.shard_size

    def size_of(self, shard: int) -> int:
        """A shard's number of photos."""
        return min(self.shard_size, self.count - self.first_of(shard))

    def names(self) -> Mapping[int, str]:
        """The categories' names by id."""
        return {category.id: category.name for category in self.categories}


def item_to_json(item: Item) -> dict[str, Any]:
    """An item as a line of the manifest, without its index."""
    line: dict[str, Any] = {"name": item.name, "path": item.path, "image_id": item.image_id}
    if item.targets:
        line["targets"] = [_target_to_json(target) for target in item.targets]
    return line


def item_of_json(index: int, line: Mapping[str, Any]) -> Item:
    """The inverse of ``item_to_json``."""
    targets = tuple(
        Target(
            category=target["category"],
            box=tuple(target["box"]) if "box" in target else None,
            is_fraction=target.get("is_fraction", False),
            points=tuple((x, y) for x, y in target.get("points", ())),
            point_labels=tuple(target.get("point_labels", ())),
        )
        for target in line.get("targets", ())
    )
    return Item(index, line["name"], line["path"], line["image_id"], targets)


def _target_to_json(target: Target) -> dict[str, Any]:
    line: dict[str, Any] = {"category": target.category}
    if target.box is not None:
        line["box"] = target.box
        line |= {"is_fraction": True} if target.is_fraction else {}
    if target.points:
        line |= {"points": target.points, "point_labels": target.point_labels}
    return line


def _is_inside(name: object) -> bool:
    """Whether a name is that of a file below any folder. Backslashes are letters like others here."""
    if not isinstance(name, str) or "\0" in name or posixpath.normpath(f"/{name}").lstrip("/") != name:
        return False
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _is_path(path: object) -> bool:
    if not isinstance(path, str) or "\0" in path:
        return False
    try:
        return bool(os.fsencode(path))
    except UnicodeEncodeError:
        return False


def _stem(name: str) -> str:
    stem, dot, _ = name.rpartition(".")
    return stem if dot and stem else name
