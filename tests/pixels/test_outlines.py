"""Polygons without holes, simplified by a share of their length."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pictures import Inside, iou

from osamd.pixels.masks import mask_from_array
from osamd.pixels.outlines import MOST, outlines
from osamd.types import IntArray

HEIGHT, WIDTH = 240, 320


def outlined(inside: Inside, factor: float = 0.001) -> tuple[IntArray, ...]:
    """The outlines of a picture."""
    mask = mask_from_array(inside, offset=(0, 0), height=inside.shape[0], width=inside.shape[1])
    assert mask is not None
    return outlines(mask, factor=factor)


def filled(rings: tuple[IntArray, ...]) -> Inside:
    """What polygons cover."""
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    for ring in rings:
        cv2.fillPoly(canvas, [ring.astype(np.int32)], 1)
    return canvas > 0


def disc(x: int, y: int, radius: int) -> Inside:
    """A disc."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_hole_stays_a_hole() -> None:
    """Through a seam; the first vertex occurs once, since tools take it for the end of a polygon."""
    ring = disc(150, 120, 100) & ~disc(140, 110, 40) & ~disc(190, 150, 25)
    (outline,) = outlined(ring)

    assert iou(ring, filled((outline,))) > 0.99
    assert not filled((outline,))[110, 140]
    assert (outline == outline[0]).all(axis=1).sum() == 1


def test_specks_are_left_out_and_parts_are_not() -> None:
    """The largest first."""
    mask = disc(100, 120, 80) | disc(280, 60, 10)
    mask[5, 5] = mask[5:7, 20:22] = True
    mask[120, 100] = False
    first, second = outlined(mask)

    assert first[:, 0].min() == 20
    assert second[:, 0].min() == 270


def test_ragged_outlines_are_not_simplified_by_their_length() -> None:
    """A comb is long, not large."""
    comb = np.zeros((HEIGHT, WIDTH), bool)
    comb[200:220, 10:310] = True
    comb[20:200, 10:310:6] = True
    comb[20:200, 11:310:6] = True
    comb[20:200, 12:310:6] = True

    assert iou(comb, filled(outlined(comb))) > 0.99


def test_noise_has_few_parts() -> None:
    """Nobody can edit more."""
    noise = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(0, HEIGHT - 3, 6):
        for column in range(0, WIDTH - 3, 6):
            noise[row : row + 3, column : column + 3] = True

    assert len(outlined(noise)) == MOST


def test_what_has_no_area_has_no_outline() -> None:
    """A pixel and a line."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3, 4] = True
    assert outlined(mask) == ()
    mask[3, 4:60] = True
    assert outlined(mask) == ()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.0, 1.0))
def test_outlines_lie_in_the_image(seed: int, height: int, width: int, factor: float) -> None:
    """Whatever the mask and the factor."""
    drawn = np.random.default_rng(seed).random((height, width)) < 0.6
    drawn[0, 0] = True
    for outline in outlined(drawn, factor):
        assert len(outline) >= 3
        assert outline.min() >= 0
        assert (outline.max(axis=0) < (width, height)).all()
