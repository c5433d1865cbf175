"""Decode images of any format to upright RGB. Pure, and safe on hostile input.

Pillow decodes: it is the only common library that reads all formats with EXIF orientation, palettes, CMYK and alpha,
and that gives the size before decoding. What it gets wrong is handled here: samples of more than 8 bits (``samples``,
``tiff``), and files with defects that do not affect their pixels (``png_chunks``, ``jpeg_defects``).
"""

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from osamd.errors import ImageTooLargeError, InvalidImageError
from osamd.pixels import deep_png, jpeg2000, jpeg_defects, png_chunks, tiff, tiff_layout
from osamd.pixels.formats import FORMAT_NAMES, formats_of
from osamd.pixels.samples import Extent, Scale, blocks_of_rows, choose_scale
from osamd.pixels.structure import check_structure
from osamd.types import ByteArray, Picture, WantedSize

ORIENTATION_TAG = 0x0112
# EXIF orientations from here on swap rows and columns.
FIRST_TURNED = 5
LAST_ORIENTATION = 8
WHITE = (255, 255, 255, 255)
# Grey of more than 8 bits, and floating point.
DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
# Limit of OpenJPEG's decoded bytes, on average over the pixels of the largest image; see ``tiff``.
MOST_BYTES_A_PIXEL: Final = tiff.MOST_BYTES_A_PIXEL

NewArray = Callable[[tuple[int, int, int]], ByteArray]


def new_array(shape: tuple[int, int, int]) -> ByteArray:
    """Allocate an array in this process's memory."""
    return np.empty(shape, np.uint8)


