"""Simulated clicks, drawn from the ground truth: first prompts, and corrections of the network's answers.

Masks are (rows, columns) bool at a quarter of the working size. A click is ``(x, y, label)``, x and y as fractions of
width and height.
"""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
Click = tuple[float, float, int]

MOST_CLICKS: Final = 14
FOREGROUND, BACKGROUND, PADDING = 1, 0, -1

BOXES: Final = 0.3
BOXES_WITH_CLICK: Final = 0.05
MANY_CLICKS: Final = 0.15
JITTER: Final = 0.08


def first_prompt(mask: BoolArray, rng: np.random.Generator) -> tuple[list[Click], FloatArray]:
    """A box, a click, or a handful of clicks; and the map that is 1 inside the box."""
    rows, columns = mask.shape
    box_map = np.zeros((rows, columns), np.float32)
    if not mask.any():
        mask = mask.copy()
        mask[rows // 2, columns // 2] = True
    chance = rng.random()
    if chance < BOXES:
        _fill_box(box_map, mask, rng)
        clicks = [_click(mask, FOREGROUND, rng)] if chance < BOXES_WITH_CLICK else []
        return clicks, box_map
    clicks = [_click(mask, FOREGROUND, rng)]
    if chance > 1 - MANY_CLICKS:
        width = 2 * int(rng.integers(2, 9)) + 1
        ring = cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)) > 0
        for _ in range(int(rng.integers(1, 7))):
            if rng.random() < 0.5:
                clicks.append(_click(mask, FOREGROUND, rng, most_interior=0))
            else:
                outside = (ring if rng.random() < 0.7 else np.ones_like(mask)) & ~mask
                if outside.any():
                    clicks.append(_click(outside, BACKGROUND, rng, most_interior=0))
    return clicks, box_map


def correct(truth: BoolArray, found: BoolArray, clicks: list[Click], rng: np.random.Generator) -> list[Click]:
    """The clicks and one to three more, in the largest wrong regions."""
    most = int(rng.choice((1, 2, 3), p=(0.7, 0.2, 0.1)))
    wrong: list[tuple[int, int, BoolArray]] = []
    for error, label in ((truth & ~found, FOREGROUND), (found & ~truth, BACKGROUND)):
        _, parts, stats, _ = cv2.connectedComponentsWithStats(error.astype(np.uint8), connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        largest = np.argsort(-areas, kind="stable")[:most]
        wrong += [(int(areas[part]), label, parts == part + 1) for part in largest]
    wrong.sort(key=lambda item: -item[0])
    clicks = list(clicks)
    for area, label, region in wrong[:most]:
        if len(clicks) < MOST_CLICKS and (area > 1 or rng.random() < 0.3):
            clicks.append(_click(region, label, rng, most_interior=0.65))
    return clicks


def packed(clicks: list[list[Click]]) -> FloatArray:
    """(N, K, 3) float32, padded with label -1."""
    values = np.full((len(clicks), max(1, *map(len, clicks)), 3), PADDING, np.float32)
    for row, of_one in zip(values, clicks, strict=True):
        if of_one:
            row[: len(of_one)] = of_one
    return values


def _click(mask: BoolArray, label: int, rng: np.random.Generator, most_interior: float = 0.5) -> Click:
    """The most interior place, or with the other chance any that is not quite at the rim."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = int(depth.argmax())
    place = deepest
    if rng.random() >= most_interior:
        deep = np.flatnonzero(depth >= depth.flat[deepest] * rng.uniform(0.15, 0.7))
        place = int(deep[int(rng.integers(len(deep)))])
    y, x = divmod(place, mask.shape[1])
    rows, columns = mask.shape
    return (x + float(rng.uniform(0.1, 0.9))) / columns, (y + float(rng.uniform(0.1, 0.9))) / rows, label


def _fill_box(box_map: FloatArray, mask: BoolArray, rng: np.random.Generator) -> None:
    y, x = np.nonzero(mask)
    left, top, right, bottom = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
    jitter = 0.0 if rng.random() < 0.6 else JITTER
    moves = rng.uniform(-jitter, jitter, 4) * (right - left, bottom - top, right - left, bottom - top)
    x1, y1, x2, y2 = (round(float(value)) for value in np.array([left, top, right, bottom]) + moves)
    box_map[max(0, y1) : max(1, y2), max(0, x1) : max(1, x2)] = 1
