"""Label Studio's masks: run lengths of RGBA pixels, packed into bits, and bitmasks. Pure functions.

The bits, most significant first: 32 for the number of values; 5 for the bits of a value less one; 4 each for the bits
of four counts, less one; then runs. A run is a bit (1 repeats one value, 0 is followed by as many values as it has),
2 bits that choose a count's size, the count less one, and the value or values. Each pixel has four values.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from osamd.errors import InvalidRequestError
from osamd.pixels.cutouts import encode_rgba_png
from osamd.pixels.masks import mask_from_array
from osamd.types import BoolArray, Mask

COUNT_BITS: Final = (3, 4, 8, 16)
# The longest run of each size.
LONGEST: Final = tuple(1 << bits for bits in COUNT_BITS)
VALUE_BITS: Final = 8
INSIDE: Final = 255
CHANNELS: Final = 4
# Larger strokes are searched for points by blocks of pixels: a value of eight bytes for each pixel would be gigabytes.
MOST_SEARCHED: Final = 1 << 20
HEAD_BITS: Final = 32 + 5 + 4 * len(COUNT_BITS)


def encode_brush(mask: Mask) -> list[int]:
    """A mask in Label Studio's run lengths.

    Returns:
        Bytes as integers; all four channels of a pixel are 255 inside and 0 outside.
    """
    edges = _edges(mask)
    total = mask.height * mask.width
    bounds = np.concatenate(([0], edges, [total])).astype(np.int64)
    lengths = np.diff(bounds) * CHANNELS
    values = np.where(np.arange(len(lengths)) % 2, INSIDE, 0)
    lengths, values = lengths[lengths > 0], values[lengths > 0]

    # Split runs that exceed the largest count.
    pieces = -(-lengths // LONGEST[-1])
    of_run = np.repeat(np.arange(len(lengths)), pieces)
    before = np.arange(len(of_run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    counts = np.minimum(lengths[of_run] - before * LONGEST[-1], LONGEST[-1])
    sizes = np.searchsorted(LONGEST, counts)
    count_bits = np.array(COUNT_BITS)[sizes]

    words = ((0b100 | sizes) << (count_bits + VALUE_BITS)) | (counts - 1) << VALUE_BITS | values[of_run]
    width = 3 + count_bits + VALUE_BITS
    # Aligned to the left of 32 bits, of which the first ``width`` are kept.
    aligned = (words << (32 - width)).astype(">u4")
    bits = np.unpackbits(aligned.view(np.uint8)).reshape(-1, 32)
    body = bits[np.arange(32) < width[:, None]]
    packed: list[int] = np.packbits(np.concatenate((_head(total * CHANNELS), body))).tolist()
    return packed


def decode_brush(data: bytes, *, height: int, width: int) -> Mask | None:
    """The pixels that a brush stroke covers.

    Args:
        data: run lengths.
        height: rows of the image.
        width: columns of the image.

    Returns:
        The pixels whose last channel is not 0; None if there are none.

    Raises:
        InvalidRequestError: these are not run lengths of such an image.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if len(bits) < HEAD_BITS or _number(bits, 0, 32) != height * width * CHANNELS:
        raise _refused()
    if _number(bits, 32, 5) + 1 != VALUE_BITS:
        raise _refused()
    count_bits = [_number(bits, 37 + 4 * index, 4) + 1 for index in range(len(COUNT_BITS))]
    inside = np.zeros(height * width, np.bool_)
    at, position = 0, HEAD_BITS
    while at < height * width * CHANNELS:
        if position + 3 > len(bits):
            raise _refused()
        size = count_bits[_number(bits, position + 1, 2)]
        count = _number(bits, position + 3, size) + 1
        start = position + 3 + size
        is_repeated = bool(bits[position])
        position = start + VALUE_BITS * (1 if is_repeated else count)
        if position > len(bits) or at + count > height * width * CHANNELS:
            raise _refused()
        # The last channels among these values: of the pixels from ``first`` to ``last``.
        first, last = at // CHANNELS, (at + count) // CHANNELS
        if last > first:
            if is_repeated:
                inside[first:last] = bits[start:position].any()
            else:
                values: BoolArray = np.asarray(bits[start:position].reshape(-1, VALUE_BITS).any(axis=1))
                inside[first:last] = values[CHANNELS - 1 - at % CHANNELS :: CHANNELS]
        at += count
    return mask_from_array(inside.reshape(height, width), offset=(0, 0), height=height, width=width)


