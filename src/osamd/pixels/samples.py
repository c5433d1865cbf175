"""Scale samples of more than 8 bits, signed and floating-point ones to 8 bits, by the range the image uses.

The range that becomes 0 to 255 is

- 0 to 2^n - 1 with the smallest n >= 8 that fits the largest sample (0 to 1 for floating point up to 1), if no sample
  is negative and the samples cover at least a quarter of it: 10 bits stored in 16 look as they do in 8;
- otherwise from the smallest to the largest sample: CT, thermal images, elevations;
- for an image of one value, the whole range of its type, 0 to 1 for floating point.

NaN, values beyond 1e30 (what fills the gaps of many floating-point files), and a file's declared no-data value do not
count towards the range and become black; infinities become black and white. Everything works in blocks, without a copy
of the whole image.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from osamd.types import ByteArray

Samples = npt.NDArray[Any]

FEWEST_BITS: Final = 8
# Minimum share of the range: with less, the smallest and largest sample become 0 and 255.
COVERED_SHARE: Final = 0.25
LARGEST: Final = 1e30
WHOLE_16_BITS: Final = (0.0, 65535.0)
# Samples per block, to fit a core's cache.
BLOCK_SAMPLES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Extent:
    """The smallest and largest sample so far; +inf and -inf before the first."""

    low: float = math.inf
    high: float = -math.inf

    def with_samples(self, samples: Samples, missing: float | None) -> Self:
        """Include more samples.

        Args:
            samples: any shape, any integer or floating-point type.
            missing: the value that stands for no data, or None.
        """
        if samples.dtype.kind == "f":
            samples = samples[np.abs(samples) < LARGEST]
        if missing is not None:
            samples = samples[samples != missing]
        if not samples.size:
            return self
        return type(self)(min(self.low, float(samples.min())), max(self.high, float(samples.max())))


@dataclass(frozen=True, slots=True)
class Scale:
    """How samples are scaled to 8 bits.

    Attributes:
        low: becomes 0, as does everything below.
        high: becomes 255, as does everything above.
        missing: the value that stands for no data, or None.
    """

    low: float
    high: float
    missing: float | None = None

    def note(self) -> str:
        """What was done, for humans; empty if the full range of 8 or 16 bits was used."""
        if (self.low, self.high) in {WHOLE_16_BITS, (0.0, 255.0)}:
            return ""
        return f"samples {self.low:.6g} to {self.high:.6g} scaled to 0 to 255"

    def apply(self, samples: Samples) -> ByteArray:
        """A block of samples as uint8, in the same shape."""
        if samples.dtype == np.uint8 and (self.low, self.high) == (0.0, 255.0):
            reduced = samples
        elif samples.dtype == np.uint16 and (self.low, self.high) == WHOLE_16_BITS:
            reduced = (samples // np.uint16(257)).astype(np.uint8)
        else:
            # 32-bit integers have more digits than float32.
            exact: npt.NDArray[np.floating] = samples.astype(
                np.float32 if samples.dtype.itemsize <= np.dtype(np.uint16).itemsize else np.float64
            )
            if samples.dtype.kind == "f":
                # Could overflow when scaled.
                exact[(exact >= LARGEST) & (exact < np.inf)] = -np.inf
                np.nan_to_num(exact, copy=False, nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)
            exact -= self.low
            exact *= 255.0 / (self.high - self.low)
            reduced = np.rint(np.clip(exact, 0.0, 255.0, out=exact), out=exact).astype(np.uint8)
        if self.missing is None:
            return reduced
        return np.where(samples == self.missing, np.uint8(0), reduced)


def choose_scale(extent: Extent, dtype: np.dtype[Any], missing: float | None = None) -> Scale:
    """The scale for an image whose samples have this extent, by the rule above.

    Args:
        extent: of the colours, without alpha.
        dtype: of the samples, in the machine's byte order.
        missing: the value that stands for no data, or None.
    """
    low, high = extent.low, extent.high
    if dtype == np.uint8:
        return Scale(0.0, 255.0, missing)
    if low >= high:
        if dtype.kind == "f":
            return Scale(0.0, 1.0, missing)
        limits = np.iinfo(dtype)
        return Scale(float(limits.min), float(limits.max), missing)
    if low >= 0.0:
        whole = 1.0 if dtype.kind == "f" and high <= 1.0 else _whole_range(high)
        if high - low >= COVERED_SHARE * whole:
            return Scale(0.0, whole, missing)
    return Scale(low, high, missing)


def scale_of_alpha(colors: Scale, extent: Extent, dtype: np.dtype[Any]) -> Scale:
    """The scale for alpha: that of the colours if it fits, so that 1023 is opaque in a 10-bit image."""
    if colors.low == 0.0 and extent.high <= colors.high:
        return Scale(0.0, colors.high)
    return Scale(0.0, max(1.0, extent.high) if dtype.kind == "f" else float(np.iinfo(dtype).max))


def _whole_range(high: float) -> float:
    """2^n - 1 with the smallest n >= 8 that fits this value."""
    return float(2 ** max(FEWEST_BITS, math.ceil(high).bit_length()) - 1)


def blocks_of_rows(height: int, samples_of_a_row: int) -> Iterable[slice]:
    """Split the rows of an image into blocks."""
    step = max(1, BLOCK_SAMPLES // max(1, samples_of_a_row))
    return (slice(first, min(height, first + step)) for first in range(0, height, step))


def over_white(colors: ByteArray, alpha: ByteArray, *, is_premultiplied: bool = False) -> ByteArray:
    """Composite a block of colours over white.

    Args:
        colors: (h, w, 3) uint8.
        alpha: (h, w) uint8, 255 opaque.
        is_premultiplied: whether the colours have been multiplied by alpha.
    """
    opacity = alpha[:, :, np.newaxis].astype(np.uint16)
    if is_premultiplied:
        premultiplied: ByteArray = np.minimum(colors + (255 - opacity), 255).astype(np.uint8)
        return premultiplied
    blended: ByteArray = ((colors * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return blended
