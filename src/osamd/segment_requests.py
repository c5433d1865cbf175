"""One call of the engine: the request and its result."""

from dataclasses import dataclass
from datetime import datetime

from osamd.image_sources import ImageSource
from osamd.types import Annotation, ByteArray, Embedding, Prompt


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRequest:
    """One call of the engine.

    Attributes:
        image: the image or its handle.
        model: a name or alias from the catalogue; None for the handle's model, or the built-in one.
        prompts: what to segment; None for the model's default prompt.
        multimask: whether to return up to three candidates for each prompt.
        keep_alive: how long the model stays loaded afterwards, as in ``osamd.keep_alive``; None for the default.
        by_operator: whether ``keep_alive`` may override that of a preloaded model, or one set by an operator.
        owner: owner of the embeddings and handles (the key's name).
        with_embedding: whether the result includes the embedding.
        with_pixels: whether the result includes the image at full size; requires an image, not a handle.
        refinable: whether masks get a ``mask_id`` if the model can refine them.
        needs_masks: whether to refuse models that return boxes only.
        clip: whether prompts that reach slightly beyond the image are clipped instead of refused.
    """

    image: ImageSource
    model: str | None = None
    prompts: tuple[Prompt, ...] | None = None
    multimask: bool = False
    keep_alive: float | None = None
    by_operator: bool = True
    owner: str = ""
    with_embedding: bool = False
    with_pixels: bool = False
    refinable: bool = True
    needs_masks: bool = False
    clip: bool = False


@dataclass(frozen=True, slots=True)
class ImageHandle:
    """A handle the server issues for an encoded image.

    Attributes:
        image_id: the handle.
        model: full name of the model it belongs to.
        width: columns of the upright image.
        height: rows of the upright image.
        expires_at: when it expires at the latest unless it is used again; UTC.
        notes: conversions applied to the image's samples, as in ``Picture``.
    """

    image_id: str
    model: str
    width: int
    height: int
    expires_at: datetime
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SegmentResult:
    """The engine's answer to a ``SegmentRequest``.

    Attributes:
        image: the handle of the image.
        annotations: objects in the order of the prompts, best first within each.
        embedding: the embedding the masks were decoded from, if requested.
        cache_hit: whether the embedding was already cached.
        device: the device inference ran on, such as ``cpu``.
        license: SPDX expression of the model's licence.
        pixels: (height, width, 3) uint8, RGB, upright, if requested.
    """

    image: ImageHandle
    annotations: tuple[Annotation, ...]
    embedding: Embedding | None
    cache_hit: bool
    device: str
    license: str
    pixels: ByteArray | None = None
