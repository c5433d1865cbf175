"""Prompts of tools that do not keep them on the photo."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.errors import InvalidPromptError
from osamd.pixels.geometry import check_inside, clipped
from osamd.types import Prompt

HEIGHT, WIDTH = 300, 451
ANYWHERE = st.floats(-2000, 2000, width=32)
ON_IT = st.tuples(st.floats(0, WIDTH, width=32), st.floats(0, HEIGHT, width=32))


def of_points(*points: tuple[float, float]) -> Prompt:
    """A prompt of clicks."""
    return Prompt(points=np.array(points, np.float32), point_labels=np.ones(len(points), np.int64))


def of_box(*corners: float) -> Prompt:
    """A prompt of a box."""
    return Prompt(boxes=np.array([corners], np.float32))


def clip(prompt: Prompt) -> Prompt:
    """As the engine does it."""
    return clipped(prompt, height=HEIGHT, width=WIDTH)


@given(st.lists(ON_IT, min_size=1, max_size=5), ON_IT, ON_IT)
def test_what_is_on_the_photo_stays(
    points: list[tuple[float, float]], first: tuple[float, float], second: tuple[float, float]
) -> None:
    """To the last bit, edges included."""
    corners = np.sort(np.array([first, second], np.float32), axis=0)
    prompt = Prompt(points=np.array(points, np.float32), point_labels=np.ones(len(points), np.int64))
    both = clip(Prompt(points=prompt.points, point_labels=prompt.point_labels, boxes=corners.reshape(1, 4)))

    assert (both.points == prompt.points).all()
    assert (both.boxes == corners.reshape(1, 4)).all()
    assert np.float32 == both.points.dtype == both.boxes.dtype


@given(ANYWHERE, ANYWHERE)
def test_points_nearby_move_to_the_edge_and_others_are_refused(x: float, y: float) -> None:
    """Within a tenth of a side; further ones are kept, so that the refusal says where they were."""
    moved = clip(of_points((x, y)))
    is_near = -WIDTH / 10 <= x <= WIDTH * 1.1 and -HEIGHT / 10 <= y <= HEIGHT * 1.1

    if is_near:
        check_inside(moved, height=HEIGHT, width=WIDTH)
        assert (min(max(np.float32(x), 0), WIDTH), min(max(np.float32(y), 0), HEIGHT)) == tuple(moved.points[0])
    else:
        with pytest.raises(InvalidPromptError, match="outside the image"):
            check_inside(moved, height=HEIGHT, width=WIDTH)


@given(st.tuples(ANYWHERE, ANYWHERE), st.tuples(ANYWHERE, ANYWHERE))
def test_boxes_become_their_part_on_the_photo(first: tuple[float, float], second: tuple[float, float]) -> None:
    """One that does not touch it is refused."""
    (x1, x2), (y1, y2) = (sorted(pair) for pair in zip(first, second, strict=True))
    moved = clip(of_box(x1, y1, x2, y2))

    if x1 <= WIDTH and y1 <= HEIGHT and x2 >= 0 and y2 >= 0:
        check_inside(moved, height=HEIGHT, width=WIDTH)
        expected = np.array([max(x1, 0), max(y1, 0), min(x2, WIDTH), min(y2, HEIGHT)], np.float32)
        assert (moved.boxes[0] == expected).all()
    else:
        with pytest.raises(InvalidPromptError, match="outside the image"):
            check_inside(moved, height=HEIGHT, width=WIDTH)


def test_nothing_else_of_a_prompt_changes() -> None:
    """Texts, thresholds and the field for messages; a prompt without points and boxes stays one."""
    prompt = Prompt(texts=("cat",), score_threshold=0.3, field="prompts[2]")
    moved = clip(prompt)

    assert (("cat",), 0.3, "prompts[2]") == (moved.texts, moved.score_threshold, moved.field)
    assert (0, 2) == moved.points.shape
    assert (0, 4) == moved.boxes.shape
