"""Masks of earlier answers, kept at the model's resolution for refinement."""

from dataclasses import dataclass, replace
from typing import Final, TypeVar

from osamd.engine.cache import OwnedCache
from osamd.engine.image_ids import new_mask_id
from osamd.errors import EmbeddingExpiredError, InvalidPromptError
from osamd.types import Annotation, MaskLogits, Prompt

# 64 MB hold 1,270 masks of the built-in model, 640 to 840 of those found in windows of photos, or 250 of SAM.
CAPACITY_BYTES: Final = 64_000_000

Kept = TypeVar("Kept", bound=Annotation)


@dataclass(frozen=True, slots=True)
class _Refinement:
    logits: MaskLogits
    image_id: str


class Refinements:
    """Low-resolution masks by ``mask_id``, each valid only for its owner and image. Belongs to one event loop.

    Args:
        ttl_s: seconds an unused mask is kept.
    """

    def __init__(self, *, ttl_s: float) -> None:
        self._kept: OwnedCache[_Refinement] = OwnedCache(capacity_bytes=CAPACITY_BYTES, ttl_s=ttl_s)

    def keep(self, annotation: Kept, *, image_id: str, owner: str) -> Kept:
        """Store the annotation's logits and return it with a ``mask_id`` instead; unchanged if it has none."""
        logits = annotation.logits
        if logits is None:
            return annotation
        mask_id = new_mask_id(image_id)
        self._kept.put(mask_id, _Refinement(logits, image_id), nbytes=logits.nbytes, owner=owner)
        return replace(annotation, mask_id=mask_id, logits=None)

    def find(self, prompt: Prompt, *, image_id: str, owner: str) -> MaskLogits | None:
        """The mask that a prompt refines; None if it has no ``mask_input``.

        Raises:
            EmbeddingExpiredError: the mask is unknown, expired or another owner's.
            InvalidPromptError: the mask belongs to another image.
        """
        if prompt.mask_id is None:
            return None
        kept = self._kept.get(prompt.mask_id, owner=owner)
        if kept is None:
            raise EmbeddingExpiredError(
                "this mask_id is unknown or expired: send the prompt without mask_input",
                field=f"{prompt.field}.mask_input",
            )
        if kept.image_id != image_id:
            raise InvalidPromptError(
                "this mask_id belongs to another image or another model", field=f"{prompt.field}.mask_input"
            )
        return kept.logits

    def forget(self, image_id: str) -> None:
        """Forget all masks of an image."""
        self._kept.drop_if(lambda kept: kept.image_id == image_id)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
