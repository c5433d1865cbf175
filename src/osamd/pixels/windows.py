"""Rectangles of a picture of an image that are looked at on their own. Pure functions."""

import math
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from osamd.types import BoolArray, ByteArray, FloatArray, Prompt, SmallPicture

# Of a box on each side, relative to the box.
MARGIN: Final = 0.5
# Shortest side of a window in pixels of the picture: an object that has even fewer is only blurred when enlarged.
LEAST: Final = 96
# JPEG qualities: the second for pictures of noise, of which the first would be larger than MOST_BYTES.
QUALITIES: Final = (95, 70)
MOST_BYTES: Final = 1_000_000
# Logits beyond this are as sure.
SURE: Final = 10.0
# Decimals of edges in the image, so that the far edges are its width and height, and not a rounding less.
DECIMALS: Final = 9


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a picture of an image, in whole pixels of the picture.

    Attributes:
        left: first column.
        top: first row.
        right: one past its last column.
        bottom: one past its last row.
        scale_x: columns of the picture per column of the image.
        scale_y: rows of the picture per row of the image.
    """

    left: int
    top: int
    right: int
    bottom: int
    scale_x: float
    scale_y: float

    @property
    def rows(self) -> int:
        """Its height in pixels of the picture."""
        return self.bottom - self.top

    @property
    def columns(self) -> int:
        """Its width in pixels of the picture."""
        return self.right - self.left

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge in image pixels, as in ``Detail``."""
        return (
            round(self.left / self.scale_x, DECIMALS),
            round(self.top / self.scale_y, DECIMALS),
            round(self.right / self.scale_x, DECIMALS),
            round(self.bottom / self.scale_y, DECIMALS),
        )

    def contains(self, prompt: Prompt) -> bool:
        """Whether all points and boxes of a prompt are inside."""
        left, top, right, bottom = self.edges
        first, last = np.array([left, top]), np.array([right, bottom])
        # A point is in a pixel, whose centre has whole numbers, or up to the image's far edge.
        places = np.concatenate([prompt.points, prompt.boxes.reshape(-1, 2)])
        return bool(((places >= first - 0.5) & (places <= last)).all())

    def to_window(self, points: FloatArray) -> FloatArray:
        """Points (N, 2) in image pixels as pixels of the window; pixel centres are whole numbers in both."""
        scale, corner = np.array([self.scale_x, self.scale_y]), np.array([self.left, self.top])
        return np.asarray((points + 0.5) * scale - corner - 0.5, np.float32)

    def prompt(self, prompt: Prompt) -> Prompt:
        """A prompt in the window's pixels."""
        scale, corner = np.array([self.scale_x, self.scale_y] * 2), np.array([self.left, self.top] * 2)
        # Boxes include their last pixels, so it is edges that are scaled.
        past = np.array([0, 0, 1, 1])
        boxes = (prompt.boxes + past) * scale - corner - past
        return replace(prompt, points=self.to_window(prompt.points), boxes=boxes.astype(np.float32))


def window_around(box: FloatArray, picture: SmallPicture, *, height: int, width: int) -> Window:
    """The window of a picture that shows a box and some of what is around it.

    Args:
        box: (4,) x1, y1, x2, y2 in image pixels.
        picture: of the image.
        height: rows of the image.
        width: columns of the image.
    """
    x1, y1, x2, y2 = box.tolist()
    scale_x, scale_y = picture.columns / width, picture.rows / height
    left, right = _side(x1 * scale_x, (x2 + 1) * scale_x, picture.columns)
    top, bottom = _side(y1 * scale_y, (y2 + 1) * scale_y, picture.rows)
    return Window(left, top, right, bottom, scale_x, scale_y)


def _side(start: float, end: float, length: int) -> tuple[int, int]:
    """One side of a window around start..end, of a picture of this length: its first pixel, and one past its last."""
    middle, half = (start + end) / 2, max(LEAST, (end - start) * (1 + 2 * MARGIN)) / 2
    return max(0, math.floor(middle - half)), min(length, math.ceil(middle + half))


