from pathlib import Path

import numpy as np
import pytest
from training.library import Found, Library, write
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
    photo, packed = library.draw_outlined("regions", np.random.default_rng(0))

    bits = unpack(packed)
    assert (300, 500, 3) == photo.shape
    assert (30, 50) == bits.shape
    assert 15 * 50 == (bits & 1 > 0).sum()
    assert 12 * 25 == (bits & 2 > 0).sum()


def test_photos_with_more_objects_are_drawn_more_often(tmp_path: Path) -> None:
    """In proportion to their objects, of which up to four count."""
    objects = np.zeros((9, 3, 4), bool)
    objects[:, 1, 2] = True
    found = []
    for name, count in (("one", 1), ("three", 3), ("nine", 9)):
        found.append(Found("scene", "made-up", name, np.full((1, 1, 3), count, np.uint8)))
        found.append(Found("objects", "made-up", name, pack(list(objects[:count]))))
    write(found, tmp_path)
    library, rng = Library.load(tmp_path), np.random.default_rng(0)

    drawn = [int(library.draw_outlined("objects", rng)[0][0, 0, 0]) for _ in range(800)]

    assert [100, 300, 400] == pytest.approx([drawn.count(count) for count in (1, 3, 9)], abs=50)


def test_sixteen_regions_fit() -> None:
    """What is packed comes back, all of it."""
    regions = np.random.default_rng(1).random((16, 9, 7)) > 0.5

    bits = unpack(pack(list(regions)))

    for index, region in enumerate(regions):
        np.testing.assert_array_equal(region, (bits >> index & 1) > 0)


def test_a_twentieth_is_kept_for_validation(tmp_path: Path) -> None:
    """Decided by package and name alone; regions go with their background, skin tones and sides with their like."""
    pixels = np.zeros((1, 1, 3), np.uint8)
    names = [f"picture-{number}" for number in range(1000)]
    pictures = [Found(kind, "made-up", name, pixels) for kind in ("background", "regions") for name in names]
    pictures += [
        Found("emoji", "made-up", f"{name}{variant}", pixels) for name in names for variant in ("-1f3fb", "#2")
    ]
    write(pictures, tmp_path)

    learned, kept = Library.load(tmp_path), Library.load(tmp_path, held_back=True)

    assert len(pictures) == len(learned.pictures) + len(kept.pictures)
    kept_names = {picture.name for picture in kept.pictures if picture.kind == "background"}
    assert 25 <= len(kept_names) <= 75
    assert {picture.name for picture in kept.pictures if picture.kind == "regions"} == kept_names
    assert {picture.name for picture in kept.pictures if picture.kind == "emoji"} == {
        f"{name}{variant}" for name in kept_names for variant in ("-1f3fb", "#2")
    }
