"""Prompts in the image: checked together, refused one by one."""

import numpy as np
import pytest
from fake_model import FakeModel

from osamd.engine.prompts import placed_prompts
from osamd.errors import InvalidPromptError
from osamd.types import Embedding, Prompt

IMAGE = Embedding(height=50, width=100, features={})


def clicks(*points: tuple[float, float], field: str) -> Prompt:
    """A prompt of foreground clicks."""
    return Prompt(points=np.array(points, np.float32), point_labels=np.ones(len(points), np.int64), field=field)


def boxed(*corners: float, field: str) -> Prompt:
    """A prompt of one box."""
    return Prompt(boxes=np.array([corners], np.float32), field=field)


def test_prompts_inside_are_left_as_they_are() -> None:
    """Not even copied."""
    prompts = (clicks((0, 0), (99.5, 49), field="prompts[0]"), boxed(0, 0, 100, 50, field="prompts[1]"))
    assert placed_prompts(prompts, FakeModel(), IMAGE) is prompts


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (clicks((1, 1), (101, 1), field="prompts[2]"), "prompts[2].points[1]"),
        (boxed(0, 0, 100, 51, field="prompts[2]"), "prompts[2].box"),
    ],
)
def test_the_prompt_that_lies_outside_is_named(wrong: Prompt, field: str) -> None:
    """By its own place, whatever is before it."""
    prompts = (boxed(0, 0, 5, 5, field="prompts[0]"), clicks((3, 4), field="prompts[1]"), wrong)
    with pytest.raises(InvalidPromptError) as caught:
        placed_prompts(prompts, FakeModel(), IMAGE)

    assert field == caught.value.field


def test_only_edges_are_moved() -> None:
    """In whichever prompt they are."""
    first, second = placed_prompts(
        (clicks((5, 5), field="prompts[0]"), clicks((100, 50), field="prompts[1]")), FakeModel(), IMAGE
    )
    assert [[5, 5]] == first.points.tolist()
    assert [[99, 49]] == second.points.tolist()
    assert "prompts[1]" == second.field
