"""Convert images and prompts to inputs of the SAM families' graphs, and outputs to candidates. Pure functions."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from osamd.types import ByteArray, Candidate, FloatArray, MaskLogits, Prompt

FOREGROUND: Final = 1
BOX_CORNERS: Final = (2, 3)
MOST_CANDIDATES: Final = 3


def resize(image: ByteArray, *, height: int, width: int) -> ByteArray:
    """Resize like PyTorch with antialiasing: bilinear, averaging over all pixels when shrinking.

    Args:
        image: (H, W, 3) uint8.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (height, width, 3) uint8.
    """
    from PIL import Image  # noqa: PLC0415 - families that do not need it are loaded sooner

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def planes(image: ByteArray, *, mean: Sequence[float], std: Sequence[float]) -> FloatArray:
    """Normalise (H, W, 3) uint8 by mean and standard deviation, both in 0..255: (3, H, W) float32."""
    values = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    values -= np.array(mean, np.float32)[:, None, None]
    values /= np.array(std, np.float32)[:, None, None]
    return values


def labelled_points(prompt: Prompt) -> tuple[FloatArray, FloatArray]:
    """A box and clicks as SAM's point list: the corners, labelled 2 and 3, then the clicks, labelled 1 and 0.

    The box comes first because EfficientSAM truncates the list.

    Returns:
        (N, 2) float32 x and y in image pixels, (N,) float32 labels.
    """
    corners = prompt.boxes.reshape(-1, 2)
    corner_labels = np.tile(BOX_CORNERS, len(prompt.boxes))
    points = np.concatenate([corners, prompt.points]).astype(np.float32)
    return points, np.concatenate([corner_labels, prompt.point_labels]).astype(np.float32)


def middle_click(*, height: int, width: int) -> Prompt:
    """One foreground click in the centre, the default prompt of osam's SAM families."""
    return Prompt(points=np.array([[width / 2, height / 2]], np.float32), point_labels=np.array([FOREGROUND], np.int64))


def ranked(
    logits: FloatArray, scores: FloatArray, *, valid_height: float, valid_width: float, multimask: bool
) -> list[Candidate]:
    """Masks as candidates, best score first: up to three with ``multimask``, else the best.

    Args:
        logits: (M, h, w) mask logits, above 0 means object.
        scores: (M,) predicted IoU.
        valid_height: rows of ``logits`` that show the image.
        valid_width: columns of ``logits`` that show the image.
        multimask: whether to return more than one.
    """
    order = np.argsort(-scores, kind="stable")[: MOST_CANDIDATES if multimask else 1]
    return [
        Candidate(
            # A copy, because a view would keep all M masks in memory for as long as one may be refined.
            logits=MaskLogits(logits[index].copy(), valid_height=valid_height, valid_width=valid_width),
            score=confidence(scores[index]),
        )
        for index in order
    ]


def confidence(score: npt.NDArray[Any] | float) -> float:
    """Clip a score to 0..1; a predicted IoU may be slightly outside."""
    return float(np.clip(np.nan_to_num(score), 0.0, 1.0))
