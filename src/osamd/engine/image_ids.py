"""Handles of encoded images and of their masks.

Both begin with the first digits of the SHA-256 of the image's content, so that a router can send an image and clicks on
it to the same server. An image's handle ends with digits of its model, so that a cluster can tell which model a handle
without a name belongs to.
"""

import hashlib
import uuid
from typing import Final

from osamd.errors import EmbeddingExpiredError
from osamd.image_sources import ImageSource

HEX_DIGITS: Final = 32
# How many of these digits depend on the image only.
ROUTING_DIGITS: Final = 8
# How many depend on the model only.
MODEL_DIGITS: Final = 4
BOUND_DIGITS: Final = HEX_DIGITS - ROUTING_DIGITS - MODEL_DIGITS


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
    return f"img_{source.sha256[:ROUTING_DIGITS]}{bound[:BOUND_DIGITS]}{model_digits(model)}"


def model_digits(model: str) -> str:
    """The digits with which handles of images of this model end.

    Args:
        model: its full name.
    """
    return hashlib.sha256(model.encode()).hexdigest()[:MODEL_DIGITS]


def routing_digits(source: ImageSource) -> str:
    """The digits by which an image, or a handle, is routed."""
    return source.sha256[:ROUTING_DIGITS] or (source.image_id or "").removeprefix("img_")[:ROUTING_DIGITS]


def unknown_image() -> EmbeddingExpiredError:
    """The error for a handle that its caller does not own, or no longer."""
    return EmbeddingExpiredError("this image_id is unknown or expired: send the image again", field="image_id")


def new_mask_id(image: str) -> str:
    """A new handle for a mask of an image."""
    routing = image.removeprefix("img_")[:ROUTING_DIGITS]
    return f"mask_{routing}{uuid.uuid4().hex[: HEX_DIGITS - ROUTING_DIGITS]}"
