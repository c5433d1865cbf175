from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from graphs import yoloworld_textual
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from osam._models import YoloWorldXL
from osam.apis import non_maximum_suppression
from osam.types import Annotation
from peer import HERE, SIZES, Blobs, ask_osam, osam_box, osam_model, smooth_photo

from osamd.errors import InvalidPromptError
from osamd.models.base import encode_pixels
from osamd.models.yoloworld import YoloWorld, suppress
from osamd.types import Candidate, Prompt


def answer(model: YoloWorld, height: int, width: int, prompt: Prompt) -> list[Candidate]:
    """Candidates on the smooth photo."""
    return model.decode(encode_pixels(model, smooth_photo(height, width)), prompt, mask_input=None, multimask=False)


PROMPTS = {
    "one text": Prompt(texts=("a cat",)),
    "texts": Prompt(texts=("a cat", "red bus", "person"), score_threshold=0.25),
    "strict": Prompt(texts=("a cat", "red bus"), iou_threshold=0.2),
    "few": Prompt(texts=("a cat", "red bus"), max_annotations=7),
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_are_osams(blobs: Blobs, height: int, width: int, prompt: Prompt) -> None:
    """The same boxes within a pixel, with the same words and scores, best first."""
    theirs = ask_osam(osam_model(YoloWorldXL, blobs["yoloworld"]), smooth_photo(height, width), prompt)
    ours = answer(YoloWorld(blobs["yoloworld"], HERE), height, width, prompt)
    scores = [found.score or 0.0 for found in ours]
    assert sorted(scores, reverse=True) == scores
    assert 3 < len(theirs) == len(ours)
    for actual in ours:
        twin = next((one for one in theirs if is_twin(one, actual)), None)
        assert twin is not None, f"osam has no {actual.text} near {actual.box} scored {actual.score}"
        theirs.remove(twin)


def is_twin(expected: Annotation, actual: Candidate) -> bool:
    """Whether two answers name the same thing, at the same place, with the same score."""
    return (
        expected.text == actual.text
        and bool(actual.score == pytest.approx(expected.score, abs=1e-4))
        and bool(actual.box == pytest.approx(osam_box(expected), abs=1))
    )


def test_default_prompt_is_osams(blobs: Blobs) -> None:
    """Where nothing is said, both look for "anything"."""
    theirs = ask_osam(osam_model(YoloWorldXL, blobs["yoloworld"]), smooth_photo(48, 64), None)
    model = YoloWorld(blobs["yoloworld"], HERE)
    ours = answer(model, 48, 64, model.default_prompt(height=48, width=64))
    expected = sorted(one.score or 0 for one in theirs)
    assert sorted(found.score or 0 for found in ours) == pytest.approx(expected, abs=1e-4)


def test_background_is_not_an_object(blobs: Blobs, tmp_path: Path) -> None:
    """Where the class of white space wins, osam fails; ours gives the objects of the texts."""
    paths = blobs["yoloworld"] | {"textual": yoloworld_textual(tmp_path / "textual.onnx", quiet_background=False)}
    prompt = Prompt(texts=("a cat",), score_threshold=0.0)
    with pytest.raises(IndexError):
        ask_osam(osam_model(YoloWorldXL, paths), smooth_photo(48, 64), prompt)
    found = answer(YoloWorld(paths, HERE), 48, 64, prompt)
    assert {"a cat"} == {candidate.text for candidate in found}


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (1, 1), (641, 640), (1000, 700)])
def test_boxes_stay_inside(blobs: Blobs, height: int, width: int) -> None:
    """Images of any shape are encoded, and no box leaves them."""
    for candidate in answer(YoloWorld(blobs["yoloworld"], HERE), height, width, Prompt(texts=("a cat",))):
        assert candidate.box is not None
        x1, y1, x2, y2 = candidate.box
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height


def test_embedding_keeps_the_input_exactly(blobs: Blobs) -> None:
    """Half precision holds every grey level, and the padding is grey and even on both sides."""
    model = YoloWorld(blobs["yoloworld"], HERE)
    images = encode_pixels(model, np.full((320, 640, 3), 201, np.uint8)).features["images"]
    expected = np.full((1, 3, 640, 640), 114)
    expected[:, :, 160:480] = 201
    np.testing.assert_array_equal(images, expected)


def test_long_text_is_refused(blobs: Blobs) -> None:
    """Seventy-five words fit, seventy-six are the caller's mistake."""
    model = YoloWorld(blobs["yoloworld"], HERE)
    answer(model, 48, 64, Prompt(texts=("cat " * 75,)))
    with pytest.raises(InvalidPromptError, match="at most 75"):
        answer(model, 48, 64, Prompt(texts=("cat " * 76,)))


@st.composite
def detections(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Boxes on whole pixels, degenerate ones too, and scores of several classes without ties."""
    count, classes = draw(st.integers(1, 25)), draw(st.integers(1, 4))
    corners = draw(arrays.arrays(np.int64, (count, 2, 2), elements=st.integers(0, 20)))
    boxes = np.sort(corners, axis=1).reshape(count, 4).astype(np.float32)
    ranks = np.array(draw(st.permutations(range(count * classes))), np.float32).reshape(count, classes)
    return boxes, (ranks + np.float32(1)) / np.float32(count * classes + 1)


@given(
    detected=detections(),
    iou_threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    score_threshold=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    most=st.integers(1, 12),
)
@settings(max_examples=150, deadline=None)
def test_suppression_matches_onnx(
    detected: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    iou_threshold: float,
    score_threshold: float,
    most: int,
) -> None:
    """Non-maximum suppression keeps what ONNX's operator keeps, but gives the best first."""
    boxes, scores = detected
    _, expected_scores, labels, indices = non_maximum_suppression(
        boxes=boxes,
        scores=scores,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_num_detections=most,
    )
    actual = suppress(boxes, scores, iou_threshold=iou_threshold, score_threshold=score_threshold, most=most)
    expected = [(int(indices[at]), int(labels[at])) for at in np.argsort(-expected_scores)]
    assert expected == [(index, label) for index, label in actual.tolist()]
