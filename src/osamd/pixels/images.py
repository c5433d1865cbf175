"""Bytes to pixels: encoded images of any format into upright RGB. Pure, and safe on hostile input.

Pillow does the decoding: it is the only common library that reads all the formats with EXIF orientation, palettes, CMYK
and alpha, and that tells the size before it decodes. What it gets wrong is done beside it: samples of more than 8 bits
(``samples``, ``tiff``), and files with defects that do not touch their pixels (``png_chunks``, ``jpeg_defects``).
"""

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
# EXIF orientations from here on turn the image on its side.
FIRST_TURNED = 5
LAST_ORIENTATION = 8
WHITE = (255, 255, 255, 255)
# Grey of more than 8 bits, and floating point.
DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
# Of what OpenJPEG decodes to, on average over the pixels of the largest image; see ``tiff``.
MOST_BYTES_A_PIXEL: Final = tiff.MOST_BYTES_A_PIXEL

NewArray = Callable[[tuple[int, int, int]], ByteArray]


def new_array(shape: tuple[int, int, int]) -> ByteArray:
    """An array of this shape in this process's memory."""
    return np.empty(shape, np.uint8)


def decode_image(
    data: bytes, *, max_pixels: int, wanted: WantedSize | None = None, allocate: NewArray = new_array
) -> Picture:
    """Decode an image to RGB, upright.

    EXIF orientation is applied; of an animation the first frame is taken; transparency is laid over white; samples of
    more than 8 bits are reduced to 8 by the rule in ``osamd.pixels.samples``. At its peak this takes what Pillow
    decodes to (4 bytes a pixel for RGB) and the 3 bytes of the result.

    Args:
        data: the encoded image.
        max_pixels: refused above this many, before any pixel is decoded.
        wanted: a JPEG or JPEG 2000 is decoded to a half, a quarter or an eighth of its size where that still has at
            least so many rows and columns, which is two to four times as fast and takes a fraction of the memory; None
            decodes it as it is.
        allocate: makes the array that the pixels are written to.

    Returns:
        The pixels, the size of the whole image, and what was done to its samples.

    Raises:
        InvalidImageError: not an image, a broken one, one of an unsupported kind, one without pixels, or one made of
            absurdly many pieces.
        ImageTooLargeError: more than ``max_pixels`` pixels.
        MemoryError: there is too little for its pixels.
    """
    if wanted is not None:
        # A mended file is opened twice, and who is asked may be in another process, listening once.
        wanted = functools.cache(wanted)
    try:
        data = png_chunks.without_remarks(data)
        check_structure(data)
        layout = tiff_layout.layout_of(data) if tiff_layout.is_tiff(data) else None
        if layout is not None:
            return _from_layout(data, layout, max_pixels, allocate)
        try:
            return _by_pillow(data, max_pixels, wanted, allocate)
        # What Pillow says of a file that it does not open, and of one that ends too early.
        except OSError as error:
            # Its frames hold the pixels decoded so far.
            failure = error.with_traceback(None)
        return _by_pillow(_mended(data, failure), max_pixels, wanted, allocate)
    # Memory that ran out says nothing of the image: the engine makes room and tries again.
    except (ImageTooLargeError, InvalidImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(
            f"the image has more pixels than the {max_pixels:,} that are allowed", field="image"
        ) from None
    except UnidentifiedImageError:
        message = tiff_layout.why_not(data) if tiff_layout.is_tiff(data) else f"not an image: {FORMAT_NAMES} are read"
        raise InvalidImageError(message, field="image") from None
    # Decoders fail on broken input with almost any exception; none of them may take the server down.
    except Exception as error:
        raise InvalidImageError("the image is broken: it is truncated or its data is corrupt", field="image") from error


def _mended(data: bytes, failure: OSError) -> bytes:
    """A JPEG without the defect that Pillow refused it for; raises that refusal where there is no such defect."""
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
        # Pillow turns TIFF itself, and tells the size that it then has.
        is_turned = image.format != "TIFF" and _orientation(image) >= FIRST_TURNED
        width, height = (image.height, image.width) if is_turned else (image.width, image.height)
        rows, columns = (height, width) if wanted is None else wanted(height=height, width=width)
        if is_turned:
            rows, columns = columns, rows
        if image.format == "JPEG2000":
            _prepare_jpeg2000(image, data, max_pixels, rows=rows, columns=columns)
        elif wanted is not None:
            # Only JPEG can, which then averages over the pixels it leaves out; the others take no notice.
            image.draft(None, (columns, rows))
        image.load()
        # A HEIC's pixels may be more than its head says.
        check_size(image.width, image.height, max_pixels)
        orientation = _orientation(image)
        if deep_png.needs_all_bits(data, image):
            upright, stored = _new_upright(image.height, image.width, orientation, allocate)
            return Picture(upright, height, width, deep_png.decode(data, image, into=stored))
        pixels, note = _upright_rgb(image, orientation, allocate)
        return Picture(pixels, height, width, (note,) if note else ())


def _prepare_jpeg2000(image: Image.Image, data: bytes, max_pixels: int, *, rows: int, columns: int) -> None:
    """Have a JPEG 2000 decoded no finer than needed, unless even that takes too much memory."""
    codestream = jpeg2000.codestream_of(data)
    check_size(codestream.width, codestream.height, max_pixels)
    halvings = jpeg2000.halvings_for(codestream, rows=rows, columns=columns)
    most = MOST_BYTES_A_PIXEL * max_pixels
    if codestream.nbytes(halvings) > most:
        raise ImageTooLargeError(
            f"decoding this JPEG 2000 takes {codestream.nbytes(halvings):,} bytes; at most {most:,} are allowed",
            field="image",
        )
    # A property of this plugin's alone, for which there is no type.
    image.reduce = halvings  # type: ignore[method-assign,assignment]


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse images without pixels and with too many."""
    if width < 1 or height < 1:
        raise InvalidImageError(f"the image has no pixels: it is {width} x {height}", field="image")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are allowed",
            field="image",
        )


def _new_upright(rows: int, columns: int, orientation: int, allocate: NewArray) -> tuple[ByteArray, ByteArray]:
    """An upright array for an image stored in so many rows and columns, and a view of it as the file has them."""
    is_turned = FIRST_TURNED <= orientation <= LAST_ORIENTATION
    upright = allocate((columns, rows, 3) if is_turned else (rows, columns, 3))
    return upright, _as_stored(upright, orientation)


@dataclass(frozen=True, slots=True)
class _Conversion:
    """What must be known of a whole image to convert strips of it.

    Attributes:
        scale: of samples of more than 8 bits, or None.
        is_opaque: whether its transparency means nothing.
    """

    scale: Scale | None
    is_opaque: bool


def _upright_rgb(image: Image.Image, orientation: int, allocate: NewArray) -> tuple[ByteArray, str]:
    """The pixels of a loaded image, converted in strips and turned as they are written: there is no second copy."""
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
    """The scale of grey samples of more than 8 bits."""
    if image.mode not in DEEP_MODES:
        return None
    extent, dtype = Extent(), np.dtype(np.uint16)
    for strip in blocks_of_rows(image.height, image.width):
        samples = np.asarray(_strip(image, strip))
        extent, dtype = extent.with_samples(samples, None), samples.dtype
    return choose_scale(extent, dtype.newbyteorder("="))


def _is_opaque_bmp(image: Image.Image) -> bool:
    """Whether a BMP's transparency was never set: everybody shows one that would be invisible as opaque."""
    return image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


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
    """The pixels of a loaded image as (H, W, 3) uint8 RGB over white; not turned."""
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
    """EXIF's orientation, 1 to 8; 1 means upright, which is also assumed when EXIF cannot be read or says nonsense."""
    try:
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
    # The pixels are fine: broken metadata is no reason to refuse the image.
    except Exception:  # noqa: BLE001
        return 1
    return orientation if 1 <= orientation <= LAST_ORIENTATION else 1