def decode_image(
    data: bytes, *, max_pixels: int, wanted: WantedSize | None = None, allocate: NewArray = new_array
) -> Picture:
    """Decode an image to RGB, upright.

    EXIF orientation is applied; animations give their first frame; transparency is composited over white; samples of
    more than 8 bits are reduced to 8 as described in ``osamd.pixels.samples``. Peak memory is what Pillow decodes to (4
    bytes a pixel for RGB) plus 3 bytes a pixel for the result.

    Args:
        data: the encoded image.
        max_pixels: larger images are rejected before any pixel is decoded.
        wanted: JPEG and JPEG 2000 are decoded at a half, a quarter or an eighth of their size if that still has at
            least this many rows and columns, which is two to four times as fast and takes a fraction of the memory;
            None decodes at full size.
        allocate: allocates the array for the pixels.

    Returns:
        The pixels, the size of the original, and what was done to its samples.

    Raises:
        InvalidImageError: not an image, or corrupt, unsupported, without pixels, or made of absurdly many pieces.
        ImageTooLargeError: more than ``max_pixels`` pixels.
        MemoryError: there is too little memory for its pixels.
    """
    if wanted is not None:
        # A repaired file is opened twice, but the callback may be in another process, which answers once.
        wanted = functools.cache(wanted)
    try:
        data = png_chunks.without_remarks(data)
        check_structure(data)
        layout = tiff_layout.layout_of(data) if tiff_layout.is_tiff(data) else None
        if layout is not None:
            return _from_layout(data, layout, max_pixels, allocate)
        try:
            return _by_pillow(data, max_pixels, wanted, allocate)
        # Pillow's errors for a file it cannot open and for a truncated one.
        except OSError as error:
            # The traceback's frames hold the pixels decoded so far.
            failure = error.with_traceback(None)
        return _by_pillow(_mended(data, failure), max_pixels, wanted, allocate)
    # Running out of memory is not the image's fault: the engine frees memory and retries.
    except (ImageTooLargeError, InvalidImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(
            f"the image has more than {max_pixels:,} pixels, which is the limit", field="image"
        ) from None
    except UnidentifiedImageError:
        message = tiff_layout.why_not(data) if tiff_layout.is_tiff(data) else f"not an image; expected {FORMAT_NAMES}"
        raise InvalidImageError(message, field="image") from None
    # Decoders raise almost any exception on corrupt input.
    except Exception as error:
        raise InvalidImageError("the image is truncated or corrupt", field="image") from error


def upright_size(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """The rows and columns of an encoded image, upright; from its header if possible, else by decoding it.

    Raises:
        InvalidImageError: as ``decode_image``.
        ImageTooLargeError: more than ``max_pixels`` pixels.
    """
    # Decoding copes with more defects than opening, and has the better messages.
    with contextlib.suppress(Exception):
        clean = png_chunks.without_remarks(data)
        layout = tiff_layout.layout_of(clean) if tiff_layout.is_tiff(clean) else None
        if layout is not None:
            is_turned, height, width = layout.orientation >= FIRST_TURNED, layout.height, layout.width
        else:
            with Image.open(io.BytesIO(clean), formats=formats_of(clean)) as image:
                # Pillow reports the upright size of a TIFF, as above.
                is_turned = image.format != "TIFF" and _orientation(image) >= FIRST_TURNED
                height, width = image.height, image.width
        check_size(width, height, max_pixels)
        return (width, height) if is_turned else (height, width)
    picture = decode_image(data, max_pixels=max_pixels)
    return picture.height, picture.width


def _mended(data: bytes, failure: OSError) -> bytes:
    """Repair a JPEG that Pillow rejected for a known defect; otherwise raise Pillow's error."""
    is_unopened = isinstance(failure, UnidentifiedImageError)
    mended = jpeg_defects.without_remarks(data) if is_unopened else jpeg_defects.with_end(data)
    if mended is None:
        raise failure
    return mended


def _from_layout(data: bytes, layout: tiff_layout.Layout, max_pixels: int, allocate: NewArray) -> Picture:
    check_size(layout.width, layout.height, max_pixels)
    upright, stored = _new_upright(layout.height, layout.width, layout.orientation, allocate)
    notes = tiff.decode(data, layout, max_pixels=max_pixels, into=stored)
    return Picture(upright, upright.shape[0], upright.shape[1], notes)


def _by_pillow(data: bytes, max_pixels: int, wanted: WantedSize | None, allocate: NewArray) -> Picture:
    with Image.open(io.BytesIO(data), formats=formats_of(data)) as image:
        check_size(image.width, image.height, max_pixels)
        # Pillow rotates TIFF itself, and reports the upright size.
        is_turned = image.format != "TIFF" and _orientation(image) >= FIRST_TURNED
        width, height = (image.height, image.width) if is_turned else (image.width, image.height)
        rows, columns = (height, width) if wanted is None else wanted(height=height, width=width)
        if is_turned:
            rows, columns = columns, rows
        if image.format == "JPEG2000":
            _prepare_jpeg2000(image, data, max_pixels, rows=rows, columns=columns)
        elif wanted is not None:
            # Only JPEG supports this, by averaging pixels; other formats ignore it.
            image.draft(None, (columns, rows))
        image.load()
        # A HEIC may have more pixels than its header says.
        check_size(image.width, image.height, max_pixels)
        orientation = _orientation(image)
        if deep_png.needs_all_bits(data, image):
            upright, stored = _new_upright(image.height, image.width, orientation, allocate)
            return Picture(upright, height, width, deep_png.decode(data, image, into=stored))
        pixels, note = _upright_rgb(image, orientation, allocate)
        return Picture(pixels, height, width, (note,) if note else ())


def _prepare_jpeg2000(image: Image.Image, data: bytes, max_pixels: int, *, rows: int, columns: int) -> None:
    """Have a JPEG 2000 decoded at the smallest sufficient size; reject it if even that takes too much memory."""
    codestream = jpeg2000.codestream_of(data)
    check_size(codestream.width, codestream.height, max_pixels)
    halvings = jpeg2000.halvings_for(codestream, rows=rows, columns=columns)
    most = MOST_BYTES_A_PIXEL * max_pixels
    if codestream.nbytes(halvings) > most:
        raise ImageTooLargeError(
            f"decoding this JPEG 2000 takes {codestream.nbytes(halvings):,} bytes; the limit is {most:,}",
            field="image",
        )
    # A property that only this plugin has, without type annotations.
    image.reduce = halvings  # type: ignore[method-assign,assignment]


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Reject images with no pixels or too many."""
    if width < 1 or height < 1:
        raise InvalidImageError(f"the image has no pixels: it is {width} x {height}", field="image")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}",
            field="image",
        )


def _new_upright(rows: int, columns: int, orientation: int, allocate: NewArray) -> tuple[ByteArray, ByteArray]:
    """Allocate an upright array for an image of this stored size, and a view of it in the stored orientation."""
    is_turned = FIRST_TURNED <= orientation <= LAST_ORIENTATION
    upright = allocate((columns, rows, 3) if is_turned else (rows, columns, 3))
    return upright, _as_stored(upright, orientation)


@dataclass(frozen=True, slots=True)
class _Conversion:
    """What is needed to convert an image strip by strip.

    Attributes:
        scale: of samples of more than 8 bits, or None.
        is_opaque: whether its alpha is ignored.
    """

    scale: Scale | None
    is_opaque: bool


def _upright_rgb(image: Image.Image, orientation: int, allocate: NewArray) -> tuple[ByteArray, str]:
    """Convert a loaded image in strips, rotating it while writing, without a second copy."""
    rows, columns = image.height, image.width
    conversion = _Conversion(_scale_of(image), _is_opaque_bmp(image))
    upright, stored = _new_upright(rows, columns, orientation, allocate)
    for strip in blocks_of_rows(rows, columns):
        stored[strip] = _strip_to_rgb(_strip(image, strip), conversion)
    return upright, "" if conversion.scale is None else conversion.scale.note()


def _strip(image: Image.Image, rows: slice) -> Image.Image:
    is_whole = rows == slice(0, image.height)
    return image if is_whole else image.crop((0, rows.start, image.width, rows.stop))


def _scale_of(image: Image.Image) -> Scale | None:
    """The scale for grey samples of more than 8 bits."""
    if image.mode not in DEEP_MODES:
        return None
    extent, dtype = Extent(), np.dtype(np.uint16)
    for strip in blocks_of_rows(image.height, image.width):
        samples = np.asarray(_strip(image, strip))
        extent, dtype = extent.with_samples(samples, None), samples.dtype
    return choose_scale(extent, dtype.newbyteorder("="))


def _is_opaque_bmp(image: Image.Image) -> bool:
    """Whether a BMP's alpha is 0 everywhere: all viewers show such a file as opaque."""
    return image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _as_stored(upright: ByteArray, orientation: int) -> ByteArray:
    """A view of an upright array in the file's orientation, given as EXIF's number."""
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
    """The pixels of a loaded image as (H, W, 3) uint8 RGB over white; not rotated."""
    return _upright_rgb(image, 1, new_array)[0]


def _strip_to_rgb(image: Image.Image, conversion: _Conversion) -> ByteArray:
    """The pixels of a strip of a loaded image as (H, W, 3) uint8 RGB over white."""
    if conversion.scale is not None:
        samples = np.asarray(image)
        grey = conversion.scale.apply(samples.astype(samples.dtype.newbyteorder("="), copy=False))
        return np.broadcast_to(grey[:, :, np.newaxis], (*grey.shape, 3))
    if conversion.is_opaque:
        return np.asarray(image)[:, :, :3]
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        layer = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 means upright, and is the default for missing, unreadable or invalid EXIF."""
    try:
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
    # The pixels are fine: corrupt metadata is no reason to reject the image.
    except Exception:  # noqa: BLE001
        return 1
    return orientation if 1 <= orientation <= LAST_ORIENTATION else 1
