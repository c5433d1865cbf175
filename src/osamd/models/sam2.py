"""SAM 2.1 on single images: clicks, a box and mask logits.

Reference: github.com/facebookresearch/sam2, its image predictor; exported by github.com/ryouchinsa/sam-cpp-macos.
"""

from typing import Final

import numpy as np

from osamd.library.families import capabilities_of
from osamd.models.contract import FLOAT, INT64, Input
from osamd.models.sam import EARLIER_MASK, MASK_SIDE, PADDING_LABEL, SIDE, mask_feeds
from osamd.models.tensors import labelled_points, planes, ranked, resize
from osamd.models.two_graphs import TwoGraphs
from osamd.pixels.mask_pictures import MaskFrame
from osamd.types import ByteArray, Candidate, Embedding, MaskLogits, Prepared, Prompt

MEAN: Final = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD: Final = (0.229 * 255, 0.224 * 255, 0.225 * 255)
# The decoder's names for the encoder's outputs, in the encoder's order.
FEATURES: Final = ("image_embeddings", "high_res_features1", "high_res_features2")
IMAGE: Final = {"input": Input(FLOAT, (1, 3, SIDE, SIDE))}
PROMPT: Final = {
    **{name: Input(FLOAT, (1, None, None, None)) for name in FEATURES},
    "point_coords": Input(FLOAT, (1, "N", 2)),
    "point_labels": Input(FLOAT, (1, "N")),
    **EARLIER_MASK,
    "orig_im_size": Input(INT64, (2,)),
}


class Sam2(TwoGraphs):
    """The adapter of the ``sam2`` family."""

    capabilities = capabilities_of("sam2")
    image = IMAGE
    features = FEATURES
    prompt = PROMPT

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """The square input."""
        del height, width
        return SIDE, SIDE

    def mask_frame(self, *, height: int, width: int) -> MaskFrame:
        """A square that shows all of the image; its aspect ratio is not kept."""
        del height, width
        return MaskFrame(MASK_SIDE, MASK_SIDE, float(MASK_SIDE), float(MASK_SIDE))

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """(1, 3, 1024, 1024) float32, 13 MB; the image's aspect ratio is not kept."""
        x = planes(resize(image, height=SIDE, width=SIDE), mean=MEAN, std=STD)[None]
        height, width = size or image.shape[:2]
        return Prepared(height=height, width=width, inputs={"input": x})

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """Candidates with their predicted IoU."""
        points, labels = labelled_points(prompt)
        if not len(points):
            # The graph appends a padding point itself, but was not trained with an empty list of points.
            points, labels = np.zeros((1, 2), np.float32), np.array([PADDING_LABEL], np.float32)
        points = points * np.array([SIDE / embedding.width, SIDE / embedding.height], np.float32)
        feeds = {
            **embedding.features,
            "point_coords": points.astype(np.float32)[None],
            "point_labels": labels[None],
            **mask_feeds(mask_input),
            # Only affects the size of the full-size masks, which we do not use; this keeps them small.
            "orig_im_size": np.full(2, MASK_SIDE, np.int64),
        }
        masks, scores = self._decoder.run(feeds, self._answers)
        return ranked(masks[0], scores[0], valid_height=MASK_SIDE, valid_width=MASK_SIDE, multimask=multimask)
