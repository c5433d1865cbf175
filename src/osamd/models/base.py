"""What a model family must do, in three stages: prepare an image, encode it, decode prompts on it.

An adapter holds loaded sessions and nothing that changes its answers, and all threads may use it at once.
"""

from collections.abc import Mapping
from typing import Protocol

from osamd.types import ByteArray, Candidate, Capabilities, Embedding, MaskLogits, Prepared, Prompt

Shape = tuple[int | str | None, ...]


class Adapter(Protocol):
    """A model that can answer. A checkpoint is a row of the catalogue, a family is a class."""

    @property
    def capabilities(self) -> Capabilities:
        """What it takes and gives."""

    @property
    def device(self) -> str:
        """Where it really runs, such as ``cpu``."""

    @property
    def feature_shapes(self) -> Mapping[str, Shape]:
        """The embedding's features by name in osam's order, each (1, C, H, W); sizes left open are names."""

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """What is segmented when a request says nothing."""

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that ``prepare`` resizes an image of this size to: finer pixels than these are not seen."""

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """Resize and normalise an image; this runs on several threads, and never on the device.

        Args:
            image: (h, w, 3) uint8, RGB, upright.
            size: rows and columns of the whole image where ``image`` is a smaller picture of it; None: it is not.
        """

    def encode(self, prepared: Prepared) -> Embedding:
        """Run the encoder: all that depends on the image alone.

        Args:
            prepared: from this model's ``prepare``.

        Raises:
            InferenceError: the model failed.
        """

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """Answer one prompt.

        Args:
            embedding: from this model's ``encode``.
            prompt: checked against ``capabilities`` and the image's size.
            mask_input: an earlier answer of this model on this image, to be refined, or None.
            multimask: whether to return several candidates, where the model has them.

        Returns:
            Candidates, best first; without ``multimask`` one for a prompt of points or boxes.

        Raises:
            InferenceError: the model failed.
        """


def encode_pixels(adapter: Adapter, image: ByteArray) -> Embedding:
    """Prepare and encode an image in one go.

    Args:
        adapter: the model.
        image: (h, w, 3) uint8, RGB, upright.

    Raises:
        InferenceError: the model failed.
    """
    return adapter.encode(adapter.prepare(image))
