"""The built-in network: small enough for the wheel, no download, no GPU.

A frozen EfficientNet-Lite0 with a feature pyramid encodes the image; a small U-Net decodes clicks, a box and the
previous mask into logits at a quarter of the working resolution. Its weights and what they were trained on:
``builtin_net/README.md``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from osamd.geometry import to_fractions, working_size
from osamd.sessions import Placement, Session, device_of
from osamd.types import ByteArray, Candidate, Capabilities, Embedding, FloatArray, MaskLogits, Prompt

AREA: Final = 320 * 320
MULTIPLE: Final = 32
LOGIT_STRIDE: Final = 4
MEAN: Final = 127.0
SCALE: Final = 128.0
FEATURES: Final = ("p4", "p8", "p16", "e")
PADDING_LABEL: Final = -1.0


class Builtin:
    """The adapter of the family ``builtin``.

    Args:
        paths: ONNX files of the roles ``encoder`` and ``decoder``.
        placement: where they run.
    """

    capabilities = Capabilities(points=True, boxes=1, mask_input=True)

    def __init__(self, paths: Mapping[str, Path], placement: Placement) -> None:
        self._encoder = Session(paths["encoder"], placement)
        self._decoder = Session(paths["decoder"], placement)
        self.device = device_of(self._encoder.providers)

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """One foreground click in the middle, as osam has it for its SAM families."""
        return Prompt(points=np.array([[width // 2, height // 2]], np.float32), point_labels=np.array([1], np.int64))

    def encode(self, image: ByteArray) -> Embedding:
        """Four feature maps at a quarter to a sixteenth of the working resolution, about 1.2 MB.

        The image is resized to about 320 x 320 pixels' area at its own aspect ratio, without padding.
        """
        height, width = image.shape[:2]
        rows, columns = working_size(height, width, area=AREA, multiple=MULTIPLE)
        shrinks = rows < height and columns < width
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        pixels = (small.astype(np.float32) - MEAN) / SCALE
        features = self._encoder.run({"x": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}, FEATURES)
        return Embedding(height=height, width=width, features=dict(zip(FEATURES, features, strict=True)))

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """One candidate; the network has neither alternatives nor a trained confidence, so there is no score."""
        del multimask
        rows, columns = embedding.features["p4"].shape[2:]
        maps = np.zeros((1, 2, rows, columns), np.float32)
        if len(prompt.boxes):
            _fill_box(maps[0, 0], prompt.boxes[0], height=embedding.height, width=embedding.width)
        points = _points_input(prompt, height=embedding.height, width=embedding.width)
        if mask_input is not None:
            maps[0, 1] = _probability(mask_input.values)
        feeds = {**embedding.features, "pts": points, "maps": maps}
        values = self._decoder.run(feeds, ["logits"])[0][0, 0]
        positive = prompt.points[prompt.point_labels == 1]
        logits = MaskLogits(values=values, valid_height=float(rows), valid_width=float(columns))
        return [Candidate(logits=logits, keep_points=positive)]


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
