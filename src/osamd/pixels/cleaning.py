"""Mask cleaning: smooth outlines, fill holes, drop islands. Pure.

Areas are computed from outlines (Pick's theorem, 1899), without labelling whole images.
"""

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from osamd.pixels.masks import mask_from_array
from osamd.types import ByteArray, Cleaning, Mask

Contour = npt.NDArray[np.int32]


def clean(mask: Mask, cleaning: Cleaning) -> Mask:
    """Clean a mask as requested: first smooth it, then fill holes, then drop islands.

    A mask never becomes empty: its largest part is kept, and a mask that smoothing would erase is not smoothed.
    """
    if not (cleaning.smooth or cleaning.fill_holes or cleaning.drop_islands):
        return mask
    inside = mask.inside.view(np.uint8)
    if cleaning.smooth:
        smoothed = _smoothed(mask, cleaning.smooth)
        inside = smoothed if smoothed.any() else inside
    if cleaning.fill_holes or cleaning.drop_islands:
        # One pixel of margin: without it OpenCV cannot tell a part at the border from the frame.
        padded = np.pad(inside, 1)
        if cleaning.fill_holes:
            _fill_holes(padded, cleaning.fill_holes)
        if cleaning.drop_islands:
            padded = _without_islands(padded, cleaning.drop_islands)
        inside = padded[1:-1, 1:-1]
    cleaned = mask_from_array(
        np.ascontiguousarray(inside).view(np.bool_),
        offset=(mask.box.xmin, mask.box.ymin),
        height=mask.height,
        width=mask.width,
    )
    return cleaned or mask


def _smoothed(mask: Mask, radius: float) -> ByteArray:
    """The mask within its box, blurred and thresholded at one half; it never grows beyond its box."""
    box = mask.box
    # At the image's border the mask is extended; elsewhere it ends.
    top, left = int(box.ymin > 0), int(box.xmin > 0)
    bottom, right = int(box.ymax < mask.height - 1), int(box.xmax < mask.width - 1)
    framed = np.pad(mask.inside.view(np.uint8) * np.uint8(255), ((top, bottom), (left, right)))
    blurred = cv2.GaussianBlur(framed, (0, 0), radius, borderType=cv2.BORDER_REPLICATE)
    height, width = mask.inside.shape
    inside: ByteArray = (blurred[top : top + height, left : left + width] > 127).view(np.uint8)  # noqa: PLR2004 - half
    return inside


def _contours(padded: ByteArray) -> tuple[list[Contour], Any, list[int]]:
    """Outlines with all their pixels, OpenCV's hierarchy, and the index of each outline's parent, or -1."""
    contours, hierarchy = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cast("list[Contour]", list(contours)), hierarchy, hierarchy[0, :, 3].tolist()


def _pixels_of_part(exterior: Contour) -> float:
    """Pixels on and inside an outline."""
    return cv2.contourArea(exterior) + _steps(exterior) / 2 + 1


def _pixels_of_hole(rim: Contour) -> float:
    """Pixels inside the rim of a hole, which belongs to the part around it."""
    return cv2.contourArea(rim) - _steps(rim) / 2 + 1


def _steps(contour: Contour) -> int:
    return len(contour) if len(contour) > 1 else 0


def _fill_holes(padded: ByteArray, most: float) -> None:
    """Fill holes of at most this many pixels, including anything inside them."""
    contours, _, parents = _contours(padded)
    for contour, parent in zip(contours, parents, strict=True):
        if parent >= 0 and _pixels_of_hole(contour) <= most:
            # One by one: drawn together, nested holes would cancel out.
            cv2.drawContours(padded, [contour], -1, 1, cv2.FILLED)


def _without_islands(padded: ByteArray, most: float) -> ByteArray:
    """Keep parts with more pixels than this, and always the largest."""
    contours, _, parents = _contours(padded)
    counts = _pixels_of_parts(contours, parents)
    if not counts:
        return padded
    largest = max(counts, key=counts.__getitem__)
    kept = [index for index, count in counts.items() if count > most or index == largest]
    if len(kept) == len(counts):
        return padded
    # A part's children are its holes.
    drawn = {index: [contours[index]] for index in kept}
    for contour, parent in zip(contours, parents, strict=True):
        if parent in drawn:
            drawn[parent].append(contour)
    canvas = np.zeros_like(padded)
    # Each with its own: OpenCV reads all outlines that it is given, for each part again.
    for outlines in drawn.values():
        cv2.drawContours(canvas, outlines, -1, 1, cv2.FILLED)
    return canvas


def _pixels_of_parts(contours: Sequence[Contour], parents: Sequence[int]) -> dict[int, float]:
    """The area of each part without its holes, by the index of its outline."""
    counts = {index: _pixels_of_part(contours[index]) for index, parent in enumerate(parents) if parent < 0}
    for index, parent in enumerate(parents):
        if parent >= 0:
            counts[parent] -= _pixels_of_hole(contours[index])
    return counts
