import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from training.prompts import BACKGROUND, FOREGROUND, MOST_CLICKS, Click, correct, first_prompt, packed

ROWS, COLUMNS = 24, 36


def half(*, top: int, left: int, bottom: int, right: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """A rectangle."""
    mask = np.zeros((ROWS, COLUMNS), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def cell(click: Click) -> tuple[int, int]:
    """Row and column that a click lies in."""
    return int(click[1] * ROWS), int(click[0] * COLUMNS)


@given(seed=st.integers(0, 10_000), top=st.integers(0, 10), left=st.integers(0, 20))
def test_first_prompt_is_on_the_target(seed: int, top: int, left: int) -> None:
    """Foreground clicks lie on the object, background clicks beside it, and the box is within a tenth of it."""
    mask = half(top=top, left=left, bottom=top + 9, right=left + 12)

    clicks, box = first_prompt(mask, np.random.default_rng(seed))

    assert clicks or box.any()
    for click in clicks:
        assert (FOREGROUND if mask[cell(click)] else BACKGROUND) == click[2]
    if box.any():
        rows, columns = np.nonzero(box)
        assert abs(rows.min() - top) <= 1
        assert abs(columns.max() - (left + 11)) <= 1


@given(seed=st.integers(0, 10_000))
def test_corrections_lie_where_the_answer_is_wrong(seed: int) -> None:
    """On what is missing as foreground, on what is too much as background; and never too many."""
    truth = half(top=4, left=4, bottom=16, right=20)
    found = half(top=4, left=10, bottom=16, right=30)
    clicks: list[Click] = [(0.5, 0.5, FOREGROUND)]

    more = correct(truth, found, clicks, np.random.default_rng(seed))

    assert clicks == more[:1]
    assert 1 < len(more) <= 4
    for click in more[1:]:
        assert truth[cell(click)] != found[cell(click)]
        assert (FOREGROUND if truth[cell(click)] else BACKGROUND) == click[2]
    full = [(0.5, 0.5, FOREGROUND)] * MOST_CLICKS
    assert full == correct(truth, found, full, np.random.default_rng(seed))


def test_clicks_are_padded_to_one_length() -> None:
    """A row without clicks is padding alone."""
    values = packed([[(0.25, 0.5, 1), (0.5, 0.5, 0)], []])

    assert (2, 2, 3) == values.shape
    assert [[0.25, 0.5, 1.0], [0.5, 0.5, 0.0]] == values[0].tolist()
    assert [-1.0, -1.0] == values[1, :, 2].tolist()


def test_the_largest_region_is_corrected_however_many_specks_there_are() -> None:
    """Eighty specks come first in the picture; the click goes where most is wrong."""
    truth = np.zeros((60, 60), np.bool_)
    truth[:20:2, ::6] = True
    truth[40:, 10:50] = True

    for seed in range(10):
        more = correct(truth, np.zeros_like(truth), [], np.random.default_rng(seed))
        assert 40 <= int(more[0][1] * 60)
