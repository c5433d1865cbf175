"""The directories of TIFFs that Pillow cannot read correctly: the layout of their samples in the file.

These are TIFFs of 16 bits and more, signed or floating point, or with many bands. Written after the TIFF 6.0
specification, the BigTIFF proposal and GDAL's note on its no-data tag.
"""

import contextlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from osamd.errors import InvalidImageError
from osamd.pixels.samples import LARGEST

PREFIXES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BIG_TIFF: Final = 43
BIG_ENDIAN_BIG_TIFF: Final = b"MM\0+"
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANES, PREDICTOR = 273, 274, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
GDAL_NO_DATA, FILL_ORDER = 42113, 266
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
UNSPECIFIED, PREMULTIPLIED, STRAIGHT = 0, 1, 2
KINDS: Final = {1: "u", 2: "i", 3: "f", 4: "u"}
TYPES: Final = {"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}
NO_PREDICTOR, HORIZONTAL, FLOATING_POINT = 1, 2, 3
SEPARATE: Final = 2
NOT_COMPRESSED: Final = 1
DEFLATE: Final = frozenset({8, 32946})
# LZW, PackBits, LZMA and Zstandard, which libtiff unpacks byte by byte.
BY_LIBTIFF: Final = frozenset({5, 32773, 34925, 50000})
SMALLEST_TILE: Final = 16
# Of a directory; there are some two hundred tags with a meaning.
MOST_ENTRIES: Final = 1024
# TIFF's types of values that the tags above have: numbers of 8, 16, 32 and 64 bits, and text.
VALUE_TYPES: Final = {1: "u1", 2: "S1", 3: "u2", 4: "u4", 16: "u8"}
RGB_BANDS: Final = 3
# Hyperspectral cameras have some hundreds.
MOST_BANDS: Final = 1024
BYTE_BITS: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The layout of a TIFF's samples.

    Attributes:
        width: columns as stored.
        height: rows as stored.
        dtype: of the samples, in the file's byte order.
        bands: samples of a pixel.
        colors: how many of them are used: one for grey, or the first three.
        alpha: the band of transparency, or None.
        is_premultiplied: whether the colours have been multiplied by it.
        is_separate: whether each band has its own strips.
        is_inverted: whether 0 is white.
        is_tiled: whether there are tiles, which are complete even at the image's edges, or strips.
        tile: columns and rows of a tile, or of a strip.
        offsets: of each tile or strip.
        lengths: the same, as the file declares them.
        compression: TIFF's number.
        predictor: TIFF's number.
        missing: the value that stands for no data, or None.
        orientation: EXIF's, 1 to 8.
    """

    width: int
    height: int
    dtype: np.dtype[Any]
    bands: int
    colors: int
    alpha: int | None
    is_premultiplied: bool
    is_separate: bool
    is_inverted: bool
    is_tiled: bool
    tile: tuple[int, int]
    offsets: npt.NDArray[Any]
    lengths: npt.NDArray[Any]
    compression: int
    predictor: int
    missing: float | None
    orientation: int

    @property
    def bands_of_a_segment(self) -> int:
        """How many bands are interleaved in a strip or tile."""
        return 1 if self.is_separate else self.bands

    @property
    def shown(self) -> tuple[int, ...]:
        """The bands that are read."""
        return (*range(self.colors), *(() if self.alpha is None else (self.alpha,)))

    @property
    def nbytes(self) -> int:
        """Bytes to unpack."""
        bands = len(self.shown) if self.is_separate else self.bands
        return self.width * self.height * bands * self.dtype.itemsize

    def note(self) -> str:
        """Which bands are used, for humans; empty if all are."""
        if len(self.shown) == self.bands:
            return ""
        used = "band 1" if self.colors == 1 else "bands 1 to 3"
        return f"{used} of {self.bands} used"


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin like a TIFF."""
    return data.startswith(PREFIXES)


def layout_of(data: bytes) -> Layout | None:
    """The layout of a TIFF that is decoded here; None if Pillow decodes it correctly or if it is corrupt.

    Raises:
        InvalidImageError: its compression or number of samples is not supported.
    """
    # A corrupt directory raises almost any exception; Pillow then reports it.
    with contextlib.suppress(ValueError, KeyError, struct.error):
        tags = _directory(data)
        bits = _numbers(tags, BITS, (1,))
        kinds = _numbers(tags, SAMPLE_FORMAT, (1,))
        bands = _number(tags, SAMPLES, 1)
        photometric = _number(tags, PHOTOMETRIC, BLACK_IS_ZERO)
        fewest = RGB_BANDS if photometric == RGB else 1
        is_of_kind = photometric in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB} and fewest <= bands <= MOST_BANDS
        if not is_of_kind or len({*bits}) != 1 or len({*kinds}) != 1:
            return None
        code = f"{KINDS.get(kinds[0], '?')}{bits[0] // BYTE_BITS}"
        if bits[0] % BYTE_BITS or code not in TYPES:
            return None
        extras = _numbers(tags, EXTRA_SAMPLES, ())
        is_for_pillow = code == "u1" and not _has_spare_bands(photometric, bands, extras)
        # Pillow misreads the directory of this kind.
        if is_for_pillow and not data.startswith(BIG_ENDIAN_BIG_TIFF):
            return None
        return _layout(data, tags, code, bands, photometric, extras)
    return None


