"""Masks smoothed, without holes and without islands; polygons with fewer vertices."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osamd.pixels.cleaning import clean
from osamd.pixels.masks import full_array, mask_from_array, polygons
from osamd.types import Cleaning, Mask

HEIGHT, WIDTH = 60, 80
Inside = npt.NDArray[np.bool_]


def mask_of(inside: Inside) -> Mask:
    """A mask of a whole image."""
    mask = mask_from_array(inside, offset=(0, 0), height=inside.shape[0], width=inside.shape[1])
    assert mask is not None
    return mask


def cleaned(inside: Inside, **how: float) -> Inside:
    """What cleaning makes of it, at the image's size; the box fits the mask."""
    mask = clean(mask_of(inside), Cleaning(**how))
    whole = full_array(mask) > 0
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    assert (mask.box.ymin, mask.box.ymax) == (rows[0], rows[-1])
    assert (mask.box.xmin, mask.box.xmax) == (columns[0], columns[-1])
    return whole


def square() -> Inside:
    """40 x 40, with holes of 1 and 12 pixels and, beside it, islands of 1 and 9."""
    inside = np.zeros((HEIGHT, WIDTH), np.bool_)
    inside[10:50, 10:50] = True
    inside[20, 20] = False
    inside[30:33, 30:34] = False
    inside[5, 70] = True
    inside[20:23, 60:63] = True
    return inside


def noise(seed: int, share: float, shape: tuple[int, int] = (24, 31)) -> Inside:
    """Every shape that pixels can have."""
    inside: Inside = np.random.default_rng(seed).random(shape) < share
    inside[0, 0] = True
    return inside


def test_default_cleaning_changes_nothing() -> None:
    """Then the very same mask comes back."""
    mask = mask_of(square())

    assert clean(mask, Cleaning()) is mask
    assert clean(mask, Cleaning(simplify=5)) is mask


@pytest.mark.parametrize(("most", "left"), [(0.5, 13), (1, 12), (11, 12), (12, 0), (1e9, 0)])
def test_holes_up_to_a_size_are_filled(most: float, left: int) -> None:
    """Counted in pixels; the outline stays."""
    filled = cleaned(square(), fill_holes=most)

    assert left == 40 * 40 - filled[10:50, 10:50].sum()
    np.testing.assert_array_equal(square()[:, 50:], filled[:, 50:])


@pytest.mark.parametrize(("most", "left"), [(0.5, 10), (1, 9), (8, 9), (9, 0), (1e9, 0)])
def test_islands_up_to_a_size_are_dropped(most: float, left: int) -> None:
    """The largest part is always kept, with its holes."""
    dropped = cleaned(square(), drop_islands=most)

    assert left == dropped[:, 50:].sum()
    np.testing.assert_array_equal(square()[:, :50], dropped[:, :50])


