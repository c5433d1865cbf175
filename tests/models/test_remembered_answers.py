from dataclasses import replace

import numpy as np
import pytest

from osamd.models.answers import MOST_REMEMBERED, Answer, Answers
from osamd.pixels.windows import Window
from osamd.types import Embedding, Prompt

# A picture half as large as its image: the window is from 100 to 340 and from 60 to 220 in image pixels.
WINDOW = Window(50, 30, 170, 110, 0.5, 0.5)


def clicks(*points: tuple[float, float, int]) -> Prompt:
    """Clicks as x, y and label."""
    values = np.array(points, np.float32)
    return Prompt(points=values[:, :2], point_labels=values[:, 2].astype(np.int64))


@pytest.fixture
def answer() -> Answer:
    """A mask from 160 to 280 and from 100 to 180 in image pixels; a quarter more is 130 to 310 and 80 to 200."""
    mask = np.zeros((40, 60), np.float16)
    mask[10:30, 15:45] = 0.9
    return Answer(mask, WINDOW)


@pytest.mark.parametrize(
    ("x", "y", "is_extended"),
    [
        (220, 140, False),
        (131, 140, False),
        (128, 140, True),
        (308, 140, False),
        (311, 140, True),
        (220, 81, False),
        (220, 78, True),
        (220, 198, False),
        (220, 201, True),
    ],
)
def test_a_click_beyond_a_quarter_of_the_mask_extends_it(
    answer: Answer, x: float, y: float, *, is_extended: bool
) -> None:
    """On each side; a background click there does not, nor does an earlier click."""
    assert is_extended is answer.is_extended_by(clicks((220, 140, 1), (x, y, 1)))
    assert not answer.is_extended_by(clicks((220, 140, 1), (x, y, 0)))
    assert not answer.is_extended_by(clicks((x, y, 1), (220, 140, 1)))


def test_an_empty_mask_is_extended_by_any_foreground_click(answer: Answer) -> None:
    """There is nothing to stay with."""
    empty = replace(answer, mask=np.zeros((40, 60), np.float16))

    assert empty.is_extended_by(clicks((220, 140, 1)))
    assert not empty.is_extended_by(clicks((220, 140, 0)))


def test_a_mask_of_the_whole_image_is_not_extended(answer: Answer) -> None:
    """It has no window to leave."""
    assert not replace(answer, window=None).is_extended_by(clicks((0, 0, 1)))


def test_the_answer_used_last_is_forgotten_last(answer: Answer) -> None:
    """Previews of a second click at many places leave the first click's answer known."""
    answers, embedding = Answers(), Embedding(height=300, width=400, features={})
    first = clicks((220, 140, 1))
    answers.put(embedding, first, answer)

    for x in range(2 * MOST_REMEMBERED):
        assert answer is answers.get(embedding, first)
        answers.put(embedding, clicks((220, 140, 1), (x, 10, 0)), replace(answer))

    assert answers.get(embedding, clicks((220, 140, 1), (0, 10, 0))) is None
