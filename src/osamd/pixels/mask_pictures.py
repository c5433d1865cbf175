"""Masks that callers send, as low-resolution logits for models: the inverse of ``masks``. Pure functions."""

import math
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from osamd.errors import InvalidPromptError
from osamd.types import ByteArray, MaskLogits

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# Width, height, bits and colour type, at the start of every PNG.
HEADER: Final = struct.Struct(">8s4x4sIIBB")
GREY: Final = 0
# Brighter pixels belong to the object, as in the masks of replies.
MIDDLE: Final = 127
# Of a pixel that is all object. Models see logits of about this size in their own masks.
SURE: Final = 10.0


@dataclass(frozen=True, slots=True)
class MaskFrame:
    """The low-resolution masks that a model takes for an image, as in ``MaskLogits``.

    Attributes:
        rows: of the array.
        columns: of the array.
        valid_height: rows, from the top, that show the image and not padding; may be fractional.
        valid_width: the same for columns, from the left.
    """

    rows: int
    columns: int
    valid_height: float
    valid_width: float


def check_header(data: bytes, *, height: int, width: int) -> None:
    """Refuse a picture that cannot be a mask of an image of this size, before decoding it.

    Args:
        data: a whole file.
        height: rows of the upright image.
        width: columns of the upright image.

    Raises:
        InvalidPromptError: it is not a greyscale PNG without transparency, or has another size.
    """
    try:
        signature, name, columns, rows, _, color = HEADER.unpack_from(data)
    except struct.error:
        signature, name, columns, rows, color = b"", b"", 0, 0, 0
    if signature != SIGNATURE or name != b"IHDR":
        raise InvalidPromptError("expected a mask_id, or a mask as a PNG in base64")
    if color != GREY or b"tRNS" in data[: data.find(b"IDAT")]:
        raise InvalidPromptError(
            "expected a greyscale PNG without transparency, white on the object and black elsewhere"
        )
    if (rows, columns) != (height, width):
        raise InvalidPromptError(f"the mask has {columns} x {rows} pixels; expected {width} x {height}, as the image")


def logits_of_picture(grey: ByteArray, frame: MaskFrame) -> MaskLogits:
    """The logits of a mask.

    They are in proportion to how much of each low-resolution pixel the object covers, so that they cross zero on its
    outline. Padding is background.

    Args:
        grey: (height, width) uint8 at the image's size; above 127 for the object.
        frame: of the model's low-resolution masks for this image.

    Raises:
        InvalidPromptError: no pixel belongs to the object.
    """
    from PIL import Image

    inside = grey > MIDDLE
    if not inside.any():
        raise InvalidPromptError(f"the mask is empty: it has no pixel above {MIDDLE}")
    height, width = grey.shape
    # Whole pixels only: a last one that is only partly image is filled with its neighbour.
    rows, columns = max(1, int(frame.valid_height)), max(1, int(frame.valid_width))
    box = (0.0, 0.0, min(width, columns * width / frame.valid_width), min(height, rows * height / frame.valid_height))
    # Averages over all pixels when shrinking.
    whole = Image.fromarray(inside.view(np.uint8) * np.uint8(255))
    covered = np.asarray(whole.resize((columns, rows), Image.Resampling.BILINEAR, box=box), np.float32) / 255
    values = np.full((frame.rows, frame.columns), -SURE, np.float32)
    reached = (math.ceil(frame.valid_height), math.ceil(frame.valid_width))
    values[: reached[0], : reached[1]] = np.pad(
        SURE * (2 * covered - 1), ((0, reached[0] - rows), (0, reached[1] - columns)), mode="edge"
    )
    return MaskLogits(values, valid_height=frame.valid_height, valid_width=frame.valid_width)
