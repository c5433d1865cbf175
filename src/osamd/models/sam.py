"""SAM 1: clicks, a box and mask logits, with a Vision Transformer at 1024 x 1024 pixels.

Reference: github.com/facebookresearch/segment-anything, its ONNX exporter and example.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from osamd.library.families import capabilities_of
from osamd.models.contract import FLOAT, Input
from osamd.models.tensors import labelled_points, planes, ranked, resize
from osamd.models.two_graphs import TwoGraphs
from osamd.pixels.mask_pictures import MaskFrame
from osamd.types import ByteArray, Candidate, Embedding, FloatArray, MaskLogits, Prepared, Prompt

SIDE: Final = 1024
MASK_SIDE: Final = 256
MEAN: Final = (123.675, 116.28, 103.53)
STD: Final = (58.395, 57.12, 57.375)
PADDING_LABEL: Final = -1
IMAGE: Final = {"x": Input(FLOAT, (1, 3, SIDE, SIDE))}
EARLIER_MASK: Final = {
    "mask_input": Input(FLOAT, (1, 1, MASK_SIDE, MASK_SIDE)),
    "has_mask_input": Input(FLOAT, (1,)),
}
PROMPT: Final = {
    "image_embeddings": Input(FLOAT, (1, None, None, None)),
    "point_coords": Input(FLOAT, (1, "N", 2)),
    "point_labels": Input(FLOAT, (1, "N")),
    **EARLIER_MASK,
    "orig_im_size": Input(FLOAT, (2,)),
}


class Sam(TwoGraphs):
    """The adapter of the ``sam`` family."""

    capabilities = capabilities_of("sam")
    image = IMAGE
    features = ("image_embeddings",)
    prompt = PROMPT

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """The image's part of the square input."""
        return _resized(height, width)

    def mask_frame(self, *, height: int, width: int) -> MaskFrame:
        """A square, of which the image has the same part as of the encoder's input."""
        rows, columns = _resized(height, width)
        return MaskFrame(MASK_SIDE, MASK_SIDE, rows * MASK_SIDE / SIDE, columns * MASK_SIDE / SIDE)

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """(1, 3, 1024, 1024) float32, 13 MB.

        The longest side is resized to 1024 pixels; the rest of the square, right or bottom, is zero when normalised.
        """
        height, width = size or image.shape[:2]
        rows, columns = _resized(height, width)
        x = np.zeros((1, 3, SIDE, SIDE), np.float32)
        x[0, :, :rows, :columns] = planes(resize(image, height=rows, width=columns), mean=MEAN, std=STD)
        return Prepared(height=height, width=width, inputs={"x": x})

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """One candidate with its predicted IoU."""
        rows, columns = _resized(embedding.height, embedding.width)
        points, labels = labelled_points(prompt)
        points = points * np.array([columns / embedding.width, rows / embedding.height], np.float32)
        if not len(prompt.boxes):
            # SAM was trained without a padding point when there is a box.
            points = np.concatenate([points, np.zeros((1, 2), np.float32)])
            labels = np.append(labels, np.float32(PADDING_LABEL))
        feeds = {
            **embedding.features,
            "point_coords": points.astype(np.float32)[None],
            "point_labels": labels.astype(np.float32)[None],
            **mask_feeds(mask_input),
            # Only affects the size of the full-size masks, which we do not use; this keeps them small.
            "orig_im_size": np.full(2, MASK_SIDE, np.float32),
        }
        masks, scores = self._decoder.run(feeds, self._answers)
        frame = self.mask_frame(height=embedding.height, width=embedding.width)
        return ranked(
            masks[0],
            scores[0],
            valid_height=frame.valid_height,
            valid_width=frame.valid_width,
            multimask=multimask,
        )


def mask_feeds(mask_input: MaskLogits | None) -> dict[str, npt.NDArray[Any]]:
    """The decoder's mask inputs; the values are ignored if ``has_mask_input`` is 0."""
    values: FloatArray = np.zeros((MASK_SIDE, MASK_SIDE), np.float32) if mask_input is None else mask_input.values
    return {
        "mask_input": values[None, None],
        "has_mask_input": np.array([0.0 if mask_input is None else 1.0], np.float32),
    }


def _resized(height: int, width: int) -> tuple[int, int]:
    """Rows and columns with the longest side at 1024, rounding halves up like SAM."""
    longest = max(height, width)

    def side(length: int) -> int:
        # At least 1: 10 000 x 1 pixels become 1024 x 1.
        return max(1, (2 * length * SIDE + longest) // (2 * longest))

    return side(height), side(width)
