"""What osam takes and a stricter server would not: its clients work as they are."""

from typing import Any

import httpx2
import numpy as np
import pytest
from asking import BOX, CLICK, GENERATE, ask, click, only_mask, refusal
from pictures import base64_of

X1, Y1, X2, Y2 = BOX


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": [["225", "150"]], "point_labels": ["1"]},
        {"points": [["225.0", " 150"]], "point_labels": [True]},
        {"points": [[225, 150]], "point_labels": [1.0], "max_annotations": "100", "score_threshold": "0.1"},
    ],
)
def test_numbers_may_be_texts_and_labels_may_be_true(
    client: httpx2.Client, photo: bytes, clicked: dict[str, Any], prompt: dict[str, Any]
) -> None:
    """There they go to NumPy, which reads both."""
    assert np.array_equal(only_mask(clicked), only_mask(ask(client, photo, prompt=prompt)))


def test_false_is_a_background_click(client: httpx2.Client, photo: bytes) -> None:
    """As 0 is."""
    points = [CLICK, [5, 5]]
    expected, found = (
        only_mask(ask(client, photo, prompt={"points": points, "point_labels": labels}))
        for labels in ([1, 0], [True, False])
    )
    assert np.array_equal(expected, found)


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": [X2, Y2, X1, Y1]},
        {"box": [X1, Y2, X2, Y1]},
        {"points": [[X2, Y2], [X1, Y1]], "point_labels": [2, 3]},
        {"points": [[X2, Y1], [X1, Y2]], "point_labels": [2, 3]},
    ],
)
def test_corners_come_in_any_order(client: httpx2.Client, photo: bytes, prompt: dict[str, Any]) -> None:
    """As a mouse is dragged."""
    expected = only_mask(ask(client, photo, prompt={"box": BOX}))
    assert np.array_equal(expected, only_mask(ask(client, photo, prompt=prompt)))


@pytest.mark.parametrize(
    ("edge", "pixel"), [([451, 150], [450, 150]), ([225, 300], [225, 299]), ([451, 300], [450, 299])]
)
def test_the_far_edges_are_of_the_last_pixels(
    client: httpx2.Client, photo: bytes, edge: list[int], pixel: list[int]
) -> None:
    """A click at x = width is one on the last column; a box may end there, too."""
    expected, found = (ask(client, photo, prompt=click(point))["annotations"] for point in (pixel, edge))
    for annotation in (*expected, *found):
        annotation.pop("mask_id")
    assert expected == found
    ask(client, photo, prompt={"box": [0, 0, 451, 300]})


def test_unknown_fields_are_refused(client: httpx2.Client, photo: bytes) -> None:
    """Where osam ignores them, a misspelt prompt does not become a click in the middle."""
    problem = refusal(client.post(GENERATE, json={"image": base64_of(photo), "promt": click(CLICK)}))
    assert (problem["status"], problem["field"]) == (422, "promt")
