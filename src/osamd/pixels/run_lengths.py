"""Masks as COCO's compressed run lengths, byte-identical to pycocotools.

pycocotools encodes a mask in one call that holds the interpreter lock: a third of a second at 50 megapixels. NumPy
releases it, and only rows that differ from the one above cost more than a comparison.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from osamd.types import BoolArray, Mask

# Pixels compared, and counts compressed, at a time: a few milliseconds at most.
BLOCK_PIXELS: Final = 1 << 20
BLOCK_COUNTS: Final = 1 << 14
# COCO writes numbers in groups of five bits, the lowest first, with a sixth bit if more follow, as characters from 0.
GROUP_BITS: Final = 5
GROUP: Final = (1 << GROUP_BITS) - 1
MORE: Final = 1 << GROUP_BITS
FIRST_CHARACTER: Final = 48
# From this count on, COCO writes the difference to the count before the previous one.
FIRST_DIFFERENCE: Final = 3
# Counts have at most 32 bits.
MOST_GROUPS: Final = 7

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RunLengths:
    """COCO's compressed run-length encoding.

    Attributes:
        size: rows and columns.
        counts: the compressed string; columns first, as COCO has it.
    """

    size: tuple[int, int]
    counts: str


def runs_at_image_size(mask: Mask) -> RunLengths:
    """A mask's run lengths."""
    counts = b"".join(encode_rle(mask, is_whole=True)).decode("ascii")
    return RunLengths((mask.height, mask.width), counts)


def no_runs(height: int, width: int) -> RunLengths:
    """The run lengths of an empty mask."""
    counts = _compressed(np.array([height * width], np.int64), np.zeros(2, np.int64), index=0)
    return RunLengths((height, width), counts.decode("ascii"))


def covered_pixels(counts: bytes) -> int:
    """The sum of all run lengths; that of an image's mask is its number of pixels.

    Args:
        counts: compressed run lengths.

    Raises:
        ValueError: the string is not one.
    """
    groups = np.frombuffer(counts, np.uint8).astype(np.int64) - FIRST_CHARACTER
    has_more = groups & MORE > 0
    if not len(groups) or groups.min() < 0 or groups.max() > GROUP + MORE or has_more[-1]:
        raise ValueError("not compressed run lengths")
    starts = np.flatnonzero(np.concatenate([[True], ~has_more[:-1]]))
    sizes = np.diff(starts, append=len(groups))
    if sizes.max() > MOST_GROUPS:
        raise ValueError("a run length is too large")
    shifts = GROUP_BITS * (np.arange(len(groups)) - np.repeat(starts, sizes))
    values = np.add.reduceat((groups & GROUP) << shifts, starts)
    is_negative = groups[starts + sizes - 1] & (1 << (GROUP_BITS - 1)) > 0
    values -= is_negative.astype(np.int64) << (GROUP_BITS * sizes)
    # From the fourth on, numbers are differences to the count before the previous one.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise ValueError("a run length is negative")
    return int(values.sum())


def overlaps(one: RunLengths, others: Sequence[RunLengths]) -> Iterator[float]:
    """Intersection over union of a mask with each of others of the same image, 0..1."""
    mine = {"size": list(one.size), "counts": one.counts.encode()}
    for other in others:
        # One at a time, since the call holds the interpreter lock.
        yield float(coco.iou([mine], [{"size": list(other.size), "counts": other.counts.encode()}], [0])[0, 0])


def encode_rle(mask: Mask, *, is_whole: bool) -> Iterator[bytes]:
    """The ``counts`` of COCO's compressed run lengths, in pieces of ASCII.

    Args:
        mask: what to encode.
        is_whole: whether at the size of the image, instead of the mask's bounding box.
    """
    height, width = (mask.height, mask.width) if is_whole else mask.inside.shape
    left, top = (mask.box.xmin, mask.box.ymin) if is_whole else (0, 0)
    nbits = height * width
    position, index, before = 0, 0, np.zeros(2, np.int64)
    for changes in _changes(mask.inside, height=height, first=left * height + top):
        for start in range(0, len(changes), BLOCK_COUNTS):
            ends = changes[start : start + BLOCK_COUNTS]
            if ends[-1] == nbits:
                # What ends with the image is the last run.
                ends = ends[:-1]
            if not len(ends):
                break
            counts = np.diff(ends, prepend=position)
            yield _compressed(counts, before, index=index)
            position, index = int(ends[-1]), index + len(counts)
            before = np.concatenate([before, counts])[-2:]
    yield _compressed(np.array([nbits - position], np.int64), before, index=index)


def _changes(inside: BoolArray, *, height: int, first: int) -> Iterator[Positions]:
    """Where the mask begins and ends, counting pixels down the columns of its image; ascending.

    Args:
        inside: (h, w) bool.
        height: rows of the image.
        first: where in the image its first pixel is.
    """
    rows, columns = inside.shape
    step = max(1, BLOCK_PIXELS // rows)
    for start in range(0, columns, step):
        changed = _changed(inside, start, min(start + step, columns), is_continuous=rows == height)
        row, column = np.divmod(np.flatnonzero(changed), changed.shape[1])
        positions = first + (start + column) * height + row
        positions.sort()
        yield positions
    if rows == height and inside[-1, -1]:
        yield np.array([first + columns * height])


def _changed(inside: BoolArray, start: int, end: int, *, is_continuous: bool) -> BoolArray:
    """Whether each pixel of some columns differs from the one before it.

    Args:
        inside: (h, w) bool.
        start: first column.
        end: one past the last.
        is_continuous: whether the pixel after the last one of a column is the first one of the next column. Otherwise
            there is at least one pixel outside the mask in between, and the result has a row more.
    """
    rows, block = len(inside), inside[:, start:end]
    changed = np.empty((rows + (not is_continuous), end - start), np.bool_)
    np.not_equal(block[1:], block[:-1], out=changed[1:rows])
    changed[0] = block[0]
    if is_continuous:
        changed[0, 1:] ^= block[-1, :-1]
        changed[0, 0] ^= start > 0 and inside[-1, start - 1]
    else:
        changed[rows] = block[-1]
    return changed


def _compressed(counts: Positions, before: Positions, *, index: int) -> bytes:
    """Some counts as text.

    Args:
        counts: successive counts.
        before: the two counts before them.
        index: of the first of ``counts`` among all.
    """
    earlier = np.concatenate([before, counts])[: len(counts)]
    earlier[: max(0, FIRST_DIFFERENCE - index)] = 0
    rest = (counts - earlier).astype(np.int32)
    characters, written = [], []
    goes_on = np.ones(len(rest), np.bool_)
    while goes_on.any():
        low = rest & GROUP
        rest >>= GROUP_BITS
        has_more = rest != -(low >> (GROUP_BITS - 1))
        characters.append((low + MORE * has_more + FIRST_CHARACTER).astype(np.uint8))
        written.append(goes_on)
        goes_on = goes_on & has_more
    return np.stack(characters, axis=1)[np.stack(written, axis=1)].tobytes()
