"""What a caller may give as an image: its file, its pixels, a handle, or its embedding."""

import hashlib
from dataclasses import dataclass

from osamd.types import ByteArray, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class ExchangedEmbedding:
    """An embedding in exchange format: without the decoder's input names, in osam's order.

    Attributes:
        height: rows of the upright image.
        width: columns of the upright image.
        arrays: each (C, H, W) float32; osam's ``embedding`` first, then its ``extra_features``.
    """

    height: int
    width: int
    arrays: tuple[FloatArray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """Source of an image: exactly one of the first four attributes is set.

    Attributes:
        data: an encoded image.
        pixels: (height, width, 3) uint8, RGB, upright, C-contiguous.
        image_id: a handle from an earlier answer.
        exchanged: an embedding that the caller kept.
        sha256: hash of the content, 64 hex digits; empty for a handle.
    """

    data: bytes | None = None
    pixels: ByteArray | None = None
    image_id: str | None = None
    exchanged: ExchangedEmbedding | None = None
    sha256: str = ""

    @classmethod
    def of_bytes(cls, data: bytes) -> "ImageSource":
        """An encoded image. Hashes it (1 ms for 2 MB), so do not call it on an event loop."""
        return cls(data=data, sha256=hashlib.sha256(data).hexdigest())

    @classmethod
    def of_pixels(cls, pixels: ByteArray) -> "ImageSource":
        """A decoded image. Hashes it, like ``of_bytes``."""
        digest = hashlib.sha256(f"pixels {pixels.shape[1]}x{pixels.shape[0]} ".encode())
        digest.update(pixels.data.cast("B"))
        return cls(pixels=pixels, sha256=digest.hexdigest())

    @classmethod
    def of_embedding(cls, exchanged: ExchangedEmbedding) -> "ImageSource":
        """An embedding that the caller kept. Hashes it, like ``of_bytes``."""
        import numpy as np

        digest = hashlib.sha256(f"embedding {exchanged.width}x{exchanged.height}".encode())
        for array in exchanged.arrays:
            digest.update(f" {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B"))
        return cls(exchanged=exchanged, sha256=digest.hexdigest())
