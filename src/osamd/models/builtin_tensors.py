"""Convert images and prompts to inputs of the built-in network's graphs, and outputs to masks. Pure functions."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from osamd.models.tensors import FOREGROUND
from osamd.pixels.geometry import to_fractions, working_size
from osamd.types import ByteArray, Embedding, FloatArray, Prepared, Prompt

# Working areas in pixels: the size the network was trained at, and a larger one that improves later clicks.
AREAS: Final = {"small": 320 * 320, "large": 448 * 448}
MULTIPLE: Final = 32
# Working pixels per low-resolution pixel.
STRIDE: Final = 4
MEAN: Final = 127.0
SCALE: Final = 128.0
# Working pixels per cell of each feature map.
STRIDES: Final = {"p4": 4, "p8": 8, "p16": 16, "e": 8}
FEATURES: Final = tuple(STRIDES)
PADDING_LABEL: Final = -1.0
MOST_STEPS: Final = 16
# Of probability: what is above belongs to the object.
THRESHOLD: Final = 0.5
# Probabilities nearer to 0 or 1 than this become logits of about -7 or 7.
LEAST: Final = 1e-3
# Masks with a higher IoU than this look the same to a person who has to choose.
SAME: Final = 0.9

HalfArray = npt.NDArray[np.float16]


def grid_of(size: str, *, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the logits of an image at one of the working sizes."""
    rows, columns = working_size(height, width, area=AREAS[size], multiple=MULTIPLE)
    return rows // STRIDE, columns // STRIDE


def feeds(
    embedding: Embedding, prompt: Prompt, size: str, previous: FloatArray | HalfArray | None
) -> dict[str, FloatArray]:
    """The decoder's inputs for one prompt. The graph takes several at once, which is no faster on a CPU."""
    features = {name: embedding.features[f"{size}.{name}"] for name in FEATURES}
    rows, columns = features["p4"].shape[2:]
    maps = np.zeros((1, 2, rows, columns), np.float32)
    if len(prompt.boxes):
        _fill_box(maps[0, 0], prompt.boxes[0], height=embedding.height, width=embedding.width)
    if previous is not None:
        maps[0, 1] = resampled(previous.astype(np.float32), rows, columns)
    return {**features, "pts": _points_input(prompt, height=embedding.height, width=embedding.width), "maps": maps}


def resampled(values: FloatArray, rows: int, columns: int) -> FloatArray:
    """(h, w) float32 on a grid of (rows, columns)."""
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def prepared(image: ByteArray, *, height: int, width: int, sizes: Iterable[str] = AREAS) -> Prepared:
    """The encoder's inputs for an image of this height and width, of which ``image`` may be a reduced one."""
    inputs: dict[str, FloatArray] = {}
    for name in sizes:
        small = resize(image, *working_size(height, width, area=AREAS[name], multiple=MULTIPLE))
        pixels = ((small.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None]
        inputs[name] = np.ascontiguousarray(pixels)
    return Prepared(height=height, width=width, inputs=inputs)


def resize(image: ByteArray, rows: int, columns: int) -> ByteArray:
    """Resize (H, W, 3) uint8, averaging where there are fewer columns than before."""
    is_shrinking = columns < image.shape[1]
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if is_shrinking else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def steps(prompt: Prompt) -> list[Prompt]:
    """The prompt as it grew, click by click, itself included: from the box, else from the first foreground click.

    At most ``MOST_STEPS``; beyond that, the last clicks are added at once.
    """
    count = len(prompt.points)
    if len(prompt.boxes):
        first = 0
    else:
        foreground = np.flatnonzero(prompt.point_labels == FOREGROUND)
        first = int(foreground[0]) + 1 if len(foreground) else count
    sizes = [*range(first, min(count, first + MOST_STEPS - 1)), count]
    return [replace(prompt, points=prompt.points[:size], point_labels=prompt.point_labels[:size]) for size in sizes]


def are_alike(one: FloatArray, other: FloatArray) -> bool:
    """Whether two masks, given as logits on one grid, look the same to a person who has to choose; empty ones do."""
    union = int(((one > 0) | (other > 0)).sum())
    return not union or int(((one > 0) & (other > 0)).sum()) / union >= SAME


def keep_parts(values: FloatArray, places: FloatArray) -> FloatArray:
    """Push 8-connected parts of the mask without a click below the threshold.

    Args:
        values: (h, w) float32 logits.
        places: (P, 2) float32, the clicks as fractions of width and height.

    Returns:
        (h, w) float32; unchanged if no click is on the mask.
    """
    if not len(places):
        return values
    rows, columns = values.shape
    _, parts = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)
    x = np.clip((places[:, 0] * columns).astype(np.int64), 0, columns - 1)
    y = np.clip((places[:, 1] * rows).astype(np.int64), 0, rows - 1)
    hit = parts[y, x]
    hit = hit[hit > 0]
    return np.where(np.isin(parts, [0, *hit]), values, -np.abs(values)) if len(hit) else values


def _points_input(prompt: Prompt, *, height: int, width: int) -> FloatArray:
    """(1, K, 3) float32: x and y as fractions of the image, label; one padding point if there are no clicks."""
    if not len(prompt.points):
        return np.array([[[0.0, 0.0, PADDING_LABEL]]], np.float32)
    places = to_fractions(prompt.points, height=height, width=width)
    return np.concatenate([places, prompt.point_labels[:, None].astype(np.float32)], axis=1)[None]


def _fill_box(box_map: FloatArray, box: FloatArray, *, height: int, width: int) -> None:
    """Set the cells of a (rows, columns) map that the box covers to 1, at least one cell."""
    rows, columns = box_map.shape
    x1, y1, x2, y2 = box.tolist()
    top = min(rows - 1, max(0, round(y1 * rows / height)))
    left = min(columns - 1, max(0, round(x1 * columns / width)))
    bottom = max(top + 1, round((y2 + 1) * rows / height))
    right = max(left + 1, round((x2 + 1) * columns / width))
    box_map[top:bottom, left:right] = 1.0


def probability(logits: FloatArray) -> HalfArray:
    """Convert to half precision, in which answers are remembered."""
    return (1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float16)


def logits_of(probabilities: HalfArray) -> FloatArray:
    """The inverse of ``probability``, as exact as half precision is, within -7 and 7."""
    shares = np.clip(probabilities.astype(np.float32), LEAST, 1 - LEAST)
    return np.asarray(np.log(shares / (1 - shares)), np.float32)
