"""Decode TIFFs of 16 bits and more, signed, floating point, or with many bands to RGB.

Strips or tiles are unpacked a few at a time, twice: once for the range of the samples, once for the pixels. So no
more than the result and a few strips are in memory. Written after the TIFF 6.0 specification and Adobe's technical
notes on predictors.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from osamd.errors import ImageTooLargeError, InvalidImageError
from osamd.pixels.samples import (
    Extent,
    Samples,
    blocks_of_rows,
    choose_scale,
    over_white,
    scale_of_alpha,
)
from osamd.pixels.tiff_layout import DEFLATE, FLOATING_POINT, HORIZONTAL, NOT_COMPRESSED, Layout
from osamd.types import ByteArray

# Limit of unpacked bytes, on average over the pixels of the largest image.
MOST_BYTES_A_PIXEL: Final = 8
# Strips and tiles are unpacked in batches of at most this many bytes and segments: one at a time would be slow.
BATCH_BYTES: Final = 1 << 21
MOST_TOGETHER: Final = 4096
# The most that any of the compressions adds to a strip's unpacked size.
MOST_OVERHEAD: Final = 256
FED_BYTES: Final = 1 << 16
# Of a TIFF made for libtiff: bytes of an entry in its directory, TIFF's numbers of its types, and the tags' numbers.
ENTRY_BYTES: Final = 12
LONG: Final = 4


@dataclass(frozen=True, slots=True)
class _Rows:
    """What strips or tiles under one another unpack to: bytes of a row, rows of each, and rows of all."""

    row_bytes: int
    of_each: int
    of_all: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """The part of the image in a batch of segments: first row in the image and in the batch, row count, and columns."""

    begin: int
    top: int
    rows: int
    columns: slice


def decode(data: bytes, layout: Layout, *, max_pixels: int, into: ByteArray) -> tuple[str, ...]:
    """Write the pixels, RGB over white, as they are stored.

    Args:
        data: the file.
        layout: of this file; its width and height have been checked.
        max_pixels: at most eight times this many bytes are unpacked.
        into: (height, width, 3) uint8.

    Returns:
        What was done to the samples, for humans.

    Raises:
        ImageTooLargeError: its samples take too many bytes.
        InvalidImageError: it is corrupt.
    """
    most = MOST_BYTES_A_PIXEL * max_pixels
    if layout.nbytes > most:
        raise ImageTooLargeError(
            f"the image's samples take {layout.nbytes:,} bytes; the limit is {most:,}", field="image"
        )
    extent, alpha_extent = Extent(), Extent()
    for _, _, band, samples in _blocks(data, layout):
        if band == layout.alpha:
            alpha_extent = alpha_extent.with_samples(samples, None)
        else:
            extent = extent.with_samples(samples, layout.missing)
    dtype = layout.dtype.newbyteorder("=")
    scale = choose_scale(extent, dtype, layout.missing)
    alpha_scale = scale_of_alpha(scale, alpha_extent, dtype)
    alpha = None if layout.alpha is None else np.zeros((layout.height, layout.width), np.uint8)
    for rows, columns, band, samples in _blocks(data, layout):
        if band == layout.alpha and alpha is not None:
            alpha[rows, columns] = alpha_scale.apply(samples)
            continue
        reduced = scale.apply(samples)
        if layout.is_inverted:
            reduced = 255 - reduced
        into[rows, columns, slice(None) if layout.colors == 1 else slice(band, band + 1)] = reduced[:, :, np.newaxis]
    if alpha is not None:
        for rows in blocks_of_rows(layout.height, layout.width):
            into[rows] = over_white(into[rows], alpha[rows], is_premultiplied=layout.is_premultiplied)
    return tuple(note for note in (scale.note(), layout.note()) if note)


def _blocks(data: bytes, layout: Layout) -> Iterator[tuple[slice, slice, int, Samples]]:
    """The samples of the shown bands, block by block: rows, columns, band, and (rows, columns) samples."""
    width, height = layout.tile
    count = math.ceil(layout.width / width) * math.ceil(layout.height / height)
    row_bytes = width * layout.bands_of_a_segment * layout.dtype.itemsize
    batch = min(MOST_TOGETHER, max(1, BATCH_BYTES // (row_bytes * height)))
    for plane in layout.shown if layout.is_separate else (0,):
        bands = (plane,) if layout.is_separate else layout.shown
        for first in range(0, count, batch):
            numbers = range(first, min(count, first + batch))
            mine = slice(plane * count + numbers.start, plane * count + numbers.stop)
            segments = list(zip(layout.offsets[mine].tolist(), layout.lengths[mine].tolist(), strict=True))
            rows = len(numbers) * height
            if not layout.is_tiled:
                # Tiles are always complete; the last strip may be shorter.
                rows = min(rows, layout.height - first * height)
            unpacked = _unpack(data, segments, layout.compression, _Rows(row_bytes, height, rows))
            for piece in _pieces(layout, numbers, rows):
                for block in blocks_of_rows(piece.rows, row_bytes):
                    raw = unpacked.take(piece.begin + block.start, piece.begin + block.stop)
                    samples = _samples(raw, layout)[:, : piece.columns.stop - piece.columns.start]
                    shown = slice(piece.top + block.start, piece.top + block.stop)
                    for index, band in enumerate(bands):
                        yield shown, piece.columns, band, samples[:, :, index if layout.is_separate else band]


def _pieces(layout: Layout, numbers: range, rows: int) -> Iterator[_Piece]:
    """Where in the image the rows of a batch of strips or tiles belong."""
    width, height = layout.tile
    if not layout.is_tiled:
        yield _Piece(0, numbers[0] * height, rows, slice(0, layout.width))
        return
    across = math.ceil(layout.width / width)
    for index, number in enumerate(numbers):
        top, left = number // across * height, number % across * width
        columns = slice(left, min(layout.width, left + width))
        yield _Piece(index * height, top, min(height, layout.height - top), columns)


class _Unpacked:
    """Rows of bytes."""

    def __init__(self, data: bytes | memoryview, row_bytes: int) -> None:
        self._rows = np.frombuffer(data, np.uint8).reshape(-1, row_bytes)

    def take(self, first: int, end: int) -> ByteArray:
        """Some of them, contiguous: (rows, bytes of a row) uint8."""
        return self._rows[first:end]


class _UnpackedByLibtiff(_Unpacked):
    """Rows in a grey Pillow image, copied out a few at a time."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture

    def take(self, first: int, end: int) -> ByteArray:
        """Some of them, contiguous: (rows, bytes of a row) uint8."""
        return np.asarray(self._picture.crop((0, first, self._picture.width, end)))


