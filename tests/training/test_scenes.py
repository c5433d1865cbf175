from pathlib import Path

import numpy as np
import pytest
from training.library import Found, Library, write
from training.outlines import pack
from training.scenes import AREA, LEAST_SEEN, Scene, SceneMaker

SIDE = 96


@pytest.fixture
def maker(library: Library) -> SceneMaker:
    """The same scenes each time."""
    return SceneMaker(library, np.random.default_rng(1))


@pytest.fixture(scope="module")
def scenes(library: Library) -> list[Scene]:
    """So many that what is seldom occurs; making them takes longer than all tests."""
    maker = SceneMaker(library, np.random.default_rng(1))
    return [maker.make(SIDE, SIDE) for _ in range(200)]


def test_scenes_hold_what_may_be_asked_for(maker: SceneMaker) -> None:
    """Every target is seen, neither a speck nor nearly everything, and is made of pixels of its own layers."""
    for rows, columns in [(128, 160), (96, 224), (160, 96)] * 6:
        scene = maker.make(rows, columns)

        assert (rows, columns, 3) == scene.image.shape
        assert np.uint8 == scene.image.dtype
        assert scene.targets
        for target in scene.targets:
            assert AREA[0] <= scene.mask(target).mean() <= AREA[1]
            assert 0 < target.weight


def test_a_target_looks_unlike_what_is_behind_it(scenes: list[Scene]) -> None:
    """Cut-outs are bright and backgrounds dark here, and mostly stay so: masks lie where things were pasted."""
    brighter = []
    for scene in scenes:
        behind = scene.image[scene.layers == 0]
        brighter += [
            scene.image[scene.mask(target)].mean() > behind.mean()
            for target in scene.targets
            if target.region is None and len(behind)
        ]

    assert 0.7 < np.mean(brighter)


def test_masks_are_as_round_as_what_was_pasted(scenes: list[Scene]) -> None:
    """Discs leave the corners of their boxes free, and so do most masks: rims and shadows do not count."""
    filled = []
    for scene in scenes:
        for target in scene.targets:
            mask = scene.mask(target)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if target.region is None and rows[0] and columns[0] and rows[-1] < SIDE - 1 and columns[-1] < SIDE - 1:
                filled.append(mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))

    assert 20 < len(filled)
    assert np.median(filled) < 0.85


def test_regions_are_asked_for_where_nothing_covers_them(scenes: list[Scene]) -> None:
    """A region's mask lies in its part of the photo, and off everything that was pasted."""
    seen = 0
    for scene in scenes:
        for target in scene.targets:
            if target.region is not None:
                mask = scene.mask(target)
                assert not (mask & (scene.layers > 0)).any()
                assert (scene.regions[mask] >> target.region & 1).all()
                seen += 1

    assert 10 < seen


def test_some_targets_are_parts_of_others_and_some_are_groups(scenes: list[Scene]) -> None:
    """What makes a click ambiguous does occur: a part inside its whole, and two things as one."""
    layers = [[target.layers for target in scene.targets if target.region is None] for scene in scenes]

    # What is left of a whole without its part is no target; of a group both are.
    parts = sum(
        any(one < other and other - one not in of_one for one in of_one for other in of_one) for of_one in layers
    )
    groups = sum(
        any(one | other in of_one for one in of_one for other in of_one if not one & other) for of_one in layers
    )

    assert 20 < parts
    assert 10 < groups


def test_the_same_seed_makes_the_same_scenes(library: Library) -> None:
    """A training can be repeated."""
    one, other = (SceneMaker(library, np.random.default_rng(5)) for _ in range(2))

    for _ in range(4):
        first, second = one.make(96, 96), other.make(96, 96)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.layers, second.layers)
        assert first.targets == second.targets


def test_objects_of_photos_are_asked_for(tmp_path: Path) -> None:
    """In every second scene, on a piece of their photo, unless what stands before them hides too much."""
    photo = np.zeros((200, 300, 3), np.uint8)
    outline = np.zeros((200, 300), np.bool_)
    outline[40:160, 60:200] = True
    photo[outline] = 255
    alpha = np.full((60, 60, 4), 128, np.uint8)
    pictures = [Found("scene", "made-up", "a", photo), Found("objects", "made-up", "a", pack([outline]))]
    pictures += [Found(kind, "made-up", "b", photo // 3) for kind in ("background", "texture")]
    pictures += [Found(kind, "made-up", "c", alpha) for kind in ("photo", "painting-large", "painting", "clipart")]
    write(pictures, tmp_path)
    maker = SceneMaker(Library.load(tmp_path), np.random.default_rng(3))

    seen = []
    for _ in range(40):
        scene = maker.make(SIDE, SIDE)
        for target in scene.targets:
            if target.kind == "object":
                mask = scene.mask(target)
                assert mask.sum() >= LEAST_SEEN * (scene.regions & 1).sum()
                seen.append(scene.image[mask].mean() - scene.image[(scene.layers == 0) & ~mask].mean())

    assert 10 < len(seen) < 35
    assert np.median(seen) > 100
