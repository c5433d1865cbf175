"""Handles of encoded images and of their masks.

Both begin with the first digits of the SHA-256 of the image's content, so that a router can send an image and clicks on
it to the same server.
"""

import hashlib
import uuid
from typing import Final

from osamd.image_sources import ImageSource

HEX_DIGITS: Final = 32
# How many of these digits depend on the image only.
ROUTING_DIGITS: Final = 8


def image_id(source: ImageSource, *, model: str, digest: str, owner: str) -> str:
    """The handle and cache key, unique to content, model and owner.

    Args:
        source: content with its hash.
        model: full name of the model.
        digest: of the model's files.
        owner: the name of the key that owns it.
    """
    if not source.sha256:
        raise RuntimeError("an ImageSource needs image_id, or content with its SHA-256")
    bound = hashlib.sha256(f"{owner}\0{model}\0{digest}\0{source.sha256}".encode()).hexdigest()
    return f"img_{source.sha256[:ROUTING_DIGITS]}{bound[: HEX_DIGITS - ROUTING_DIGITS]}"


def new_mask_id(image: str) -> str:
    """A new handle for a mask of an image."""
    routing = image.removeprefix("img_")[:ROUTING_DIGITS]
    return f"mask_{routing}{uuid.uuid4().hex[: HEX_DIGITS - ROUTING_DIGITS]}"
