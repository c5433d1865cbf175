"""The built-in network: small enough for the wheel, no download, no GPU.

A frozen EfficientNet-Lite0 with a feature pyramid encodes the image; a small U-Net decodes clicks, a box and the
previous mask into logits at a quarter of the working resolution. It was trained to see its own previous mask from the
second click on. A request has none, so a first pass at a small working size answers the first click (or the box), and a
second pass at a larger size answers the whole prompt with that mask in view. Its weights and what they were trained on:
``builtin_net/README.md``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from osamd.geometry import to_fractions, working_size
from osamd.sessions import Placement, Session, device_of
from osamd.types import ByteArray, Candidate, Capabilities, Embedding, FloatArray, MaskLogits, Prompt

# Working areas in pixels: the size the network was trained at, and a larger one that later clicks gain from.
AREAS: Final = {"small": 320 * 320, "large": 448 * 448}
MULTIPLE: Final = 32
MEAN: Final = 127.0
SCALE: Final = 128.0
FEATURES: Final = ("p4", "p8", "p16", "e")
FOREGROUND: Final = 1
PADDING_LABEL: Final = -1.0


class Builtin:
    """The adapter of the family ``builtin``.

    Args:
        paths: ONNX files of the roles ``encoder`` and ``decoder``.
        placement: where they run.
    """

    capabilities = Capabilities(points=True, boxes=1, mask_input=True)

    def __init__(self, paths: Mapping[str, Path], placement: Placement) -> None:
        self._encoder = Session(paths["encoder"], placement, in_background=True)
        self._decoder = Session(paths["decoder"], placement)
        self.device = device_of(self._encoder.providers)
        self.feature_shapes = {
            f"{scale}.{name}": self._decoder.input_shapes[name] for scale in AREAS for name in FEATURES
        }
        # The last first pass of each embedding, as long as the embedding lives; 25 KB each.
        self._first_answers: WeakKeyDictionary[Embedding, tuple[bytes, FloatArray]] = WeakKeyDictionary()

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """One foreground click in the middle, as osam has it for its SAM families."""
        return Prompt(
            points=np.array([[width // 2, height // 2]], np.float32), point_labels=np.array([FOREGROUND], np.int64)
        )

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """Twice the larger of the two working sizes: masks depend on how the last step down is taken."""
        rows, columns = working_size(height, width, area=AREAS["large"], multiple=MULTIPLE)
        return 2 * rows, 2 * columns

    def encode(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Embedding:
        """Four feature maps at each of the two working sizes, ``small.p4`` to ``large.e``, about 3.5 MB.

        The image is resized to about each area at its own aspect ratio, without padding.
        """
        height, width = size or image.shape[:2]
        rows, columns = working_size(height, width, area=AREAS["large"], multiple=MULTIPLE)
        if image.shape[0] > 2 * rows and image.shape[1] > 2 * columns:
            # One pass over a large photo instead of one for each working size.
            image = _resize(image, 2 * rows, 2 * columns)
        features: dict[str, FloatArray] = {}
        for scale, area in AREAS.items():
            small = _resize(image, *working_size(height, width, area=area, multiple=MULTIPLE))
            pixels = ((small.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None]
            maps = self._encoder.run({"x": np.ascontiguousarray(pixels)}, FEATURES)
            features |= {f"{scale}.{name}": values for name, values in zip(FEATURES, maps, strict=True)}
        return Embedding(height=height, width=width, features=features)

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """One candidate; the network has neither alternatives nor a trained confidence, so there is no score.

        Only the parts of the mask that hold a foreground click are kept.
        """
        del multimask
        if mask_input is not None:
            previous = _probability(mask_input.values)
        else:
            previous = self._first_answer(embedding, _first_answerable(prompt))
        values = self._run(embedding, "large", prompt, previous)
        clicked = prompt.points[prompt.point_labels == FOREGROUND]
        if len(clicked):
            places = to_fractions(clicked, height=embedding.height, width=embedding.width)
            values = _keep_parts(values, places)
        rows, columns = values.shape
        return [Candidate(logits=MaskLogits(values=values, valid_height=float(rows), valid_width=float(columns)))]

    def _first_answer(self, embedding: Embedding, prompt: Prompt) -> FloatArray:
        """The first pass; known already when somebody goes on clicking. What it gives does not depend on that."""
        key = b"".join(array.tobytes() for array in (prompt.points, prompt.point_labels, prompt.boxes))
        known = self._first_answers.get(embedding)
        if known is None or known[0] != key:
            known = (key, _probability(self._run(embedding, "small", prompt, None)))
            self._first_answers[embedding] = known
        return known[1]

    def _run(self, embedding: Embedding, scale: str, prompt: Prompt, previous: FloatArray | None) -> FloatArray:
        """One pass of the decoder; (h, w) float32 logits over the whole image."""
        features = {name: embedding.features[f"{scale}.{name}"] for name in FEATURES}
        rows, columns = features["p4"].shape[2:]
        maps = np.zeros((1, 2, rows, columns), np.float32)
        if len(prompt.boxes):
            _fill_box(maps[0, 0], prompt.boxes[0], height=embedding.height, width=embedding.width)
        if previous is not None:
            maps[0, 1] = cv2.resize(previous, (columns, rows), interpolation=cv2.INTER_LINEAR)
        points = _points_input(prompt, height=embedding.height, width=embedding.width)
        logits: FloatArray = self._decoder.run({**features, "pts": points, "maps": maps}, ["logits"])[0][0, 0]
        return logits


def _resize(image: ByteArray, rows: int, columns: int) -> ByteArray:
    is_shrinking = columns < image.shape[1]
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if is_shrinking else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _first_answerable(prompt: Prompt) -> Prompt:
    """What somebody would have asked first: the box, else the first foreground click, else the first click."""
    if len(prompt.boxes):
        return Prompt(boxes=prompt.boxes)
    foreground = np.flatnonzero(prompt.point_labels == FOREGROUND)
    first = slice(int(foreground[0]), int(foreground[0]) + 1) if len(foreground) else slice(0, 1)
    return Prompt(points=prompt.points[first], point_labels=prompt.point_labels[first])


def _keep_parts(values: FloatArray, places: FloatArray) -> FloatArray:
    """Push the 8-connected parts of the mask that hold no click below the threshold.

    Args:
        values: (h, w) float32 logits.
        places: (P, 2) float32, the clicks as fractions of width and height.

    Returns:
        (h, w) float32; as it came when no click lies on the mask.
    """
    rows, columns = values.shape
    _, parts = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)
    x = np.clip((places[:, 0] * columns).astype(np.int64), 0, columns - 1)
    y = np.clip((places[:, 1] * rows).astype(np.int64), 0, rows - 1)
    hit = parts[y, x]
    hit = hit[hit > 0]
    return np.where(np.isin(parts, [0, *hit]), values, -np.abs(values)) if len(hit) else values


def _points_input(prompt: Prompt, *, height: int, width: int) -> FloatArray:
    """(1, K, 3) float32: x and y as fractions of the image, label; one padding point where there are no clicks."""
    if not len(prompt.points):
        return np.array([[[0.0, 0.0, PADDING_LABEL]]], np.float32)
    places = to_fractions(prompt.points, height=height, width=width)
    return np.concatenate([places, prompt.point_labels[:, None].astype(np.float32)], axis=1)[None]


def _fill_box(box_map: FloatArray, box: FloatArray, *, height: int, width: int) -> None:
    """Set the cells of a (rows, columns) map that the box covers to 1, at least one of them."""
    rows, columns = box_map.shape
    x1, y1, x2, y2 = box.tolist()
    top = min(rows - 1, max(0, round(y1 * rows / height)))
    left = min(columns - 1, max(0, round(x1 * columns / width)))
    bottom = max(top + 1, round((y2 + 1) * rows / height))
    right = max(left + 1, round((x2 + 1) * columns / width))
    box_map[top:bottom, left:right] = 1.0


def _probability(logits: FloatArray) -> FloatArray:
    return (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
