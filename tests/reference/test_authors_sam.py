from typing import Any

import numpy as np
import pytest
from asking import ask, only_mask
from peer import is_telling, overlap
from serving import RunningServer

pytestmark = [
    pytest.mark.reference,
    # PyTorch's exporter warns of its own age, and of shapes that the authors fix on purpose.
    pytest.mark.filterwarnings("ignore"),
]
LEAST = 0.99
CLICKS = {
    "a click": [(225, 150, 1)],
    "another click": [(60, 40, 1)],
    "two clicks": [(225, 150, 1), (130, 90, 1)],
    "clicks beside it": [(225, 150, 1), (430, 20, 0), (20, 280, 0)],
    "four clicks": [(225, 150, 1), (200, 100, 1), (430, 20, 0), (20, 280, 0)],
}
BOX = (60, 20, 400, 290)


def theirs(predictor: Any, *, clicks: list[tuple[int, int, int]], box: Any = None) -> Any:
    """The mask of the authors' predictor, chosen as their exported decoder chooses.

    For two points, which are a click with its padding or a box alone, it is the best scored of three masks; for more
    the one mask that is meant for clear prompts.
    """
    points = np.array([click[:2] for click in clicks], np.float32) if clicks else None
    labels = np.array([click[2] for click in clicks], np.int64) if clicks else None
    several = (len(clicks) == 1) if box is None else not clicks
    masks, scores, _ = predictor.predict(
        points, labels, box=None if box is None else np.array(box), multimask_output=several
    )
    return masks[int(np.argmax(scores))], float(scores.max())


@pytest.mark.parametrize("clicks", CLICKS.values(), ids=CLICKS.keys())
def test_clicks(
    reference_server: RunningServer, predictor: Any, photo: bytes, clicks: list[tuple[int, int, int]]
) -> None:
    """Clicks on a photo, through HTTP, give the mask and the score that the authors' predictor gives."""
    expected, score = theirs(predictor, clicks=clicks)
    prompt = {"points": [list(click[:2]) for click in clicks], "point_labels": [click[2] for click in clicks]}
    with reference_server.client(timeout=120) as client:
        reply = ask(client, photo, model="sam-authors", prompt=prompt)
    actual = only_mask(reply)
    print(f"\nIoU {overlap(expected, actual):.5f}, covers {expected.mean():.3f}, score {score:.5f}")
    assert is_telling(expected)
    assert overlap(expected, actual) >= LEAST
    assert reply["annotations"][0]["score"] == pytest.approx(np.clip(score, 0, 1), abs=1e-3)


@pytest.mark.parametrize("clicks", [[], CLICKS["clicks beside it"]], ids=["alone", "with clicks"])
def test_box(reference_server: RunningServer, predictor: Any, photo: bytes, clicks: list[tuple[int, int, int]]) -> None:
    """A box, alone or with clicks, gives the predictor's mask: no padding point stands beside it."""
    expected, _ = theirs(predictor, clicks=clicks, box=BOX)
    prompt = {"points": [list(click[:2]) for click in clicks], "point_labels": [click[2] for click in clicks]}
    with reference_server.client(timeout=120) as client:
        actual = only_mask(ask(client, photo, model="sam-authors", prompt=prompt | {"box": list(BOX)}))
    print(f"\nIoU {overlap(expected, actual):.5f}, covers {expected.mean():.3f}")
    assert is_telling(expected)
    assert overlap(expected, actual) >= LEAST


def test_refinement(reference_server: RunningServer, predictor: Any, photo: bytes) -> None:
    """A mask that is sent back refines as the predictor's ``mask_input`` does."""
    clicks = CLICKS["two clicks"]
    points, labels = np.array([click[:2] for click in clicks], np.float32), np.array([1, 1])
    _, _, low = predictor.predict(points, labels, multimask_output=False)
    expected, _, _ = predictor.predict(points, labels, mask_input=low, multimask_output=False)
    prompt: dict[str, Any] = {"points": [list(click[:2]) for click in clicks], "point_labels": [1, 1]}
    with reference_server.client(timeout=120) as client:
        first = ask(client, photo, model="sam-authors", prompt=prompt)
        prompt["mask_input"] = first["annotations"][0]["mask_id"]
        actual = only_mask(ask(client, photo, model="sam-authors", prompt=prompt))
    print(f"\nIoU {overlap(expected[0], actual):.5f}, covers {expected[0].mean():.3f}")
    assert is_telling(expected[0])
    assert overlap(expected[0], actual) >= LEAST
