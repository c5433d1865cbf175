"""Coordinate frames and sizes. Pure functions."""

import math

from osamd.errors import InvalidPromptError
from osamd.types import FloatArray, Prompt


def working_size(height: int, width: int, *, area: int, multiple: int) -> tuple[int, int]:
    """The size of about ``area`` pixels at the image's aspect ratio, both sides multiples of ``multiple``.

    Very long images keep at least two multiples on the short side, so their ratio is not quite kept.

    Returns:
        (rows, columns).
    """
    scale = math.sqrt(area / (height * width))
    smallest = 2 * multiple
    # The long side is capped so that a 1 x 10000 strip cannot ask for a huge working image.
    largest = max(smallest, area // smallest // multiple * multiple)

    def side(length: int) -> int:
        return min(largest, max(smallest, round(length * scale / multiple) * multiple))

    return side(height), side(width)


def to_fractions(points: FloatArray, *, height: int, width: int) -> FloatArray:
    """Pixel centres as fractions of width and height: ``(x + 0.5) / width``.

    Args:
        points: (N, 2) x, y in image pixels.
        height: rows of the image.
        width: columns of the image.

    Returns:
        (N, 2) float32, 0..1.
    """
    import numpy as np  # noqa: PLC0415 - 0.1 s that /health must not wait for

    return ((points + 0.5) / np.array([width, height], np.float32)).astype(np.float32)


def check_inside(prompt: Prompt, *, height: int, width: int, field: str) -> None:
    """Refuse points and boxes that lie outside the image, and boxes turned inside out.

    Points must satisfy 0 <= x < width and 0 <= y < height; box corners may touch the far edges.

    Raises:
        InvalidPromptError: names the first offender and the image's size.
    """
    for index, (x, y) in enumerate(prompt.points.tolist()):
        if not (0 <= x < width and 0 <= y < height):
            message = f"point ({x:g}, {y:g}) lies outside the image, which is {width} x {height} pixels"
            raise InvalidPromptError(message, field=f"{field}.points[{index}]")
    for index, (x1, y1, x2, y2) in enumerate(prompt.boxes.tolist()):
        where = f"{field}.box" if len(prompt.boxes) == 1 else f"{field}.boxes[{index}]"
        text = f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if x1 > x2 or y1 > y2:
            message = f"{text} is turned inside out: x1 <= x2 and y1 <= y2 are wanted"
            raise InvalidPromptError(message, field=where)
        if not (x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height):
            message = f"{text} lies outside the image, which is {width} x {height} pixels"
            raise InvalidPromptError(message, field=where)
