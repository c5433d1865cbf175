"""SAM 3: every object that matches a text or looks like the boxes.

Reference: github.com/facebookresearch/sam3, its image processor; exported by github.com/wkentaro/sam3-onnx.
"""

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from osamd.library.families import capabilities_of
from osamd.models.clip_tokens import tokenize
from osamd.models.contract import BOOL, FLOAT, INT64, UINT8, Input, Shape, check_inputs, check_outputs, passed_on
from osamd.models.tensors import confidence, resize
from osamd.pixels.mask_pictures import MaskFrame
from osamd.runtime.sessions import Placement, Session, device_of
from osamd.types import ByteArray, Candidate, Embedding, FloatArray, MaskLogits, Prepared, Prompt

SIDE: Final = 1008
CONTEXT_LENGTH: Final = 32
# The text SAM 3 was trained with for prompts of boxes only.
VISUAL: Final = "visual"
POSITIVE: Final = 1
THRESHOLD: Final = 0.5
# The decoder's names for four of the image encoder's outputs, and their positions, in the order of osam's embedding.
FEATURES: Final = {"backbone_fpn_0": 3, "backbone_fpn_1": 4, "backbone_fpn_2": 5, "vision_pos_enc_2": 2}
LANGUAGE_MASK, LANGUAGE_FEATURES = 0, 1
BOXES, SCORES, MASKS = 0, 1, 2
IMAGE: Final = {"image": Input(UINT8, (3, SIDE, SIDE))}
TOKENS: Final = {"tokens": Input(INT64, (1, CONTEXT_LENGTH))}
PROMPT: Final = {
    **{name: Input(FLOAT, (1, None, None, None)) for name in FEATURES},
    "language_mask": Input(BOOL, (1, CONTEXT_LENGTH)),
    "language_features": Input(FLOAT, (CONTEXT_LENGTH, 1, None)),
    "box_coords": Input(FLOAT, (1, None, 4)),
    "box_labels": Input(INT64, (1, None)),
    "box_masks": Input(BOOL, (1, None)),
}


