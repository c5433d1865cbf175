import numpy as np
import pytest
from training.library import Found, Library, write
from training.outlines import pack


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Photos and elliptic cut-outs that are noise, of every kind that scenes ask for by name."""
    folder = tmp_path_factory.mktemp("library")
    rng = np.random.default_rng(0)
    pictures = [
        Found("background", "made-up", "one.jpg", rng.integers(0, 90, (300, 500, 3)).astype(np.uint8)),
        Found("texture", "made-up", "two.png", rng.integers(0, 90, (150, 130, 3)).astype(np.uint8)),
    ]
    regions = np.zeros((30, 50), np.bool_), np.zeros((30, 50), np.bool_)
    regions[0][:15], regions[1][18:, :25] = True, True
    pictures.append(Found("regions", "made-up", "one.jpg", pack(regions)))
    for kind in ("photo", "painting-large", "painting", "clipart"):
        rows, columns = np.ogrid[:120, :80]
        alpha = 255 * (((rows - 60) / 60) ** 2 + ((columns - 40) / 40) ** 2 < 1)
        cut = np.dstack([rng.integers(150, 256, (120, 80, 3)), alpha]).astype(np.uint8)
        pictures.append(Found(kind, "made-up", f"{kind}.png", cut))
    write(pictures, folder)
    return Library.load(folder)
