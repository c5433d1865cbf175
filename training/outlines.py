"""Regions of a photo as the bits of one small picture."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from training.library import ByteArray

BoolArray = npt.NDArray[np.bool_]
RegionArray = npt.NDArray[np.uint16]

MOST_REGIONS: Final = 16


def pack(regions: Sequence[BoolArray]) -> ByteArray:
    """(h, w, 2) uint8 from up to 16 (h, w) bool: a bit for each region."""
    bits = np.zeros(regions[0].shape, np.uint16)
    for index, region in enumerate(regions):
        bits |= region.astype(np.uint16) << index
    return np.dstack([bits & 0xFF, bits >> 8]).astype(np.uint8)


def unpack(packed: ByteArray) -> RegionArray:
    """(h, w) uint16 with a bit for each region."""
    low, high = packed[..., 0].astype(np.uint16), packed[..., 1].astype(np.uint16)
    return (low | high << 8).astype(np.uint16)