def compressed(pixels: ByteArray) -> SmallPicture:
    """Compress a picture, (h, w, 3) uint8 RGB, to a megabyte at most unless it is all noise; 6 ms for a megapixel."""
    swapped = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    for quality in QUALITIES:
        _, jpeg = cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if jpeg.nbytes <= MOST_BYTES:
            break
    return SmallPicture(np.asarray(jpeg, np.uint8), *pixels.shape[:2])


def cut(picture: SmallPicture, window: Window) -> ByteArray:
    """The pixels of a window, (h, w, 3) uint8 RGB."""
    piece = _decompressed(picture)[window.top : window.bottom, window.left : window.right]
    return np.asarray(cv2.cvtColor(piece, cv2.COLOR_BGR2RGB), np.uint8)


def check_picture(picture: SmallPicture) -> None:
    """Check a picture that was stored; 5 ms for a megapixel.

    Raises:
        ValueError: it is not a JPEG file of its size.
    """
    _decompressed(picture)


def _decompressed(picture: SmallPicture) -> ByteArray:
    """All pixels, (rows, columns, 3) uint8 BGR."""
    try:
        pixels = cv2.imdecode(picture.jpeg, cv2.IMREAD_COLOR)
    # An empty array, or one of other numbers than bytes.
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape != (picture.rows, picture.columns, 3):
        raise ValueError(f"expected a JPEG file of {picture.columns} x {picture.rows} pixels")
    return np.asarray(pixels, np.uint8)


def onto_image(values: FloatArray, window: Window, *, rows: int, columns: int, picture: SmallPicture) -> FloatArray:
    """Logits of a window on a coarser grid of the whole image, where they cross zero on the object's outline, too.

    Args:
        values: (h, w) float32 logits.
        window: what they show.
        rows: of the grid.
        columns: of the grid.
        picture: of which the window is.

    Returns:
        (rows, columns) float32: of each cell, the logit of the mean probability.
    """
    fine = cv2.resize(values, (window.columns, window.rows), interpolation=cv2.INTER_LINEAR)
    whole = np.zeros((picture.rows, picture.columns), np.float32)
    whole[window.top : window.bottom, window.left : window.right] = 1 / (1 + np.exp(-np.clip(fine, -SURE, SURE)))
    mean = np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
    least = 1 / (1 + np.exp(np.float32(SURE)))
    mean = np.clip(mean, least, 1 - least)
    return np.asarray(np.log(mean / (1 - mean)), np.float32)


def from_image(values: FloatArray, window: Window, *, rows: int, columns: int, picture: SmallPicture) -> FloatArray:
    """What a grid of the whole image shows of a window, on a grid of the window.

    Args:
        values: (h, w) float32, over the whole image.
        window: what is wanted of it.
        rows: of the window's grid.
        columns: of the window's grid.
        picture: of which the window is.

    Returns:
        (rows, columns) float32, interpolated between cells.
    """
    height, width = values.shape
    # The centre of the window's cell x is at window.left + (x + .5) * across of the picture.
    across, down = window.columns / columns, window.rows / rows
    scale_x, scale_y = width / picture.columns, height / picture.rows
    places = np.array(
        [
            [across * scale_x, 0, (window.left + across / 2) * scale_x - 0.5],
            [0, down * scale_y, (window.top + down / 2) * scale_y - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(values, places, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def box_around(mask: BoolArray, *, height: int, width: int) -> FloatArray | None:
    """The box of a mask, (4,) float32 x1, y1, x2, y2 in pixels of what it covers; None if it is empty.

    Args:
        mask: (h, w), over the whole of an image or a window.
        height: rows of the image or window.
        width: the same for columns.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    step_x, step_y = width / mask.shape[1], height / mask.shape[0]
    edges = [columns[0] * step_x, rows[0] * step_y, (columns[-1] + 1) * step_x - 1, (rows[-1] + 1) * step_y - 1]
    return np.array(edges, np.float32)