def test_parts_are_drawn_with_their_own_outlines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV reads all that it is given for each part; thousands of specks took half a minute."""
    given: list[int] = []
    draw = cv2.drawContours

    def counted(canvas: Any, contours: Any, *rest: Any) -> Any:
        given.append(len(contours))
        return draw(canvas, contours, *rest)

    monkeypatch.setattr("osamd.pixels.cleaning.cv2.drawContours", counted)
    inside = np.zeros((90, 90), np.bool_)
    inside[::3, ::3] = True
    inside[1::9, ::3] = inside[2::9, ::3] = True
    ring = inside.copy()
    ring[30:60, 30:60] = True
    ring[40:50, 40:50] = False
    cleaned(ring, drop_islands=1)
    assert sum(given) < 400
    assert 2 == max(given)


def test_an_island_in_a_hole() -> None:
    """It is a part of its own for dropping; for filling, a hole is as large as all that lies in it."""
    inside = np.ones((30, 30), np.bool_)
    inside[5:15, 5:15] = False
    inside[8:10, 8:10] = True

    assert 900 - 100 == cleaned(inside, drop_islands=4).sum()
    assert 900 - 96 == cleaned(inside, fill_holes=99).sum()
    assert 900 == cleaned(inside, fill_holes=100).sum()


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 10**6), share=st.floats(0.2, 0.9), most=st.integers(1, 40))
def test_areas_are_those_that_labels_have(seed: int, share: float, most: int) -> None:
    """Counting along outlines gives what OpenCV's labels give, for every shape."""
    inside = noise(seed, share)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = [label for label in range(1, count) if areas[label - 1] > most]

    dropped = cleaned(inside, drop_islands=most)

    if kept:
        np.testing.assert_array_equal(np.isin(labels, kept), dropped)
    else:
        assert areas.max() == dropped.sum()


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 10**6), share=st.floats(0.4, 0.95), most=st.integers(1, 40))
def test_filled_holes_are_those_that_labels_have(seed: int, share: float, most: int) -> None:
    """A hole is what the outside does not reach; it is as large as everything within its rim."""
    inside = noise(seed, share)
    outside = cv2.copyMakeBorder((~inside).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    count, labels = cv2.connectedComponents(outside, connectivity=4)
    expected = inside.copy()
    for label in range(1, count):
        hole = (labels == label)[1:-1, 1:-1]
        if label == labels[0, 0]:
            continue
        # Everything that the hole cuts off from the outside.
        _, around = cv2.connectedComponents((labels != label).astype(np.uint8), connectivity=8)
        enclosed = (around != around[0, 0])[1:-1, 1:-1]
        if enclosed.sum() <= most:
            expected |= hole | enclosed

    np.testing.assert_array_equal(expected, cleaned(inside, fill_holes=most))


def test_smoothing_removes_what_is_thin() -> None:
    """Spikes go, straight edges stay where they are, and bays are filled."""
    inside = np.zeros((HEIGHT, WIDTH), np.bool_)
    inside[10:50, 10:50] = True
    inside[30, 50:70] = True
    inside[20, 40:50] = False

    smooth = cleaned(inside, smooth=3)

    assert not smooth[:, 51:].any()
    assert smooth[20, 40:45].all()
    np.testing.assert_array_equal(np.ones(15, np.bool_), smooth[25:40, 10])
    assert not smooth[25:40, 9].any()


def test_smoothing_at_the_images_border() -> None:
    """The object goes on there: its corners at the border are not rounded."""
    inside = np.zeros((HEIGHT, WIDTH), np.bool_)
    inside[:30] = True

    np.testing.assert_array_equal(inside, cleaned(inside, smooth=5))


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.95), smooth=st.floats(0.1, 50))
def test_a_mask_never_vanishes_and_never_grows(seed: int, share: float, smooth: float) -> None:
    """With any settings, a non-empty mask is left within its box."""
    inside = noise(seed, share)
    before = mask_of(inside).box

    after = clean(mask_of(inside), Cleaning(smooth=smooth, fill_holes=5, drop_islands=10**9)).box

    assert before.xmin <= after.xmin <= after.xmax <= before.xmax
    assert before.ymin <= after.ymin <= after.ymax <= before.ymax


def disc(radius: int = 25) -> Inside:
    """A round mask with a round hole and an island of 2 x 2."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    inside: Inside = ((x - 30) ** 2 + (y - 30) ** 2 <= radius**2) & ((x - 30) ** 2 + (y - 30) ** 2 > 36)
    inside[50:52, 70:72] = True
    return inside


def filled(mask: Mask, tolerance: float) -> Inside:
    """The polygons' pixels."""
    canvas = np.zeros((mask.height, mask.width), np.uint8)
    for part in polygons(mask, tolerance=tolerance):
        rings = [np.array(ring, np.int32) for ring in (part.exterior, *part.holes)]
        cv2.fillPoly(canvas, rings, 1)
    return canvas > 0


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0, 4.0])
def test_simplified_polygons_stay_within_the_tolerance(tolerance: float) -> None:
    """There are far fewer vertices, all of them on the outline, which is nowhere further off."""
    mask = mask_of(disc())
    exact, simple = polygons(mask)[0], polygons(mask, tolerance=tolerance)[0]

    assert set(map(tuple, simple.exterior.tolist())) <= set(map(tuple, exact.exterior.tolist()))
    assert len(simple.exterior) < len(exact.exterior) / 2
    ring = np.array(simple.exterior, np.float32)
    assert (
        max(abs(cv2.pointPolygonTest(ring, (float(x), float(y)), measureDist=True)) for x, y in exact.exterior)
        <= tolerance + 1e-3
    )
    overlap = (filled(mask, tolerance) & filled(mask, 0)).sum() / (filled(mask, tolerance) | filled(mask, 0)).sum()
    assert overlap > 1 - tolerance / 10


def test_parts_without_area_are_dropped() -> None:
    """Small parts and holes go; the largest part stays, exact if need be."""
    parts = polygons(mask_of(disc()), tolerance=8)
    assert 1 == len(parts)
    assert () == parts[0].holes
    assert len(parts[0].exterior) >= 3

    pixel = mask_of(np.eye(1, dtype=np.bool_))
    assert polygons(pixel)[0].exterior.tolist() == polygons(pixel, tolerance=5)[0].exterior.tolist()


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 0.9), tolerance=st.floats(0.1, 20))
def test_simplified_rings_are_polygons(seed: int, share: float, tolerance: float) -> None:
    """Each ring but the largest part's has three vertices, and there is always a part."""
    parts = polygons(mask_of(noise(seed, share)), tolerance=tolerance)

    assert parts
    assert all(len(part.exterior) >= 3 for part in parts[1:])
    assert all(len(hole) >= 3 for part in parts for hole in part.holes)
