"""YOLO-World: boxes around objects that match the texts.

Reference: github.com/AILab-CVC/YOLO-World; exported by github.com/wkentaro/yolo-world-onnx.
"""

import heapq
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from osamd.library.families import capabilities_of
from osamd.models.clip_tokens import tokenize
from osamd.models.contract import FLOAT, INT64, Input, Shape, check_inputs, check_outputs
from osamd.models.tensors import confidence
from osamd.pixels.mask_pictures import MaskFrame
from osamd.runtime.sessions import Placement, Session, device_of
from osamd.types import ByteArray, Candidate, Embedding, FloatArray, IntArray, MaskLogits, Prepared, Prompt

SIDE: Final = 640
GREY: Final = 114
CONTEXT_LENGTH: Final = 77
ANYTHING: Final = "anything"
# The last class of every query: objects that match none of the texts.
BACKGROUND: Final = " "
ANSWERS: Final = ("scores", "boxes")
TOKENS: Final = {"input": Input(INT64, ("T", CONTEXT_LENGTH))}
PROMPT: Final = {"images": Input(FLOAT, (1, 3, SIDE, SIDE)), "text_features": Input(FLOAT, (1, "T", None))}


class YoloWorld:
    """The adapter of the ``yoloworld`` family.

    Args:
        paths: ONNX files of the roles ``textual`` and ``yolo``.
        placement: where they run.

    Raises:
        ModelLoadError: a file failed to load, or has other inputs or outputs than the family's graphs.
    """

    capabilities = capabilities_of("yoloworld")

    def __init__(self, paths: Mapping[str, Path], placement: Placement) -> None:
        self._textual = Session(paths["textual"], placement)
        self._yolo = Session(paths["yolo"], placement)
        check_inputs(self._textual, TOKENS)
        check_inputs(self._yolo, PROMPT)
        self._text_features = self._textual.outputs_at(0)
        check_outputs(self._textual, {self._text_features[0]: ("T", self._yolo.input_shapes["text_features"][2])})
        check_outputs(self._yolo, {"scores": (1, "A", "T"), "boxes": (1, "A", 4)})
        self.device = device_of(self._yolo.providers)
        tokenize([ANYTHING], CONTEXT_LENGTH)  # loads the vocabulary now, not at the first request

    def feature_shapes(self, *, height: int, width: int) -> Mapping[str, Shape]:
        """The padded image, whose size is the same for every image."""
        del height, width
        return {"images": (1, 3, SIDE, SIDE)}

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """The text "anything", as in osam."""
        del height, width
        return Prompt(texts=(ANYTHING,))

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """The image's part of the square input."""
        return _resized(height, width)

    def mask_frame(self, *, height: int, width: int) -> MaskFrame | None:
        """None: it takes no masks."""
        del height, width
        return None

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """(1, 3, 640, 640) float16, padded: values 0..255, exact and half the size of the graph's input."""
        height, width = size or image.shape[:2]
        rows, columns = _resized(height, width)
        shrinks = max(image.shape[:2]) > SIDE
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        top, left = _padding(height, width)
        padded = np.full((1, 3, SIDE, SIDE), GREY, np.float16)
        padded[0, :, top : top + rows, left : left + columns] = small.transpose(2, 0, 1)
        return Prepared(height=height, width=width, inputs={"images": padded})

    def encode(self, prepared: Prepared) -> Embedding:
        """Return the prepared image: the graph fuses image and texts from its first layers on."""
        return Embedding(height=prepared.height, width=prepared.width, features=prepared.inputs)

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """All boxes of all texts that survive non-maximum suppression, best first.

        Raises:
            InvalidPromptError: a text is too long.
            InferenceError: the model failed.
        """
        del mask_input, multimask
        tokens = tokenize([*prompt.texts, BACKGROUND], CONTEXT_LENGTH)
        (text_features,) = self._textual.run({"input": tokens}, self._text_features)
        text_features = text_features / np.linalg.norm(text_features, axis=1, keepdims=True)
        feeds = {
            "images": embedding.features["images"].astype(np.float32) / np.float32(255),
            "text_features": text_features.astype(np.float32)[None],
        }
        scores, boxes = self._yolo.run(feeds, ANSWERS)
        found = suppress(
            boxes[0],
            scores[0, :, : len(prompt.texts)],
            iou_threshold=prompt.iou_threshold,
            score_threshold=prompt.score_threshold,
            most=prompt.max_annotations,
        )
        return [
            Candidate(
                box=_image_box(boxes[0, index], height=embedding.height, width=embedding.width),
                score=confidence(scores[0, index, label]),
                text=prompt.texts[label],
            )
            for index, label in found.tolist()
        ]


