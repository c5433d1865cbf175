"""Objects cut out of their image: the image where a mask is, transparent everywhere else. Pure."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from osamd.types import Box, ByteArray, Mask

OPAQUE: Final = 255
ALPHA: Final = 3
# As for masks: the fastest level that still compresses.
PNG_LEVEL: Final = 1


def cut_out(pixels: ByteArray, masks: Sequence[Mask], *, is_whole: bool) -> memoryview:
    """Encode a cut-out as PNG with alpha.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        masks: of this image; their union is visible.
        is_whole: whether the PNG has the size of the image, instead of the masks' bounding box.

    Returns:
        The PNG; pixels outside all masks are black and transparent.
    """
    window = _whole(pixels) if is_whole or not masks else _around(masks)
    canvas = np.zeros((window.ymax - window.ymin + 1, window.xmax - window.xmin + 1, 4), np.uint8)
    for mask in masks:
        box = mask.box
        part = canvas[
            box.ymin - window.ymin : box.ymax - window.ymin + 1, box.xmin - window.xmin : box.xmax - window.xmin + 1
        ]
        # OpenCV expects BGR.
        colors = pixels[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1, ::-1]
        np.copyto(part[:, :, :ALPHA], colors, where=mask.inside[:, :, np.newaxis])
        part[:, :, ALPHA][mask.inside] = OPAQUE
    done, data = cv2.imencode(".png", canvas, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    if not done:
        raise RuntimeError("OpenCV failed to encode a PNG")
    # Copying it whole would hold the interpreter lock.
    return data.reshape(-1).data


def _whole(pixels: ByteArray) -> Box:
    return Box(0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1)


def _around(masks: Sequence[Mask]) -> Box:
    boxes = [mask.box for mask in masks]
    return Box(
        min(box.xmin for box in boxes),
        min(box.ymin for box in boxes),
        max(box.xmax for box in boxes),
        max(box.ymax for box in boxes),
    )