class _Inflated(_Unpacked):
    """Rows unpacked by zlib on demand, in order, so that at most a block is in memory."""

    def __init__(self, parts: Sequence[bytes | memoryview], sizes: Sequence[int], row_bytes: int) -> None:
        self._parts = iter(list(zip(parts, sizes, strict=True)))
        self._row_bytes = row_bytes
        self._next_row = 0
        self._packed: bytes | memoryview = b""
        self._at = self._left = 0
        self._inflate = zlib.decompressobj()

    def take(self, first: int, end: int) -> ByteArray:
        """Some rows, contiguous: (rows, bytes of a row) uint8."""
        # The rows of a tile below the image are skipped.
        self._read((first - self._next_row) * self._row_bytes)
        self._next_row = end
        return np.frombuffer(self._read((end - first) * self._row_bytes), np.uint8).reshape(-1, self._row_bytes)

    def _read(self, nbytes: int) -> bytes:
        read: list[bytes] = []
        while nbytes > 0:
            if not self._left:
                self._packed, self._left = next(self._parts)
                self._at, self._inflate = 0, zlib.decompressobj()
            # In small pieces, because zlib copies the input it has not consumed.
            fed = self._inflate.unconsumed_tail or self._packed[self._at : self._at + FED_BYTES]
            if not self._inflate.unconsumed_tail:
                self._at += len(fed)
            piece = self._inflate.decompress(fed, min(nbytes, self._left))
            if not piece and not fed:
                raise InvalidImageError("the image is truncated", field="image")
            self._left -= len(piece)
            nbytes -= len(piece)
            read.append(piece)
        return b"".join(read)