def suppress(
    boxes: FloatArray, scores: FloatArray, *, iou_threshold: float, score_threshold: float, most: int
) -> IntArray:
    """Non-maximum suppression within each class, as defined by ONNX's NonMaxSuppression.

    Args:
        boxes: (A, 4) x1, y1, x2, y2.
        scores: (A, T), one column per class.
        iou_threshold: boxes that overlap a better one of their class by more than this are dropped.
        score_threshold: boxes with a score at or below it are dropped.
        most: limit of boxes over all classes.

    Returns:
        (n, 2) int64 indices of box and class, best score first.
    """
    classes = [
        _survivors(boxes, scores[:, label], label, iou_threshold, score_threshold) for label in range(scores.shape[1])
    ]
    # Merged lazily, so that suppression stops once there are enough boxes.
    best = itertools.islice(heapq.merge(*classes), most)
    return np.array([(index, label) for _, index, label in best], np.int64).reshape(-1, 2)


def _survivors(
    boxes: FloatArray, scores: FloatArray, label: int, iou_threshold: float, score_threshold: float
) -> Iterator[tuple[float, int, int]]:
    """The boxes that one class keeps, best first: (negative score, index, label)."""
    left = np.flatnonzero(scores > score_threshold)
    left = left[np.argsort(-scores[left], kind="stable")]
    while len(left):
        best, left = int(left[0]), left[1:]
        yield -float(scores[best]), best, label
        left = left[_overlaps(boxes[best], boxes[left]) <= iou_threshold]


def _overlaps(box: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of a (4,) box with (n, 4) others; 0 without an area."""
    x1, y1, x2, y2 = others.T
    shared_width = np.minimum(box[2], x2) - np.maximum(box[0], x1)
    shared_height = np.minimum(box[3], y2) - np.maximum(box[1], y1)
    intersection = np.maximum(shared_width, 0) * np.maximum(shared_height, 0)
    union = (box[2] - box[0]) * (box[3] - box[1]) + (x2 - x1) * (y2 - y1) - intersection
    overlaps: FloatArray = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlaps


def _image_box(box: npt.NDArray[np.float32], *, height: int, width: int) -> tuple[float, float, float, float]:
    """Convert a box in the padded square to image pixels, clipped to the image."""
    top, left = _padding(height, width)
    scale = max(height, width) / SIDE
    x1, y1, x2, y2 = ((box - np.array([left, top, left, top])) * scale).tolist()
    return (
        min(max(x1, 0.0), float(width)),
        min(max(y1, 0.0), float(height)),
        min(max(x2, 0.0), float(width)),
        min(max(y2, 0.0), float(height)),
    )


def _resized(height: int, width: int) -> tuple[int, int]:
    """Rows and columns with the longest side at 640, the other rounded down to at least 1."""
    longest = max(height, width)
    return max(1, height * SIDE // longest), max(1, width * SIDE // longest)


def _padding(height: int, width: int) -> tuple[int, int]:
    """Rows above and columns to the left of the image in the square."""
    rows, columns = _resized(height, width)
    return (SIDE - rows) // 2, (SIDE - columns) // 2
