import numpy as np
from training.library import Library
from training.outlines import pack, unpack


def test_pictures_come_back_as_they_were_packed(library: Library) -> None:
    """Each kind's pixels, with their own size and channels."""
    rng = np.random.default_rng(0)

    assert (300, 500, 3) == library.draw("background", rng).shape
    assert library.draw("background", rng).max() < 90
    cut = library.draw("clipart", rng)
    assert (120, 80, 4) == cut.shape
    assert [0, 255, 0] == cut[(0, 60, 119), (0, 40, 79), 3].tolist()
    assert {"background", "regions", "texture", "photo", "painting-large", "painting", "clipart"} == library.kinds()


def test_a_background_comes_with_its_regions(library: Library) -> None:
    """Of each region a bit, in a picture of another size."""
    photo, packed = library.draw_outlined(np.random.default_rng(0))

    bits = unpack(packed)
    assert (300, 500, 3) == photo.shape
    assert (30, 50) == bits.shape
    assert 15 * 50 == (bits & 1 > 0).sum()
    assert 12 * 25 == (bits & 2 > 0).sum()


def test_sixteen_regions_fit() -> None:
    """What is packed comes back, all of it."""
    regions = np.random.default_rng(1).random((16, 9, 7)) > 0.5

    bits = unpack(pack(list(regions)))

    for index, region in enumerate(regions):
        np.testing.assert_array_equal(region, (bits >> index & 1) > 0)
