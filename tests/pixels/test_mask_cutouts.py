"""Objects cut out of their image."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

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


def read(data: memoryview) -> Pixels:
    """RGBA."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
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