def _unpack(data: bytes, segments: Sequence[tuple[int, int]], compression: int, rows: _Rows) -> _Unpacked:
    """Unpack strips or tiles, stacked vertically."""
    whole = rows.row_bytes * rows.of_each
    view = memoryview(data)
    # The last one may be shorter.
    sizes = [min(whole, rows.row_bytes * rows.of_all - k * whole) for k in range(len(segments))]
    if compression == NOT_COMPRESSED:
        parts: list[bytes | memoryview] = [
            view[offset : offset + size] for (offset, _), size in zip(segments, sizes, strict=True)
        ]
    else:
        # Declared lengths cannot be trusted.
        parts = [
            view[offset : offset + min(length, 2 * size + MOST_OVERHEAD)]
            for (offset, length), size in zip(segments, sizes, strict=True)
        ]
        if compression not in DEFLATE:
            picture = TiffImagePlugin.TiffImageFile(io.BytesIO(_as_bytes(parts, compression, rows)))
            picture.load()
            return _UnpackedByLibtiff(picture)
        return _Inflated(parts, sizes, rows.row_bytes)
    if any(len(part) != size for part, size in zip(parts, sizes, strict=True)):
        raise InvalidImageError("the image is truncated", field="image")
    return _Unpacked(parts[0] if len(parts) == 1 else b"".join(parts), rows.row_bytes)


def _as_bytes(parts: Sequence[bytes | memoryview], compression: int, rows: _Rows) -> bytes:
    """Wrap compressed segments as strips of an 8-bit TIFF, which libtiff unpacks regardless of their meaning."""
    count = len(parts)
    offsets_at = 8 + 2 + 9 * ENTRY_BYTES + 4
    # Of a single value, the entry has the value itself.
    arrays_bytes = 2 * 4 * count if count > 1 else 0
    starts, position = [], offsets_at + arrays_bytes
    for part in parts:
        starts.append(position)
        position += len(part)
    lengths = [len(part) for part in parts]
    entries = [
        (256, 1, rows.row_bytes),
        (257, 1, rows.of_all),
        (258, 1, 8),
        (259, 1, compression),
        (262, 1, 1),
        (273, count, offsets_at if count > 1 else starts[0]),
        (277, 1, 1),
        (278, 1, rows.of_each),
        (279, count, offsets_at + 4 * count if count > 1 else lengths[0]),
    ]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    head += b"".join(struct.pack("<HHII", tag, LONG, number, value) for tag, number, value in entries) + bytes(4)
    if count > 1:
        head += struct.pack(f"<{2 * count}I", *starts, *lengths)
    return b"".join([head, *parts])


def _samples(raw: ByteArray, layout: Layout) -> Samples:
    """Convert rows of bytes to samples, (rows, columns, bands) in native byte order, undoing the predictor.

    Half precision becomes single: its range is too small to compare with.
    """
    samples = _stored_samples(raw, layout)
    return samples.astype(np.float32) if samples.dtype == np.float16 else samples


def _stored_samples(raw: ByteArray, layout: Layout) -> Samples:
    rows, bands, size = len(raw), layout.bands_of_a_segment, layout.dtype.itemsize
    native = layout.dtype.newbyteorder("=")
    if layout.predictor == FLOATING_POINT:
        # A row has the most significant bytes of all samples, then the next ones; each byte is a difference.
        summed: npt.NDArray[np.uint8] = np.cumsum(raw.reshape(rows, -1, bands), axis=1, dtype=np.uint8)
        planes = summed.reshape(rows, size, -1)
        big = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(layout.dtype.newbyteorder(">"))
        return big.reshape(rows, -1, bands).astype(native)
    samples = raw.view(layout.dtype).reshape(rows, -1, bands)
    if layout.predictor == HORIZONTAL:
        words = samples.view(f"{layout.dtype.byteorder}u{size}") if size > 1 else samples.view(np.uint8)
        return np.cumsum(words, axis=1, dtype=f"=u{size}").view(native)
    return samples.astype(native, copy=False)
