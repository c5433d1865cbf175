"""osam 0.8.1 in this process, on local graphs, and what is needed to compare its answers with ours."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import osam.types

from osamd.pixels.masks import full_array, mask_from_logits
from osamd.runtime.sessions import CPU, Placement
from osamd.types import Candidate, Embedding, Prompt

HERE = Placement((CPU,), threads=2)
# (height, width): small, upright, wide, and upright and long.
SIZES = ((48, 64), (500, 333), (720, 1280), (3000, 1000))
Blobs = dict[str, dict[str, Path]]
Asked = dict[str, Any]
# Keyword arguments of ``make_prompt``, in fractions of the image.
CLICK_PROMPTS: dict[str, Asked] = {
    "click": {"clicks": ((0.3, 0.62, 1),)},
    "clicks": {"clicks": ((0.3, 0.4, 1), (0.72, 0.6, 1), (0.5, 0.45, 0))},
    "box": {"box": (0.2, 0.35, 0.58, 0.83)},
    "box and clicks": {"box": (0.25, 0.2, 0.75, 0.7), "clicks": ((0.4, 0.5, 1), (0.68, 0.62, 0))},
}
BoolArray = npt.NDArray[np.bool_]
Model = TypeVar("Model", bound=osam.types.Model)


def osam_model(kind: type[Model], paths: Mapping[str, Path]) -> Model:
    """An osam model over local files instead of pulled ones."""
    model = object.__new__(kind)
    model._inference_sessions = {  # there is no public way to choose the files
        role: ort.InferenceSession(path, providers=[CPU]) for role, path in paths.items()
    }
    return model


@functools.cache
def smooth_photo(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A picture without fine detail, different in each half and each colour, so that resampling filters agree on it.

    Read-only and made once a size: a large one takes longer than most of what is tested with it.
    """
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    red = 200 * np.exp(-((x - 0.3) ** 2 + (y - 0.4) ** 2) / 0.05) + 40
    green = 120 + 100 * np.sin(3 * x + 1) * np.cos(2 * y)
    blue = 60 + 150 * y * (1 - 0.5 * x)
    pixels: npt.NDArray[np.uint8] = np.clip(np.stack([red, green, blue], axis=2), 0, 255).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def make_prompt(
    height: int,
    width: int,
    *,
    clicks: tuple[tuple[float, float, int], ...] = (),
    box: tuple[float, float, float, float] | None = None,
    **others: Any,
) -> Prompt:
    """A prompt from clicks (x, y, label) and a box in fractions of the image."""
    size = np.array([width, height], np.float32)
    points = np.array([click[:2] for click in clicks], np.float32).reshape(-1, 2) * size
    boxes = np.zeros((0, 4), np.float32) if box is None else (np.array(box, np.float32) * np.tile(size, 2))[None]
    labels = np.array([click[2] for click in clicks], np.int64)
    return Prompt(points=np.rint(points), point_labels=labels, boxes=np.rint(boxes), **others)


def osam_prompt(prompt: Prompt) -> osam.types.Prompt:
    """The same prompt as osam's clients write it: clicks, then the corners of the box."""
    points = np.concatenate([prompt.points, prompt.boxes.reshape(-1, 2)]).astype(np.float64)
    labels = np.concatenate([prompt.point_labels, np.tile([2, 3], len(prompt.boxes))]).astype(np.int64)
    return osam.types.Prompt(
        points=points if len(points) else None,
        point_labels=labels if len(points) else None,
        texts=list(prompt.texts) or None,
        iou_threshold=prompt.iou_threshold,
        score_threshold=prompt.score_threshold,
        max_annotations=prompt.max_annotations,
    )


def ask_osam(
    model: osam.types.Model, image: npt.NDArray[np.uint8], prompt: Prompt | None
) -> list[osam.types.Annotation]:
    """What osam answers."""
    asked = None if prompt is None else osam_prompt(prompt)
    request = osam.types.GenerateRequest(model=model.name, image=image, prompt=asked)
    return model.generate(request).annotations or []


def osam_mask(annotation: osam.types.Annotation, height: int, width: int) -> BoolArray:
    """The mask of osam at the image's size."""
    assert annotation.bounding_box is not None
    assert annotation.mask is not None
    full = np.zeros((height, width), np.bool_)
    box = annotation.bounding_box
    full[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = annotation.mask
    return full


def osam_box(annotation: osam.types.Annotation) -> tuple[int, int, int, int]:
    """The box of osam as x1, y1, x2, y2."""
    box = annotation.bounding_box
    assert box is not None
    return box.xmin, box.ymin, box.xmax, box.ymax


def our_mask(candidate: Candidate, embedding: Embedding) -> BoolArray:
    """A candidate's mask at the image's size."""
    assert candidate.logits is not None
    mask = mask_from_logits(candidate.logits, height=embedding.height, width=embedding.width)
    if mask is None:
        return np.zeros((embedding.height, embedding.width), np.bool_)
    return full_array(mask) > 0


def overlap(first: BoolArray, second: BoolArray) -> float:
    """Intersection over union; 0 where both are empty, so that nothing is proved by nothing."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def is_telling(mask: BoolArray) -> bool:
    """Whether a mask is neither nearly empty nor nearly full, so that agreeing on it means something."""
    return bool(0.01 < mask.mean() < 0.9)