def bitmask_png(mask: Mask) -> bytes:
    """A mask as an RGBA PNG of the image's size, opaque inside and transparent outside."""
    canvas = np.zeros((mask.height, mask.width, CHANNELS), np.uint8)
    box = mask.box
    canvas[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1][mask.inside] = INSIDE
    return b"".join(encode_rgba_png(canvas))


def points_in(stroke: Mask, *, most: int) -> npt.NDArray[np.float32]:
    """Points on a stroke, well inside it and far from one another.

    Args:
        stroke: what a brush has covered.
        most: how many points at most.

    Returns:
        (N, 2) float32, x and y in image pixels; N is at least 1.
    """
    import cv2

    step = math.ceil(math.sqrt(stroke.inside.size / MOST_SEARCHED))
    blocks = _blocks(stroke.inside, step)
    depth = cv2.distanceTransform(np.pad(blocks.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= 0.75 * depth.max())
    inner = np.stack([columns, rows], axis=1).astype(np.float32)
    chosen = [inner[int(np.argmax(depth[rows, columns]))]]
    # Farther than the stroke is wide, so that a dab is one point and a line several.
    least = 4.0 * float(depth.max())
    distance = np.linalg.norm(inner - chosen[0], axis=1)
    while len(chosen) < most and float(distance.max()) > least:
        chosen.append(inner[int(np.argmax(distance))])
        distance = np.minimum(distance, np.linalg.norm(inner - chosen[-1], axis=1))
    points = [_inside_of(stroke.inside, int(x), int(y), step) for x, y in chosen]
    return np.array(points, np.float32) + np.array([stroke.box.xmin, stroke.box.ymin], np.float32)


def _blocks(inside: BoolArray, step: int) -> BoolArray:
    """Which blocks of ``step`` by ``step`` pixels have any inside."""
    rows, columns = (-(-size // step) for size in inside.shape)
    padded = np.zeros((rows * step, columns * step), np.bool_)
    padded[: inside.shape[0], : inside.shape[1]] = inside
    found: BoolArray = np.asarray(padded.reshape(rows, step, columns, step).any(axis=(1, 3)))
    return found


def _inside_of(inside: BoolArray, x: int, y: int, step: int) -> tuple[float, float]:
    """Of a block's pixels inside, the one nearest to its centre: x and y."""
    rows, columns = np.nonzero(inside[y * step : (y + 1) * step, x * step : (x + 1) * step])
    nearest = int(np.argmin((rows - step / 2) ** 2 + (columns - step / 2) ** 2))
    return float(x * step + columns[nearest]), float(y * step + rows[nearest])


def _edges(mask: Mask) -> npt.NDArray[np.int64]:
    """Where the image's pixels, row by row, change between outside and inside."""
    inside, box = mask.inside, mask.box
    width = inside.shape[1]
    changes = np.flatnonzero(inside[:, 1:] != inside[:, :-1])
    rows, columns = np.divmod(changes, width - 1) if width > 1 else (changes, changes)
    starts, ends = np.flatnonzero(inside[:, 0]), np.flatnonzero(inside[:, -1])
    # Within the box, whose rows are one longer than the pixels in between.
    places = [rows * (width + 1) + columns + 1, starts * (width + 1), ends * (width + 1) + width]
    rows, columns = np.divmod(np.sort(np.concatenate(places)), width + 1)
    edges: npt.NDArray[np.int64] = (rows + box.ymin) * mask.width + columns + box.xmin
    # Where a row ends inside and the next one begins inside, nothing changes.
    is_twice = np.concatenate((edges[1:] == edges[:-1], [False]))
    is_twice |= np.concatenate(([False], is_twice[:-1]))
    return edges[~is_twice]


def _head(count: int) -> "npt.NDArray[np.uint8]":
    fields = [(count, 32), (VALUE_BITS - 1, 5), *((bits - 1, 4) for bits in COUNT_BITS)]
    return np.array([value >> shift & 1 for value, size in fields for shift in reversed(range(size))], np.uint8)


def _number(bits: "npt.NDArray[Any]", start: int, size: int) -> int:
    return int("".join(map(str, bits[start : start + size].tolist())) or "0", 2)


def _refused() -> InvalidRequestError:
    return InvalidRequestError("expected the run lengths of a brush stroke on this image", field="rle")
