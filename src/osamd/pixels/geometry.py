"""Coordinate frames and sizes. Pure functions."""

import math
from dataclasses import replace
from typing import Final

from osamd.errors import InvalidPromptError
from osamd.types import FloatArray, Prompt

# How far outside the image points of annotation tools may be, relative to its sides.
POINT_MARGIN: Final = 0.1


def working_size(height: int, width: int, *, area: int, multiple: int) -> tuple[int, int]:
    """The size of about ``area`` pixels at the image's aspect ratio, both sides multiples of ``multiple``.

    The short side is at least two multiples, so the aspect ratio of very long images changes slightly.

    Returns:
        (rows, columns).
    """
    scale = math.sqrt(area / (height * width))
    smallest = 2 * multiple
    # The long side is capped so that a 1 x 10000 strip does not get a huge working image.
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
    import numpy as np

    return ((points + 0.5) / np.array([width, height], np.float32)).astype(np.float32)


def check_inside(prompt: Prompt, *, height: int, width: int) -> None:
    """Reject points and boxes outside the image, and boxes whose corners are swapped.

    Points and box corners satisfy 0 <= x <= width and 0 <= y <= height: the far edges belong to the image.

    Raises:
        InvalidPromptError: names the first offending one and the image's size.
    """
    import numpy as np

    size = np.array([width, height], np.float32)
    # Comparisons with NaN are False.
    are_inside = (prompt.points >= 0) & (prompt.points <= size)
    if not are_inside.all():
        index = int(are_inside.all(axis=1).argmin())
        x, y = prompt.points[index]
        message = f"point ({x:g}, {y:g}) is outside the image, which is {width} x {height} pixels"
        raise InvalidPromptError(message, field=prompt.path("points", index))
    corners = prompt.boxes.reshape(-1, 2, 2)
    is_swapped = np.asarray((corners[:, 0] > corners[:, 1]).any(axis=1))
    is_inside = ((corners >= 0) & (corners <= size)).all(axis=(1, 2))
    is_wrong = is_swapped | ~is_inside
    if not is_wrong.any():
        return
    index = int(is_wrong.argmax())
    x1, y1, x2, y2 = prompt.boxes[index]
    where = prompt.path("box") if len(prompt.boxes) == 1 else prompt.path("boxes", index)
    text = f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if is_swapped[index]:
        raise InvalidPromptError(f"{text} has swapped corners: expected x1 <= x2 and y1 <= y2", field=where)
    raise InvalidPromptError(f"{text} is outside the image, which is {width} x {height} pixels", field=where)


def clipped(prompt: Prompt, *, height: int, width: int) -> Prompt:
    """Clip points and boxes that reach slightly beyond the image, as dragged or rounded by annotation tools.

    Points move to the edge if they are no further from it than a tenth of the image's side; boxes are intersected with
    the image. Others, such as those in another image's pixels, are kept as they are, for ``check_inside`` to refuse.

    Args:
        prompt: with ordered boxes.
        height: rows of the image.
        width: columns of the image.
    """
    import numpy as np

    size = np.array([width, height], np.float32)
    margin = size * POINT_MARGIN
    are_near = ((prompt.points >= -margin) & (prompt.points <= size + margin)).all(axis=1, keepdims=True)
    points = np.where(are_near, np.clip(prompt.points, 0, size), prompt.points).astype(np.float32)
    corners = prompt.boxes.reshape(-1, 2, 2)
    do_touch = ((corners[:, :1] <= size) & (corners[:, 1:] >= 0)).all(axis=2, keepdims=True)
    boxes = np.where(do_touch, np.clip(corners, 0, size), corners).astype(np.float32).reshape(-1, 4)
    return replace(prompt, points=points, boxes=boxes)


def onto_pixels(points: FloatArray, *, height: int, width: int) -> FloatArray:
    """Move points on the far edges, x = width or y = height, to the last column or row.

    Args:
        points: (N, 2) x, y in image pixels.
        height: rows of the image.
        width: columns of the image.

    Returns:
        (N, 2) float32; the same array if no point is on an edge.
    """
    import numpy as np

    is_edge = points == np.array([width, height], np.float32)
    return np.where(is_edge, points - 1, points).astype(np.float32) if is_edge.any() else points
