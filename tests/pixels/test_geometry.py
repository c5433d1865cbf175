import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.errors import InvalidPromptError
from osamd.pixels.geometry import check_inside, onto_pixels, to_fractions, working_size
from osamd.types import Prompt

sides = st.integers(1, 20_000)


def point_at(x: float, y: float) -> Prompt:
    """A prompt of one click."""
    return Prompt(points=np.array([[x, y]], np.float32), point_labels=np.array([1], np.int64))


def box_at(*corners: float) -> Prompt:
    """A prompt of one box."""
    return Prompt(boxes=np.array([corners], np.float32))


@given(height=sides, width=sides)
def test_working_size_is_bounded_for_every_image(height: int, width: int) -> None:
    """Both sides are multiples, at least two of them, and no image asks for much more than the area."""
    rows, columns = working_size(height, width, area=320 * 320, multiple=32)

    assert (0, 0) == (rows % 32, columns % 32)
    assert 64 <= min(rows, columns)
    assert rows * columns <= 1.35 * 320 * 320


@given(height=st.integers(100, 5000), ratio=st.floats(0.25, 4.0))
def test_working_size_keeps_the_aspect_ratio(height: int, ratio: float) -> None:
    """Ordinary pictures keep their shape to within the rounding of each side to a multiple."""
    width = max(1, round(height * ratio))
    rows, columns = working_size(height, width, area=320 * 320, multiple=32)
    exact_rows = math.sqrt(320 * 320 * height / width)
    exact_columns = math.sqrt(320 * 320 * width / height)

    assert abs(rows - exact_rows) <= 16
    assert abs(columns - exact_columns) <= 16


def test_working_size_of_a_square_is_the_square() -> None:
    """A square picture of any size is worked on at the square root of the area."""
    assert (320, 320) == working_size(7, 7, area=320 * 320, multiple=32)
    assert (320, 320) == working_size(9000, 9000, area=320 * 320, multiple=32)


def test_fractions_of_pixel_centres() -> None:
    """The first pixel's centre is half a pixel in, the last one's half a pixel from the end; x goes with width."""
    points = np.array([[0, 0], [199, 99], [99.5, 49.5]], np.float32)

    fractions = to_fractions(points, height=100, width=200)

    np.testing.assert_allclose([[0.0025, 0.005], [0.9975, 0.995], [0.5, 0.5]], fractions, rtol=1e-6)
    assert np.float32 == fractions.dtype


def test_fractions_of_no_points() -> None:
    """No clicks stay no clicks."""
    assert (0, 2) == to_fractions(np.zeros((0, 2), np.float32), height=3, width=4).shape


@given(data=st.data(), height=sides, width=sides)
def test_every_pixel_of_the_image_may_be_clicked_and_boxed(data: st.DataObject, height: int, width: int) -> None:
    """Whole-pixel clicks and boxes within the image pass, the corners and the far edges included."""
    x = data.draw(st.sampled_from([0, width - 1]) | st.integers(0, width - 1))
    y = data.draw(st.sampled_from([0, height - 1]) | st.integers(0, height - 1))

    check_inside(point_at(x, y), height=height, width=width)
    check_inside(point_at(width, height), height=height, width=width)
    check_inside(box_at(x, y, width - 1, height - 1), height=height, width=width)
    check_inside(box_at(0, 0, width, height), height=height, width=width)


@pytest.mark.parametrize(
    ("x", "y"), [(-1, 5), (5, -0.01), (100.01, 5), (5, 51), (1e9, 5), (math.nan, 5), (5, math.nan), (math.inf, 5)]
)
def test_points_outside_are_refused(x: float, y: float) -> None:
    """The message names the point and the size, the field names the point's place in the list."""
    prompt = Prompt(points=np.array([[5, 5], [x, y]], np.float32), point_labels=np.array([1, 0], np.int64))

    with pytest.raises(InvalidPromptError, match="outside the image, which is 100 x 50 pixels") as caught:
        check_inside(prompt, height=50, width=100)

    assert "prompt.points[1]" == caught.value.field
    assert f"({x:g}," in str(caught.value).replace("inf", f"{x:g}")


@pytest.mark.parametrize(
    "corners", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 101, 5), (0, 0, 5, 51), (math.nan, 0, 5, 5), (0, 0, math.inf, 5)]
)
def test_boxes_outside_are_refused(corners: tuple[float, ...]) -> None:
    """A box that leaves the image, or is not of numbers, is refused with the image's size."""
    with pytest.raises(InvalidPromptError, match="outside the image, which is 100 x 50 pixels") as caught:
        check_inside(replace(box_at(*corners), field="prompts[3]"), height=50, width=100)

    assert "prompts[3].box" == caught.value.field


@pytest.mark.parametrize("corners", [(9, 0, 5, 5), (0, 9, 5, 5)])
def test_boxes_turned_inside_out_are_refused(corners: tuple[float, ...]) -> None:
    """Swapped corners have another message than boxes outside the image."""
    with pytest.raises(InvalidPromptError, match=re.escape("swapped corners: expected x1 <= x2")):
        check_inside(box_at(*corners), height=50, width=100)


def test_one_of_several_boxes_is_named() -> None:
    """Of several boxes the one at fault is named by its index."""
    boxes = np.array([[0, 0, 5, 5], [0, 0, 500, 5]], np.float32)

    with pytest.raises(InvalidPromptError) as caught:
        check_inside(Prompt(boxes=boxes), height=50, width=100)

    assert "prompt.boxes[1]" == caught.value.field


def test_points_on_the_far_edges_are_of_the_last_pixels() -> None:
    """Others stay where they are."""
    points = np.array([[100, 50], [100, 3.5], [99.5, 50], [0, 0]], np.float32)

    moved = onto_pixels(points, height=50, width=100)
    np.testing.assert_array_equal([[99, 49], [99, 3.5], [99.5, 49], [0, 0]], moved)
    assert np.float32 == moved.dtype
    assert onto_pixels(moved, height=50, width=100) is moved
