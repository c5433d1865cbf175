"""Images and prompts as the graphs of the SAM families take them, and their answers as candidates. Pure functions."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from osamd.types import ByteArray, Candidate, FloatArray, MaskLogits, Prompt

FOREGROUND: Final = 1
BOX_CORNERS: Final = (2, 3)
MOST_CANDIDATES: Final = 3


def resize(image: ByteArray, *, height: int, width: int) -> ByteArray:
    """Resize as PyTorch's image models are trained: bilinear, averaging over all pixels when shrinking.

    Args:
        image: (H, W, 3) uint8.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (height, width, 3) uint8.
    """
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def planes(image: ByteArray, *, mean: Sequence[float], std: Sequence[float]) -> FloatArray:
    """Colour planes of (H, W, 3) uint8, less their mean and over their deviation, both in 0..255: (3, H, W) float32."""
    values = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    values -= np.array(mean, np.float32)[:, None, None]
    values /= np.array(std, np.float32)[:, None, None]
    return values


def labelled_points(prompt: Prompt) -> tuple[FloatArray, FloatArray]:
    """A box and clicks in SAM's one list: the corners labelled 2 and 3, then the clicks labelled 1 and 0.

    The box comes first because EfficientSAM reads only so many points.

    Returns:
        (N, 2) float32 x and y in image pixels, (N,) float32 labels.
    """
    corners = prompt.boxes.reshape(-1, 2)
    corner_labels = np.tile(BOX_CORNERS, len(prompt.boxes))
    points = np.concatenate([corners, prompt.points]).astype(np.float32)
    return points, np.concatenate([corner_labels, prompt.point_labels]).astype(np.float32)


def middle_click(*, height: int, width: int) -> Prompt:
    """One foreground click in the middle: what osam's SAM families segment when nothing is said."""
    return Prompt(points=np.array([[width / 2, height / 2]], np.float32), point_labels=np.array([FOREGROUND], np.int64))


def ranked(
    logits: FloatArray, scores: FloatArray, *, valid_height: float, valid_width: float, multimask: bool
) -> list[Candidate]:
    """Masks as candidates, the best score first: up to three with ``multimask``, else the best.

    Args:
        logits: (M, h, w), above 0 means object.
        scores: (M,) the model's own estimate of each mask's overlap with the truth.
        valid_height: rows of ``logits`` that show the image.
        valid_width: columns of ``logits`` that show the image.
        multimask: whether to return more than one.
    """
    order = np.argsort(-scores, kind="stable")[: MOST_CANDIDATES if multimask else 1]
    return [
        Candidate(
            # A copy, since a row would keep all M masks in memory for as long as it may be refined.
            logits=MaskLogits(logits[index].copy(), valid_height=valid_height, valid_width=valid_width),
            score=confidence(scores[index]),
        )
        for index in order
    ]


def confidence(score: npt.NDArray[Any] | float) -> float:
    """A score as a number in 0..1; a regressed overlap may lie a little outside."""
    return float(np.clip(np.nan_to_num(score), 0.0, 1.0))
