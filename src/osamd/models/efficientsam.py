"""EfficientSAM: clicks and a box, three candidates.

Reference: github.com/yformer/EfficientSAM, its ONNX exporter and example.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

import cv2
import numpy as np

from osamd.library.families import capabilities_of
from osamd.models.contract import FLOAT, INT64, Input, Shape
from osamd.models.tensors import labelled_points, ranked
from osamd.models.two_graphs import TwoGraphs
from osamd.types import ByteArray, Candidate, Embedding, MaskLogits, Prepared, Prompt

SIDE: Final = 1024
MASK_SIDE: Final = 256
IMAGE: Final = {"batched_images": Input(FLOAT, (1, 3, SIDE, SIDE))}
PROMPT: Final = {
    "image_embeddings": Input(FLOAT, (1, None, None, None)),
    "batched_point_coords": Input(FLOAT, (1, 1, "N", 2)),
    "batched_point_labels": Input(FLOAT, (1, 1, "N")),
    "orig_im_size": Input(INT64, (2,)),
}


class EfficientSam(TwoGraphs):
    """The adapter of the ``efficientsam`` family."""

    capabilities = capabilities_of("efficientsam")
    image = IMAGE
    features = ("image_embeddings",)
    prompt = PROMPT
    # Exporters differ in whether there is a query axis.
    answers: ClassVar[Mapping[int, Shape]] = {}

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """The square input."""
        del height, width
        return SIDE, SIDE

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """(1, 3, 1024, 1024) float32, 13 MB.

        The graph takes any size and resizes to 1024 x 1024 itself. We do it here the same way (bilinear between the
        four nearest pixels), but on uint8: a photo of 12 megapixels would be 144 MB as float32.
        """
        height, width = size or image.shape[:2]
        square = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        pixels = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        return Prepared(height=height, width=width, inputs={"batched_images": pixels})

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """Candidates with their predicted IoU."""
        del mask_input
        points, labels = labelled_points(prompt)
        # The graph scales points by the given image size. We pass 256 x 256, so that the unused full-size masks stay
        # small.
        points = points * np.array([MASK_SIDE / embedding.width, MASK_SIDE / embedding.height], np.float32)
        feeds = {
            **embedding.features,
            "batched_point_coords": points.astype(np.float32)[None, None],
            "batched_point_labels": labels[None, None],
            "orig_im_size": np.full(2, MASK_SIDE, np.int64),
        }
        masks, scores = self._decoder.run(feeds, self._answers)
        # The authors' exporter omits the query axis from the low-resolution masks; there is one query.
        masks = masks.reshape(-1, *masks.shape[-2:])
        return ranked(masks, scores.ravel(), valid_height=MASK_SIDE, valid_width=MASK_SIDE, multimask=multimask)
