"""TIFF files made by hand, of every kind of sample: Pillow and OpenCV write few of them."""

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]

KINDS = {"u": 1, "i": 2, "f": 3}
SHORT, LONG, LONG8, TEXT = 3, 4, 16, 2
NOT_COMPRESSED, DEFLATE = 1, 8
HORIZONTAL, FLOATING_POINT = 2, 3


def tiff(
    samples: Samples,
    *,
    photometric: int = 1,
    extras: tuple[int, ...] = (),
    compression: int = NOT_COMPRESSED,
    predictor: int = 1,
    rows_per_strip: int | None = None,
    tile: tuple[int, int] | None = None,
    is_separate: bool = False,
    order: str = "<",
    is_big: bool = False,
    orientation: int | None = None,
    no_data: str | None = None,
    changed: dict[int, list[int]] | None = None,
) -> bytes:
    """A TIFF of (H, W) or (H, W, bands) samples.

    Args:
        samples: of any integer or floating-point type.
        photometric: 0 white is zero, 1 black is zero, 2 RGB.
        extras: what the bands behind the colours are: 0 anything, 1 premultiplied alpha, 2 alpha.
        compression: 1 or 8.
        predictor: 1 none, 2 horizontal, 3 floating point.
        rows_per_strip: None for one strip.
        tile: columns and rows of tiles instead of strips.
        is_separate: each band by itself.
        order: of the bytes, < or >.
        is_big: with offsets of 64 bits.
        orientation: EXIF's.
        no_data: GDAL's tag.
        changed: tags with other values than they should have.
    """
    pixels = samples[:, :, np.newaxis] if samples.ndim == 2 else samples
    height, width, bands = pixels.shape
    columns, rows = tile or (width, rows_per_strip or height)
    pieces = [
        _packed(
            _segment(pixels[y : y + rows, x : x + columns, band], (rows, columns), is_tiled=tile is not None),
            order,
            compression,
            predictor,
        )
        for band in ([slice(k, k + 1) for k in range(bands)] if is_separate else [slice(None)])
        for y in range(0, height, rows)
        for x in range(0, width, columns)
    ]
    tags: dict[int, tuple[int, list[int] | bytes]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [pixels.dtype.itemsize * 8] * bands),
        259: (SHORT, [compression]),
        262: (SHORT, [photometric]),
        277: (SHORT, [bands]),
        284: (SHORT, [2 if is_separate else 1]),
        317: (SHORT, [predictor]),
        339: (SHORT, [KINDS[pixels.dtype.kind]] * bands),
    }
    offsets = LONG8 if is_big else LONG
    if tile:
        tags |= {322: (SHORT, [columns]), 323: (SHORT, [rows])}
        tags |= {324: (offsets, [0] * len(pieces)), 325: (LONG, [len(piece) for piece in pieces])}
    else:
        tags |= {278: (LONG, [rows]), 273: (offsets, [0] * len(pieces)), 279: (LONG, [len(piece) for piece in pieces])}
    if extras:
        tags[338] = (SHORT, list(extras))
    if orientation is not None:
        tags[274] = (SHORT, [orientation])
    if no_data is not None:
        tags[42113] = (TEXT, no_data.encode() + b"\0")
    for tag, values in (changed or {}).items():
        tags[tag] = (tags.get(tag, (LONG, []))[0], values)
    return _file(tags, pieces, order, is_big=is_big, offsets_tag=324 if tile else 273, keep=set(changed or {}))


def _segment(piece: Samples, size: tuple[int, int], *, is_tiled: bool) -> Samples:
    """A strip as it is; a tile at its whole size, whatever is in the rest."""
    if not is_tiled:
        return piece
    whole = np.full((*size, piece.shape[2]), 99, piece.dtype)
    whole[: piece.shape[0], : piece.shape[1]] = piece
    return whole


def _packed(piece: Samples, order: str, compression: int, predictor: int) -> bytes:
    if compression == NOT_COMPRESSED:
        # The tag says nothing then.
        predictor = 1
    if predictor == FLOATING_POINT:
        rows, columns, bands = piece.shape
        big = piece.astype(piece.dtype.newbyteorder(">")).reshape(rows, columns * bands, 1).view(np.uint8)
        planes = big.reshape(rows, columns * bands, -1).transpose(0, 2, 1).reshape(rows, -1, bands)
        raw = np.diff(planes, axis=1, prepend=np.zeros((rows, 1, bands), np.uint8)).tobytes()
    else:
        if predictor == HORIZONTAL:
            words = np.ascontiguousarray(piece).view(f"u{piece.dtype.itemsize}")
            piece = np.diff(words, axis=1, prepend=np.zeros_like(words[:, :1]))
        raw = piece.astype(np.dtype(order + piece.dtype.str[1:])).tobytes()
    return zlib.compress(raw) if compression == DEFLATE else raw


def _file(
    tags: dict[int, tuple[int, list[int] | bytes]],
    pieces: list[bytes],
    order: str,
    *,
    is_big: bool,
    offsets_tag: int,
    keep: set[int],
) -> bytes:
    """The directory first, the values that do not fit into it, then the strips or tiles."""
    mark = b"II" if order == "<" else b"MM"
    count, entry, inline, start = ("Q", "HHQ", 8, 16) if is_big else ("H", "HHI", 4, 8)
    head = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if is_big else struct.pack(f"{order}HI", 42, 8))
    directory_bytes = struct.calcsize(f"={count}") + len(tags) * (struct.calcsize(f"={entry}") + inline) + inline

    def packed(kind: int, values: list[int] | bytes) -> bytes:
        if isinstance(values, bytes):
            return values
        return struct.pack(f"{order}{len(values)}{ {SHORT: 'H', LONG: 'I', LONG8: 'Q'}[kind] }", *values)

    values_at = start + directory_bytes
    data_at = values_at + sum(len(packed(*value)) for value in tags.values() if len(packed(*value)) > inline)
    if offsets_tag not in keep:
        starts = [data_at + sum(len(piece) for piece in pieces[:k]) for k in range(len(pieces))]
        tags[offsets_tag] = (tags[offsets_tag][0], starts)
    entries, outside = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        value = packed(kind, values)
        entries += struct.pack(f"{order}{entry}", tag, kind, len(values))
        if len(value) > inline:
            entries += struct.pack(f"{order}{'Q' if is_big else 'I'}", values_at + len(outside))
            outside += value
        else:
            entries += value.ljust(inline, b"\0")
    return head + struct.pack(f"{order}{count}", len(tags)) + entries + bytes(inline) + outside + b"".join(pieces)