def why_not(data: bytes) -> str:
    """Why a TIFF is not supported."""
    with contextlib.suppress(ValueError, KeyError, struct.error):
        tags = _directory(data)
        bits = "/".join(str(number) for number in dict.fromkeys(_numbers(tags, BITS, (1,))))
        return (
            f"this kind of TIFF is not supported ({bits} bits, {_number(tags, SAMPLES, 1)} bands, photometric"
            f" {_number(tags, PHOTOMETRIC, 0)}, compression {_number(tags, COMPRESSION, 1)}): save it as 8-bit RGB"
        )
    return "the image is corrupt: its TIFF directory cannot be read"


Tags = Mapping[int, npt.NDArray[Any]]


def _directory(data: bytes) -> Tags:
    """The tags of the first page with integer or text values; each has at least one value."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = BIG_TIFF in data[2:4]
    number, entry, inline = (f"{order}Q", f"{order}HHQ", 8) if is_big else (f"{order}I", f"{order}HHI", 4)
    (start,) = struct.unpack_from(number, data, inline)
    (count,) = struct.unpack_from(number if is_big else f"{order}H", data, start)
    start += 8 if is_big else 2
    step = struct.calcsize(entry) + inline
    tags: dict[int, npt.NDArray[Any]] = {}
    for at in range(start, start + step * min(count, MOST_ENTRIES), step):
        tag, kind, values = struct.unpack_from(entry, data, at)
        if kind not in VALUE_TYPES or not values:
            continue
        dtype = np.dtype(order + VALUE_TYPES[kind])
        value_at = at + step - inline
        if values * dtype.itemsize > inline:
            (value_at,) = struct.unpack_from(number, data, value_at)
        # Raises if the values are not within the file.
        tags.setdefault(tag, np.frombuffer(data, dtype, values, value_at))
    return tags


def _numbers(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """The first values of a tag; those that say something of each band have no more of them than bands are read."""
    return tuple(int(number) for number in tags[tag][:MOST_BANDS]) if tag in tags else default


def _number(tags: Tags, tag: int, default: int) -> int:
    return int(tags[tag][0]) if tag in tags else default


def _has_spare_bands(photometric: int, bands: int, extras: tuple[int, ...]) -> bool:
    """Whether bands of 8 bits are more than a grey or colour picture with transparency, which Pillow reads."""
    has_alpha = bool(extras) and extras[0] in {PREMULTIPLIED, STRAIGHT}
    if photometric == RGB:
        # If undeclared, the fourth band is taken for alpha, by Pillow and by most programs.
        return bands > RGB_BANDS + (1 if has_alpha or not extras else 0)
    return bands > (2 if has_alpha else 1)


def _layout(
    data: bytes,
    tags: Tags,
    code: str,
    bands: int,
    photometric: int,
    extras: tuple[int, ...],
) -> Layout | None:
    compression = _number(tags, COMPRESSION, 1)
    if compression not in {NOT_COMPRESSED, *DEFLATE, *BY_LIBTIFF} or _number(tags, FILL_ORDER, 1) != 1:
        raise InvalidImageError(why_not(data), field="image")
    width, height = _number(tags, WIDTH, 0), _number(tags, HEIGHT, 0)
    alpha = next((bands - len(extras) + k for k, extra in enumerate(extras) if extra in {1, 2}), None)
    if photometric == RGB and bands == RGB_BANDS + 1 and not extras:
        alpha = RGB_BANDS
    if alpha is not None and not 0 < alpha < bands:
        return None
    colored = bands if alpha is None else alpha
    is_tiled = TILE_OFFSETS in tags
    tile = (
        (_number(tags, TILE_WIDTH, 0), _number(tags, TILE_HEIGHT, 0))
        if is_tiled
        else (width, max(1, min(height, _number(tags, ROWS_PER_STRIP, height))))
    )
    is_separate = _number(tags, PLANES, 1) == SEPARATE and bands > 1
    if width < 1 or height < 1 or (is_tiled and min(tile) < SMALLEST_TILE):
        return None
    needed = math.ceil(width / tile[0]) * math.ceil(height / tile[1]) * (bands if is_separate else 1)
    offsets = tags[TILE_OFFSETS if is_tiled else STRIP_OFFSETS]
    lengths = tags[TILE_COUNTS if is_tiled else STRIP_COUNTS]
    if min(len(offsets), len(lengths)) < needed:
        return None
    return Layout(
        width=width,
        height=height,
        dtype=np.dtype(("<" if data[:1] == b"I" else ">") + code),
        bands=bands,
        colors=RGB_BANDS if colored >= RGB_BANDS else 1,
        alpha=alpha,
        is_premultiplied=alpha is not None and PREMULTIPLIED in extras,
        is_separate=is_separate,
        is_inverted=photometric == WHITE_IS_ZERO,
        is_tiled=is_tiled,
        tile=tile,
        offsets=offsets[:needed],
        lengths=lengths[:needed],
        compression=compression,
        # Like libtiff, which reads the other files: a predictor belongs to a compression.
        predictor=NO_PREDICTOR if compression == NOT_COMPRESSED else _number(tags, PREDICTOR, NO_PREDICTOR),
        missing=_no_data(tags.get(GDAL_NO_DATA), code),
        orientation=_number(tags, ORIENTATION, 1),
    )


def _no_data(text: npt.NDArray[Any] | None, code: str) -> float | None:
    """GDAL's no-data value, which it writes as text; None where no sample can have it."""
    if text is None:
        return None
    try:
        value = float(text.tobytes().strip(b"\0 "))
    except ValueError:
        return None
    if not abs(value) < LARGEST:
        return None
    if code.startswith("f"):
        return value
    limits = np.iinfo(code)
    return value if limits.min <= value <= limits.max else None
