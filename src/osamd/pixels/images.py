"""Bytes to pixels: JPEG, PNG, WebP, GIF, TIFF and BMP into upright RGB. Pure, and safe on hostile input.

Pillow does the decoding: it is the only common library that reads all six with EXIF orientation, palettes, CMYK and
alpha, and that tells the size before it decodes.
"""

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import (  # noqa: F401 - importing a plugin is what registers its format
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from osamd.errors import ImageTooLargeError, InvalidImageError
from osamd.pixels.structure import check_structure
from osamd.types import ByteArray, Picture, WantedSize

# Pillow opens MPO, the JPEG with a second picture behind it that many phones write, as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, TIFF and BMP"
ORIENTATION_TAG = 0x0112
# EXIF orientations from here on turn the image on its side.
FIRST_TURNED = 5
LAST_ORIENTATION = 8
WHITE = (255, 255, 255, 255)
# Pixels converted at a time: what a conversion needs beside the decoded image and the result stays below 4 MB.
STRIP_PIXELS: Final = 2**18
SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


NewArray = Callable[[tuple[int, int, int]], ByteArray]


def new_array(shape: tuple[int, int, int]) -> ByteArray:
    """An array of this shape in this process's memory."""
    return np.empty(shape, np.uint8)


def decode_image(
    data: bytes, *, max_pixels: int, wanted: WantedSize | None = None, allocate: NewArray = new_array
) -> Picture:
    """Decode an image to RGB, upright.

    EXIF orientation is applied; of an animation the first frame is taken; transparency is laid over white; 16-bit
    samples are reduced to 8. At its peak this takes what Pillow decodes to (4 bytes a pixel for RGB) and the 3 bytes
    of the result.

    Args:
        data: the encoded image.
        max_pixels: refused above this many, before any pixel is decoded.
        wanted: a JPEG is decoded to a half, a quarter or an eighth of its size where that still has at least so many
            rows and columns, which is two to four times as fast and takes a fraction of the memory; None decodes it
            as it is.
        allocate: makes the array that the pixels are written to.

    Returns:
        The pixels, and the size of the whole image.

    Raises:
        InvalidImageError: not an image, a broken one, one of an unsupported kind, one without pixels, or one made of
            absurdly many pieces.
        ImageTooLargeError: more than ``max_pixels`` pixels.
        MemoryError: there is too little for its pixels.
    """
    try:
        check_structure(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(image.width, image.height, max_pixels)
            is_turned = _orientation(image) >= FIRST_TURNED
            width, height = (image.height, image.width) if is_turned else (image.width, image.height)
            if wanted is not None:
                rows, columns = wanted(height=height, width=width)
                # Only JPEG can, which then averages over the pixels it leaves out; the others take no notice.
                image.draft(None, (rows, columns) if is_turned else (columns, rows))
            image.load()
            return Picture(_upright_rgb(image, _orientation(image), allocate), height, width)
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


def _upright_rgb(image: Image.Image, orientation: int, allocate: NewArray) -> ByteArray:
    """The pixels of a loaded image, converted in strips and turned as they are written: there is no second copy."""
    rows, columns = image.height, image.width
    upright = allocate((columns, rows, 3) if orientation >= FIRST_TURNED else (rows, columns, 3))
    stored = _as_stored(upright, orientation)
    step = max(1, STRIP_PIXELS // columns)
    for top in range(0, rows, step):
        bottom = min(rows, top + step)
        stored[top:bottom] = to_rgb(image if step >= rows else image.crop((0, top, columns, bottom)))
    return upright


def _as_stored(upright: ByteArray, orientation: int) -> ByteArray:
    """A view of an upright array in which rows and columns are those of the file; orientations are EXIF's."""
    turned = upright.swapaxes(0, 1) if orientation >= FIRST_TURNED else upright
    return {
        2: turned[:, ::-1],
        3: turned[::-1, ::-1],
        4: turned[::-1],
        6: turned[::-1],
        7: turned[::-1, ::-1],
        8: turned[:, ::-1],
    }.get(orientation, turned)


def to_rgb(image: Image.Image) -> ByteArray:
    """The pixels of a loaded image, or of a strip of one, as (H, W, 3) uint8 RGB over white; not turned."""
    if image.mode in SIXTEEN_BIT_MODES:
        samples = np.asarray(image).astype(np.int64)
        grey: ByteArray = (np.clip(samples, 0, 65535) // 257).astype(np.uint8)
        return np.broadcast_to(grey[:, :, np.newaxis], (*grey.shape, 3))
    if image.mode == "F":
        raise InvalidImageError(
            "images of floating-point samples have no defined range and are not read", field="image"
        )
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 means upright, which is also assumed when EXIF cannot be read or says nonsense."""
    try:
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
    # The pixels are fine: broken metadata is no reason to refuse the image.
    except Exception:  # noqa: BLE001
        return 1
    return orientation if 1 <= orientation <= LAST_ORIENTATION else 1
