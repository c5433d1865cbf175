"""Large masks are thresholded in blocks, with the same pixels as small ones, and little memory beside the mask."""

import tracemalloc
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from osamd.pixels import masks, upsampling
from osamd.types import BoolArray, Mask, MaskLogits

Floats = npt.NDArray[np.float64]
# Float32 may put pixels whose exact value is this close to the threshold on either side.
CLOSE = 1e-5
SIDE = 4096


def exact(values: npt.NDArray[np.float32], *, rows: range, columns: range, scale_y: float, scale_x: float) -> Floats:
    """Bilinear interpolation with half-pixel centres in float64, by NumPy's own."""
    across = (np.array(columns) + 0.5) * scale_x - 0.5
    down = (np.array(rows) + 0.5) * scale_y - 0.5
    wide = np.stack([np.interp(across, np.arange(len(row)), row) for row in values.astype(np.float64)])
    return np.stack([np.interp(down, np.arange(len(column)), column) for column in wide.T], axis=1)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_blocks_are_the_same_as_the_whole(data: st.DataObject) -> None:
    """Of any size, for any window, scale and threshold, down to equal size and less."""
    draw = data.draw
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    height, width = draw(st.tuples(st.integers(1, 150), st.integers(1, 150)))
    threshold = draw(st.sampled_from([0.0, 0.3, -0.4]))
    padding = draw(st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)))
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    y1, x1 = draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width))
    values = np.random.default_rng(draw(st.integers(0, 2**31))).uniform(-1, 1, shape).astype(np.float32)
    # As in masks: what is beyond the part that is valid is cut off.
    scale_y = max(0.5, shape[0] - padding[0]) / height
    scale_x = max(0.5, shape[1] - padding[1]) / width

    def inside(*, resized: int, block: int) -> BoolArray:
        with patch.object(upsampling, "RESIZED_PIXELS", resized), patch.object(upsampling, "BLOCK_PIXELS", block):
            return upsampling.above_threshold(
                values, threshold, rows=(y0, y1), columns=(x0, x1), scale_y=scale_y, scale_x=scale_x
            )

    in_blocks = inside(resized=0, block=draw(st.integers(1, 5000)))

    wanted = exact(values, rows=range(y0, y1), columns=range(x0, x1), scale_y=scale_y, scale_x=scale_x)
    clear = np.abs(wanted - threshold) > CLOSE
    np.testing.assert_array_equal(clear & in_blocks, clear & (wanted > threshold))
    np.testing.assert_array_equal(clear & in_blocks, clear & inside(resized=1 << 30, block=1))


@given(inside=st.integers(1, 2**31), shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), block=st.integers(1, 300))
@settings(deadline=None, max_examples=60)
def test_equal_to_the_threshold_is_outside(inside: int, shape: tuple[int, int], block: int) -> None:
    """Where values do not change, nothing is lost by rounding: a plane at the threshold is empty, one above is full."""
    level = np.float32(np.random.default_rng(inside).normal())
    plane = np.full(shape, level, np.float32)
    below = np.nextafter(level, np.float32(-np.inf), dtype=np.float32)
    window = {"rows": (0, 90), "columns": (0, 70), "scale_y": shape[0] / 90, "scale_x": shape[1] / 70}

    with patch.object(upsampling, "RESIZED_PIXELS", 0), patch.object(upsampling, "BLOCK_PIXELS", block):
        assert not upsampling.above_threshold(plane, float(level), **window).any()  # type: ignore[arg-type]
        assert upsampling.above_threshold(plane, float(below), **window).all()  # type: ignore[arg-type]


def most_bytes(work: Callable[[], object]) -> int:
    """The most memory that arrays and bytes took at a time while something ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _noise() -> MaskLogits:
    return MaskLogits(np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32), 256.0, 256.0)


def test_a_large_mask_takes_little_more_than_itself() -> None:
    """One byte a pixel, and some at low resolution; it was five, and six if the mask had to be cropped."""
    logits = _noise()

    assert most_bytes(lambda: masks.mask_from_logits(logits, height=SIDE, width=SIDE)) < 2 * SIDE * SIDE


def test_a_png_of_a_large_mask_takes_little_memory() -> None:
    """No array of the image's size is needed for it; there were three."""
    mask = masks.mask_from_logits(_noise(), height=SIDE, width=SIDE)
    assert isinstance(mask, Mask)

    def write() -> None:
        for _ in masks.mask_png(mask, is_whole=True):
            pass

    assert most_bytes(write) < SIDE * SIDE / 2
