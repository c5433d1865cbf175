"""Objects cut out of their image."""

import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from osamd.pixels import cutouts
from osamd.pixels.cutouts import cut_out
from osamd.pixels.masks import mask_from_array
from osamd.types import Mask

HEIGHT, WIDTH = 30, 40
Pixels = npt.NDArray[np.uint8]


def photo() -> Pixels:
    """Another colour everywhere."""
    return np.random.default_rng(5).integers(1, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def mask(x: int, y: int) -> Mask:
    """A ring of 7 x 5 pixels with a hole."""
    inside = np.ones((5, 7), np.bool_)
    inside[2, 2:5] = False
    found = mask_from_array(inside, offset=(x, y), height=HEIGHT, width=WIDTH)
    assert found is not None
    return found


def read(pieces: Iterable[bytes]) -> Pixels:
    """RGBA."""
    with Image.open(io.BytesIO(b"".join(pieces)), formats=["PNG"]) as image:
        assert "RGBA" == image.mode
        return np.asarray(image)


def expected(masks: list[Mask]) -> Pixels:
    """At the image's size."""
    canvas = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    for one in masks:
        rows, columns = np.nonzero(one.inside)
        rows, columns = rows + one.box.ymin, columns + one.box.xmin
        canvas[rows, columns, :3] = photo()[rows, columns]
        canvas[rows, columns, 3] = 255
    return canvas


def test_as_large_as_the_image_or_as_the_masks() -> None:
    """Its own colours where a mask is; black and transparent elsewhere."""
    masks = [mask(3, 4), mask(20, 22), mask(6, 6)]

    np.testing.assert_array_equal(expected(masks), read(cut_out(photo(), masks, is_whole=True)))
    np.testing.assert_array_equal(expected(masks)[4:27, 3:27], read(cut_out(photo(), masks, is_whole=False)))


def test_nothing_to_cut_out() -> None:
    """All of the image is transparent."""
    for is_whole in (True, False):
        assert not read(cut_out(photo(), [], is_whole=is_whole)).any()


@pytest.mark.parametrize("block", [1, 300, 1 << 20])
@pytest.mark.parametrize("width", [1, 2, 40])
def test_png_of_any_size_and_in_any_blocks(width: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a row or more, and rows of a single pixel, which has no neighbour on the left."""
    monkeypatch.setattr(cutouts, "BLOCK_BYTES", block)
    pixels = np.random.default_rng(6).integers(0, 256, (9, width, 3)).astype(np.uint8)
    everywhere = mask_from_array(np.ones((9, width), np.bool_), offset=(0, 0), height=9, width=width)
    assert everywhere is not None

    seen = read(cut_out(pixels, [everywhere], is_whole=True))

    np.testing.assert_array_equal(pixels, seen[:, :, :3])
    assert (seen[:, :, 3] == 255).all()
