import numpy as np
from training.library import Library


def test_pictures_come_back_as_they_were_packed(library: Library) -> None:
    """Each kind's pixels, with their own size and channels."""
    rng = np.random.default_rng(0)

    assert (300, 500, 3) == library.draw("background", rng).shape
    assert library.draw("background", rng).max() < 90
    cut = library.draw("clipart", rng)
    assert (120, 80, 4) == cut.shape
    assert 600 == (cut[..., 3] == 0).sum()
    assert {"background", "texture", "photo", "painting-large", "painting", "clipart"} == library.kinds()
