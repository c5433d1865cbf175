"""Bytes to pixels: JPEG, PNG, WebP, GIF, TIFF and BMP into upright RGB. Pure, and safe on hostile input.

Pillow does the decoding: it is the only common library that reads all six with EXIF orientation, palettes, CMYK and
alpha, and that tells the size before it decodes.
"""

import io
from typing import Protocol

import numpy as np
from PIL import (  # noqa: F401 - importing a plugin is what registers its format
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from osamd.errors import ImageTooLargeError, InvalidImageError
from osamd.types import ByteArray, Picture

# Pillow opens MPO, the JPEG with a second picture behind it that many phones write, as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, TIFF and BMP"
ORIENTATION_TAG = 0x0112
# EXIF orientations from here on turn the image on its side.
FIRST_TURNED = 5
WHITE = (255, 255, 255, 255)
SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class WantedSize(Protocol):
    """Tells how many rows and columns of an upright image of some size are looked at."""

    def __call__(self, *, height: int, width: int) -> tuple[int, int]:
        """Rows and columns."""


def decode_image(data: bytes, *, max_pixels: int, wanted: WantedSize | None = None) -> Picture:
    """Decode an image to RGB, upright.

    EXIF orientation is applied; of an animation the first frame is taken; transparency is laid over white; 16-bit
    samples are reduced to 8.

    Args:
        data: the encoded image.
        max_pixels: refused above this many, before any pixel is decoded.
        wanted: a JPEG is decoded to a half, a quarter or an eighth of its size where that still has at least so many
            rows and columns, which is two to four times as fast and takes a fraction of the memory; None decodes it
            as it is.

    Returns:
        The pixels, and the size of the whole image.

    Raises:
        InvalidImageError: not an image, a broken one, one of an unsupported kind, or one without pixels.
        ImageTooLargeError: more than ``max_pixels`` pixels.
        MemoryError: there is too little for its pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(image.width, image.height, max_pixels)
            is_turned = _orientation(image) >= FIRST_TURNED
            width, height = (image.height, image.width) if is_turned else (image.width, image.height)
            if wanted is not None:
                rows, columns = wanted(height=height, width=width)
                # Only JPEG can, which then averages over the pixels it leaves out; the others take no notice.
                image.draft(None, (rows, columns) if is_turned else (columns, rows))
            return Picture(np.ascontiguousarray(to_rgb(image)), height, width)
    # Memory that ran out says nothing of the image: the engine makes room and tries again.
    except (ImageTooLargeError, InvalidImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(
            f"the image has more pixels than the {max_pixels:,} that are allowed", field="image"
        ) from None
    except UnidentifiedImageError:
        raise InvalidImageError(f"not an image: {FORMAT_NAMES} are read", field="image") from None
    # Decoders fail on broken input with almost any exception; none of them may take the server down.
    except Exception as error:
        raise InvalidImageError("the image is broken: it is truncated or its data is corrupt", field="image") from error


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse images without pixels and with too many."""
    if width < 1 or height < 1:
        raise InvalidImageError(f"the image has no pixels: it is {width} x {height}", field="image")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are allowed",
            field="image",
        )


def to_rgb(image: Image.Image) -> ByteArray:
    """The pixels of an opened Pillow image as (H, W, 3) uint8 RGB, upright, over white."""
    image.load()
    orientation = _orientation(image)
    if image.mode in SIXTEEN_BIT_MODES:
        samples = np.asarray(image).astype(np.int64)
        grey = (np.clip(samples, 0, 65535) // 257).astype(np.uint8)
        plain = Image.fromarray(grey).convert("RGB")
    elif image.mode == "F":
        raise InvalidImageError(
            "images of floating-point samples have no defined range and are not read", field="image"
        )
    elif image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        plain = Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    else:
        plain = image.convert("RGB")
    if orientation != 1:
        # The conversions above may drop the tag, so it is put back before Pillow turns the picture.
        plain.getexif()[ORIENTATION_TAG] = orientation
        plain = ImageOps.exif_transpose(plain)
    return np.asarray(plain)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 means upright, which is also taken when the EXIF block cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    # The pixels are fine: a broken block of remarks beside them is no reason to refuse the image.
    except Exception:  # noqa: BLE001
        return 1
