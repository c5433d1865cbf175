"""Pictures and masks for tests: a disc that any model finds, encoded in any format, and masks read back."""

import base64
import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pycocotools import mask as coco

Pixels = npt.NDArray[np.uint8]
Inside = npt.NDArray[np.bool_]

# Off-centre in both directions, so that a picture that is turned or mirrored wrongly is noticed.
WIDTH, HEIGHT = 240, 160
DISC_X, DISC_Y, DISC_RADIUS = 70, 50, 32
DARK, BRIGHT = (28, 40, 52), (236, 180, 60)


def disc_picture() -> Image.Image:
    """A bright disc on dark ground, RGB."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), DARK)
    ImageDraw.Draw(picture).ellipse(disc_box(), fill=BRIGHT)
    return picture


def disc_box() -> tuple[int, int, int, int]:
    """The disc's x1, y1, x2, y2, corners included."""
    return DISC_X - DISC_RADIUS, DISC_Y - DISC_RADIUS, DISC_X + DISC_RADIUS, DISC_Y + DISC_RADIUS


def disc_mask() -> Inside:
    """Where the disc is: (HEIGHT, WIDTH)."""
    return np.asarray(disc_picture())[:, :, 0] > 128


def encoded(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


def png_pixels(data: bytes) -> Pixels:
    """The samples of a grey PNG: (h, w) uint8."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        if picture.mode != "L":
            raise ValueError(f"a mask is grey, this is {picture.mode}")
        return np.asarray(picture)


def inside_of(annotation: dict[str, Any]) -> Inside:
    """An annotation's PNG mask as booleans; anything between 0 and 255 is an error."""
    pixels = png_pixels(base64.b64decode(annotation["mask"], validate=True))
    if not set(np.unique(pixels)) <= {0, 255}:
        raise ValueError("a mask has 0 and 255 only")
    inside: Inside = pixels == 255
    return inside


def inside_of_runs(runs: dict[str, Any]) -> Inside:
    """COCO run lengths as booleans, decoded by pycocotools."""
    with warnings.catch_warnings():
        # pycocotools has not caught up with NumPy 2's __array__; its result is right.
        warnings.simplefilter("ignore", DeprecationWarning)
        inside: Inside = np.asarray(coco.decode(runs), bool)
    return inside


def iou(first: Inside, second: Inside) -> float:
    """Intersection over union."""
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0
