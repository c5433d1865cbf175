"""The result of one photo, as a JSON line of a shard: its objects with COCO's run lengths, or why it failed."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pycocotools import mask as coco

from osamd.dataset.plan import Item
from osamd.errors import InvalidRequestError
from osamd.pixels.run_lengths import covered_pixels, runs_at_image_size
from osamd.types import Box, Mask

if TYPE_CHECKING:
    import numpy.typing as npt

# Digits of a score; the rest is noise of the hardware.
SCORE_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Instance:
    """One object with its mask.

    Attributes:
        category: the category's id.
        score: the model's confidence, 0..1, or None.
        box: x, y, width, height of the mask in whole pixels.
        area: pixels of the mask.
        counts: COCO's compressed run lengths of the mask at the image's size.
    """

    category: int
    score: float | None
    box: tuple[int, int, int, int]
    area: int
    counts: str


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one photo.

    Attributes:
        index: the photo's position in the run.
        width: columns of the upright image; 0 if it failed.
        height: rows of the upright image; 0 if it failed.
        instances: the objects found.
        code: of the error, as in the HTTP API; empty if it did not fail.
        message: of the error.
    """

    index: int
    width: int
    height: int
    instances: tuple[Instance, ...] = ()
    code: str = ""
    message: str = ""

    @property
    def worst(self) -> float | None:
        """The lowest score of its objects; None if none has a score."""
        return min((one.score for one in self.instances if one.score is not None), default=None)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and its result."""

    item: Item
    row: Row


def row_to_line(row: Row) -> bytes:
    """A row as a line of a shard."""
    return json.dumps(asdict(row), separators=(",", ":")).encode() + b"\n"


def row_of_line(line: bytes) -> Row:
    """The inverse of ``row_to_line``.

    Raises:
        ValueError: it is not a whole row.
    """
    try:
        values: dict[str, Any] = json.loads(line)
        instances = tuple(Instance(**one | {"box": tuple(one["box"])}) for one in values.pop("instances"))
        return Row(**values, instances=instances)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a row: {error}") from None


def counts_of(mask: Mask) -> str:
    """COCO's run lengths of a mask, byte-identical to those of ``mask_format`` ``rle`` over HTTP."""
    return runs_at_image_size(mask).counts


def full_mask(row: Row, instance: Instance) -> "npt.NDArray[np.bool_]":
    """The mask at the image's size: (height, width) bool.

    Raises:
        InvalidRequestError: its run lengths are not those of an image of this size.
    """
    try:
        pixels = covered_pixels(instance.counts.encode())
    except ValueError:
        pixels = None
    # pycocotools leaves memory that no run covers uninitialised.
    if pixels != row.height * row.width:
        raise InvalidRequestError(
            f"photo {row.index}: expected run lengths of a mask of {row.width} x {row.height} pixels"
        )
    decoded: Any = coco.decode({"size": [row.height, row.width], "counts": instance.counts.encode()})
    return np.ascontiguousarray(decoded).view(np.bool_)


def mask_of(row: Row, instance: Instance) -> Mask:
    """The mask, cropped to its box."""
    x, y, width, height = instance.box
    inside = np.ascontiguousarray(full_mask(row, instance)[y : y + height, x : x + width])
    return Mask(inside, Box(x, y, x + width - 1, y + height - 1), height=row.height, width=row.width)


def box_and_area(row_size: tuple[int, int], counts: str) -> tuple[tuple[int, int, int, int], int]:
    """The box (x, y, width, height) and area of run lengths.

    Args:
        row_size: rows and columns of the image.
        counts: compressed run lengths.
    """
    runs = {"size": list(row_size), "counts": counts.encode()}
    x, y, width, height = (int(side) for side in coco.toBbox(runs))
    return (x, y, width, height), int(coco.area(runs))
