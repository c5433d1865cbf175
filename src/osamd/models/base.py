"""The interface of a model family, in three stages: prepare an image, encode it, decode prompts on it.

An adapter holds loaded sessions, has no state that affects its answers, and is thread-safe.
"""

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from osamd.types import ByteArray, Candidate, Capabilities, Embedding, MaskLogits, Prepared, Prompt

if TYPE_CHECKING:
    # It imports NumPy and Pillow, which a start does without.
    from osamd.pixels.mask_pictures import MaskFrame

Shape = tuple[int | str | None, ...]


class Adapter(Protocol):
    """A loaded model. A checkpoint is a row of the catalogue, a family is a class."""

    @property
    def capabilities(self) -> Capabilities:
        """Which prompts it takes and what it returns."""

    @property
    def device(self) -> str:
        """Where it actually runs, such as ``cpu``."""

    def feature_shapes(self, *, height: int, width: int) -> Mapping[str, Shape]:
        """The features of an image of this size by name in osam's order, each (1, C, H, W).

        Embeddings that callers send are checked against it. A size is a name where neither the adapter nor the graphs
        fix it, as in some exports of your own.
        """

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """The prompt used for a request without one."""

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that ``prepare`` resizes an image of this size to; more resolution has no effect."""

    def mask_frame(self, *, height: int, width: int) -> "MaskFrame | None":
        """The geometry of ``mask_input`` for an image of this size; None if the model takes no masks."""

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """Resize and normalise an image; called from several threads, never uses the device.

        Args:
            image: (h, w, 3) uint8, RGB, upright.
            size: rows and columns of the original if ``image`` was decoded at a reduced size; otherwise None.
        """

    def encode(self, prepared: Prepared) -> Embedding:
        """Run the encoder, which depends only on the image.

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
            prompt: already checked against ``capabilities`` and the image's size.
            mask_input: mask logits to refine, from an earlier answer of this model on this image, or None.
            multimask: whether to return several candidates, if the model has them.

        Returns:
            Candidates, best first; without ``multimask``, one for a prompt of points or boxes.

        Raises:
            InferenceError: the model failed.
        """


@runtime_checkable
class Proposer(Protocol):
    """An adapter with a faster decoder for everything mode, whose masks are drafts that ``decode`` can refine."""

    def propose(self, embedding: Embedding, prompt: Prompt) -> list[Candidate]:
        """The masks of one click, best first; like ``decode`` with ``multimask``, but fast rather than exact.

        Their logits have the shape of those that ``decode`` returns with one of them as ``mask_input``.

        Raises:
            InferenceError: the model failed.
        """


@runtime_checkable
class Stepwise(Protocol):
    """An adapter that runs more than once for some prompts, and lets other requests run in between."""

    def decode_in_steps(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> Generator[None, None, list[Candidate]]:
        """Like ``decode``, with the same result; yields between two runs.

        Raises:
            InferenceError: the model failed.
        """


def encode_pixels(adapter: Adapter, image: ByteArray) -> Embedding:
    """Prepare and encode an image.

    Args:
        adapter: the model.
        image: (h, w, 3) uint8, RGB, upright.

    Raises:
        InferenceError: the model failed.
    """
    return adapter.encode(adapter.prepare(image))
