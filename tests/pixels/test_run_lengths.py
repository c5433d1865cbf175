"""COCO's run lengths, against pycocotools."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from osamd.pixels import run_lengths
from osamd.pixels.masks import mask_from_array
from osamd.pixels.run_lengths import covered_pixels, encode_rle
from osamd.types import Mask

Bools = npt.NDArray[np.bool_]

# pycocotools 2.0.11 predates numpy 2's __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def placed(inside: Bools, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Mask | None:
    """The mask with margins around it; None if it is empty."""
    height, width = inside.shape
    return mask_from_array(inside, offset=(left, top), height=top + height + bottom, width=left + width + right)


def ours(mask: Mask, *, is_whole: bool) -> str:
    """The counts of a mask."""
    return b"".join(encode_rle(mask, is_whole=is_whole)).decode("ascii")


def theirs(inside: npt.NDArray[np.bool_]) -> str:
    """The counts by pycocotools."""
    counts: bytes = coco.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"]
    return counts.decode("ascii")


def at_image_size(mask: Mask) -> Bools:
    """The mask on its image."""
    canvas = np.zeros((mask.height, mask.width), np.bool_)
    box = mask.box
    canvas[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = mask.inside
    return canvas


def assert_same(mask: Mask) -> None:
    """Equal to pycocotools' to the byte, at both sizes."""
    assert theirs(at_image_size(mask)) == ours(mask, is_whole=True)
    assert theirs(mask.inside) == ours(mask, is_whole=False)


margin = st.integers(0, 3)


@settings(deadline=None, max_examples=150)
@example(inside=np.eye(1, dtype=np.bool_), margins=(0, 0, 0, 0), block=1)
@example(inside=np.ones((3, 5), np.bool_), margins=(0, 0, 0, 0), block=1)
@example(inside=np.ones((1, 7), np.bool_), margins=(2, 0, 0, 0), block=3)
@given(
    inside=hnp.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    margins=st.tuples(margin, margin, margin, margin),
    block=st.sampled_from([1, 3, 17, 1 << 20]),
)
def test_run_lengths_are_pycocotools_own(inside: Bools, margins: tuple[int, int, int, int], block: int) -> None:
    """Equal to the byte, wherever the mask is in its image and wherever it is divided."""
    left, top, right, bottom = margins
    mask = placed(inside, left=left, top=top, right=right, bottom=bottom)
    if mask is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lengths, "BLOCK_PIXELS", block)
        patch.setattr(run_lengths, "BLOCK_COUNTS", block)
        assert_same(mask)


@pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_000, 1), (1200, 1800), (1025, 1023)])
@pytest.mark.parametrize("density", [1.0, 0.5, 1e-6])
def test_large_masks(shape: tuple[int, int], density: float) -> None:
    """Full, noisy and almost empty masks of several blocks, with counts of up to five characters."""
    inside = np.random.default_rng(3).random(shape) < density
    # The first pixel is set, so that the first count is zero.
    inside[0, 0] = inside[-1, -1] = True
    mask = placed(inside, top=2, right=5)
    assert mask is not None

    assert_same(mask)


def test_the_first_run_counts_zeros_down_the_first_column() -> None:
    """COCO's order."""
    mask = placed(np.ones((2, 1), np.bool_), right=2)
    assert mask is not None

    expected = coco.frPyObjects({"size": [2, 3], "counts": [0, 2, 4]}, 2, 3)["counts"].decode()
    assert expected == ours(mask, is_whole=True)


def test_counts_decode_back() -> None:
    """They can be read by pycocotools."""
    inside = np.random.default_rng(4).random((50, 70)) < 0.3
    mask = placed(inside, left=3, top=4, right=5, bottom=6)
    assert mask is not None
    decoded = coco.decode({"size": [60, 78], "counts": ours(mask, is_whole=True)})

    np.testing.assert_array_equal(at_image_size(mask), decoded.astype(np.bool_))


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40))
@example([0, 5, 3])
@example([2**31 - 1])
def test_run_lengths_cover_their_sum(counts: list[int]) -> None:
    """Written by pycocotools, in whichever size."""
    height = sum(counts)
    compressed = coco.frPyObjects({"counts": counts, "size": [height, 1]}, height, 1)["counts"]
    assert height == covered_pixels(compressed)


@pytest.mark.parametrize("counts", [b"", b"\n", b"\xff", b"P", b"oooooooo0", b"P" * 40 + b"0", b"05O"])
def test_what_is_no_run_lengths_is_refused(counts: bytes) -> None:
    """Nothing, other characters, a number that goes on or is too large, a negative run."""
    with pytest.raises(ValueError, match="run length"):
        covered_pixels(counts)
