"""EfficientSAM: clicks and a box, three candidates.

Reference: github.com/yformer/EfficientSAM, its ONNX exporter and example.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from osamd.library.families import capabilities_of
from osamd.models.contract import FLOAT, INT64, Input, check_inputs, check_outputs
from osamd.models.tensors import labelled_points, middle_click, ranked
from osamd.runtime.sessions import Placement, Session, device_of
from osamd.types import ByteArray, Candidate, Embedding, MaskLogits, Prepared, Prompt

SIDE: Final = 1024
MASK_SIDE: Final = 256
SCORES, LOW_RES_MASKS = 1, 2
IMAGE: Final = {"batched_images": Input(FLOAT, (1, 3, SIDE, SIDE))}
PROMPT: Final = {
    "image_embeddings": Input(FLOAT, (1, None, None, None)),
    "batched_point_coords": Input(FLOAT, (1, 1, "N", 2)),
    "batched_point_labels": Input(FLOAT, (1, 1, "N")),
    "orig_im_size": Input(INT64, (2,)),
}


class EfficientSam:
    """The adapter of the family ``efficientsam``.

    Args:
        paths: ONNX files of the roles ``encoder`` and ``decoder``.
        placement: where they run.

    Raises:
        ModelLoadError: a file does not load, or takes or gives something else than the family's graphs.
    """

    capabilities = capabilities_of("efficientsam")

    def __init__(self, paths: Mapping[str, Path], placement: Placement) -> None:
        self._encoder = Session(paths["encoder"], placement, in_background=True)
        self._decoder = Session(paths["decoder"], placement)
        check_inputs(self._encoder, IMAGE)
        check_inputs(self._decoder, PROMPT)
        self._embedding = self._encoder.outputs_at(0)
        self._answers = self._decoder.outputs_at(LOW_RES_MASKS, SCORES)
        self.device = device_of(self._encoder.providers)
        self.feature_shapes = {"image_embeddings": self._decoder.input_shapes["image_embeddings"]}
        check_outputs(self._encoder, dict(zip(self._embedding, self.feature_shapes.values(), strict=True)))

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """One foreground click in the middle, as osam has it."""
        return middle_click(height=height, width=width)

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """The square."""
        del height, width
        return SIDE, SIDE

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """(1, 3, 1024, 1024) float32, 13 MB.

        The graph takes any size and resizes to 1024 x 1024 itself. It is done here by the same rule (bilinear between
        the four nearest pixels), on bytes: a photo of 12 megapixels would be 144 MB of float32.
        """
        height, width = size or image.shape[:2]
        square = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        pixels = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        return Prepared(height=height, width=width, inputs={"batched_images": pixels})

    def encode(self, prepared: Prepared) -> Embedding:
        """One (1, 256, 64, 64) feature map, 4 MB."""
        (embedding,) = self._encoder.run(prepared.inputs, self._embedding)
        return Embedding(height=prepared.height, width=prepared.width, features={"image_embeddings": embedding})

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """Candidates with the IoU that the model predicts for each."""
        del mask_input
        points, labels = labelled_points(prompt)
        # The graph scales points by the size it is told. An image of 256 x 256 pixels is claimed, so that the masks at
        # the image's size, which nobody asks for, stay small.
        points = points * np.array([MASK_SIDE / embedding.width, MASK_SIDE / embedding.height], np.float32)
        feeds = {
            **embedding.features,
            "batched_point_coords": points.astype(np.float32)[None, None],
            "batched_point_labels": labels[None, None],
            "orig_im_size": np.full(2, MASK_SIDE, np.int64),
        }
        masks, scores = self._decoder.run(feeds, self._answers)
        # The authors' exporter leaves the axis of queries out of the low-resolution masks; there is one query.
        masks = masks.reshape(-1, *masks.shape[-2:])
        return ranked(masks, scores.ravel(), valid_height=MASK_SIDE, valid_width=MASK_SIDE, multimask=multimask)