class Sam3:
    """The adapter of the ``sam3`` family.

    Args:
        paths: ONNX files of the roles ``image_encoder``, ``language_encoder`` and ``decoder``.
        placement: where they run.

    Raises:
        ModelLoadError: a file failed to load, or has other inputs or outputs than the family's graphs.
    """

    capabilities = capabilities_of("sam3")

    def __init__(self, paths: Mapping[str, Path], placement: Placement) -> None:
        self._image_encoder = Session(paths["image_encoder"], placement, in_background=True)
        self._language_encoder = Session(paths["language_encoder"], placement)
        self._decoder = Session(paths["decoder"], placement)
        check_inputs(self._image_encoder, IMAGE)
        check_inputs(self._language_encoder, TOKENS)
        check_inputs(self._decoder, PROMPT)
        self._features = self._image_encoder.outputs_at(*FEATURES.values())
        self._language = self._language_encoder.outputs_at(LANGUAGE_MASK, LANGUAGE_FEATURES)
        self._answers = self._decoder.outputs_at(BOXES, SCORES, MASKS)
        self.device = device_of(self._image_encoder.providers)
        self._shapes = passed_on(self._image_encoder, self._features, self._decoder, FEATURES)
        boxes, scores, masks = self._answers
        check_outputs(self._decoder, {boxes: ("N", 4), scores: ("N",), masks: ("N", 1, "rows", "columns")})
        # An export may have a fixed number of boxes.
        most_boxes = self._decoder.input_shapes["box_coords"][1]
        if isinstance(most_boxes, int):
            self.capabilities = replace(self.capabilities, boxes=most_boxes)
        tokenize([VISUAL], CONTEXT_LENGTH)  # loads the vocabulary now, not at the first request

    def feature_shapes(self, *, height: int, width: int) -> Mapping[str, Shape]:
        """The same for every image: it is resized to a square."""
        del height, width
        return self._shapes

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """The text "visual", as in osam."""
        del height, width
        return Prompt(texts=(VISUAL,))

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """The square input."""
        del height, width
        return SIDE, SIDE

    def mask_frame(self, *, height: int, width: int) -> MaskFrame | None:
        """None: it takes no masks."""
        del height, width
        return None

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """(3, 1008, 1008) uint8; the image's aspect ratio is not kept."""
        pixels = np.ascontiguousarray(resize(image, height=SIDE, width=SIDE).transpose(2, 0, 1))
        height, width = size or image.shape[:2]
        return Prepared(height=height, width=width, inputs={"image": pixels})

    def encode(self, prepared: Prepared) -> Embedding:
        """Four feature maps."""
        maps = self._image_encoder.run_to_keep(prepared.inputs, self._features)
        features = dict(zip(FEATURES, maps, strict=True))
        return Embedding(height=prepared.height, width=prepared.width, features=features)

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """All objects of all texts with a score of at least ``prompt.score_threshold``, best first.

        The decoder runs once per text, each time with all boxes. Candidates have the model's own box as well as the
        mask.

        Raises:
            InvalidPromptError: a text is too long.
            InferenceError: the model failed.
        """
        steps = self.decode_in_steps(embedding, prompt, mask_input=mask_input, multimask=multimask)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: list[Candidate] = end.value
                return found

    def decode_in_steps(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> Generator[None, None, list[Candidate]]:
        """Like ``decode``; yields between two texts, each of which takes seconds on a CPU."""
        del mask_input, multimask
        texts = prompt.texts or (VISUAL,)
        boxes = _box_feeds(prompt.boxes, height=embedding.height, width=embedding.width)
        found: list[Candidate] = []
        for index, (text, tokens) in enumerate(zip(texts, tokenize(texts, CONTEXT_LENGTH), strict=True)):
            if index:
                yield
            mask, features = self._language_encoder.run({"tokens": tokens[None]}, self._language)
            feeds = {**embedding.features, **boxes, "language_mask": mask, "language_features": features}
            found += self._objects(feeds, text, embedding, prompt)
            found.sort(key=_descending_score)
            del found[prompt.max_annotations :]
        return found

    def _objects(
        self, feeds: Mapping[str, npt.NDArray[Any]], text: str, embedding: Embedding, prompt: Prompt
    ) -> list[Candidate]:
        boxes, scores, masks = self._decoder.run(feeds, self._answers)
        order = np.argsort(-scores, kind="stable")[: prompt.max_annotations]
        size = np.array([embedding.width, embedding.height, embedding.width, embedding.height], np.float32)
        rows, columns = masks.shape[2:]
        objects = []
        for index in order[scores[order] >= prompt.score_threshold]:
            x1, y1, x2, y2 = (boxes[index] * size).tolist()
            # A copy, because a view would keep the masks of all objects in memory.
            probabilities = masks[index, 0].copy()
            objects.append(
                Candidate(
                    logits=MaskLogits(probabilities, valid_height=rows, valid_width=columns, threshold=THRESHOLD),
                    box=(x1, y1, x2, y2),
                    score=confidence(scores[index]),
                    text=text,
                )
            )
        return objects


def _box_feeds(boxes: FloatArray, *, height: int, width: int) -> dict[str, npt.NDArray[Any]]:
    """The decoder's box inputs; without boxes, one empty box that is masked out."""
    if not len(boxes):
        return {
            "box_coords": np.zeros((1, 1, 4), np.float32),
            "box_labels": np.full((1, 1), POSITIVE, np.int64),
            "box_masks": np.ones((1, 1), np.bool_),
        }
    fractions = boxes / np.array([width, height, width, height], np.float32)
    first, second = fractions[:, :2], fractions[:, 2:]
    centres_and_sizes = np.concatenate([(first + second) / 2, second - first], axis=1)
    return {
        "box_coords": centres_and_sizes.astype(np.float32)[None],
        "box_labels": np.full((1, len(boxes)), POSITIVE, np.int64),
        "box_masks": np.zeros((1, len(boxes)), np.bool_),
    }


def _descending_score(candidate: Candidate) -> float:
    return -(candidate.score or 0.0)
