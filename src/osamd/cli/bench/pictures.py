"""Photos to send: variants of the user's photo or of an example, each new to the server."""

import io
import os
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from osamd.cli.files import read_image
from osamd.pixels.images import decode_image

EXAMPLE = ("server", "playground", "examples", "cat.jpg")
EXAMPLE_SIZE = (1920, 1280)
JPEG_QUALITY = 90
MAX_PIXELS = 170_000_000
SEAL_SIDE = 16


class Pictures:
    """Makes JPEGs that differ by a small patch of random colours, so that none of them is in the server's cache.

    Args:
        path: a photo, - for one on standard input, or None for the example, enlarged to 1920 x 1280.

    Raises:
        InvalidImageError: it cannot be read.
        ImageTooLargeError: it has too many pixels for any server.
    """

    def __init__(self, path: Path | str | None) -> None:
        data = resources.files("osamd").joinpath(*EXAMPLE).read_bytes() if path is None else read_image(str(path))
        pixels = decode_image(data, max_pixels=MAX_PIXELS).pixels
        if path is None:
            pixels = np.asarray(Image.fromarray(pixels).resize(EXAMPLE_SIZE, Image.Resampling.BICUBIC))
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def fresh(self) -> bytes:
        """The photo with a new patch in a corner."""
        pixels = self._pixels.copy()
        corner = pixels[:SEAL_SIDE, :SEAL_SIDE]
        corner[:] = np.frombuffer(os.urandom(corner.size), np.uint8).reshape(corner.shape)
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "JPEG", quality=JPEG_QUALITY)
        return written.getvalue()
