from pathlib import Path

import cv2
import numpy as np
import pytest
from graphs import SAM3_MASK, sam3_decoder
from osam._models import Sam3 as OsamSam3
from peer import (
    HERE,
    SIZES,
    Blobs,
    ask_osam,
    is_telling,
    make_prompt,
    osam_box,
    osam_mask,
    osam_model,
    our_mask,
    overlap,
    smooth_photo,
)

from osamd.errors import InvalidPromptError
from osamd.models.base import Stepwise, encode_pixels
from osamd.models.sam3 import Sam3
from osamd.types import Candidate, Embedding, Prompt

ASKED = {
    "text": {"texts": ("a cat",)},
    "box": {"box": (0.2, 0.35, 0.58, 0.83)},
    "text and box": {"texts": ("red bus",), "box": (0.3, 0.2, 0.7, 0.6)},
    "picky text": {"texts": ("a cat",), "score_threshold": 0.6},
}


def answer(model: Sam3, height: int, width: int, prompt: Prompt) -> tuple[list[Candidate], Embedding]:
    """Candidates on the smooth photo."""
    embedding = encode_pixels(model, smooth_photo(height, width))
    return model.decode(embedding, prompt, mask_input=None, multimask=False), embedding


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_objects_are_osams(blobs: Blobs, height: int, width: int, asked: dict[str, object]) -> None:
    """The same objects with the same words and scores, their boxes within a pixel, best first."""
    prompt = make_prompt(height, width, **asked)  # type: ignore[arg-type]
    theirs = ask_osam(osam_model(OsamSam3, blobs["sam3"]), smooth_photo(height, width), prompt)
    theirs.sort(key=lambda annotation: -(annotation.score or 0))
    ours, _ = answer(Sam3(blobs["sam3"], HERE), height, width, prompt)
    assert 0 < len(theirs) == len(ours)
    for expected, actual in zip(theirs, ours, strict=True):
        assert expected.text == actual.text
        assert actual.score == pytest.approx(expected.score, abs=1e-4)
        assert actual.box == pytest.approx(osam_box(expected), abs=1)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_are_the_authors(blobs: Blobs, height: int, width: int) -> None:
    """Masks are the decoder's, stretched over the whole image at once, as the authors and the exporter do it."""
    prompt = make_prompt(height, width, texts=("a cat",), box=(0.2, 0.35, 0.58, 0.83))
    model = Sam3(blobs["sam3"], HERE)
    ours, embedding = answer(model, height, width, prompt)
    assert ours
    for candidate in ours:
        assert candidate.logits is not None
        expected = cv2.resize(candidate.logits.values, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        actual = our_mask(candidate, embedding)
        assert is_telling(expected)
        assert overlap(expected, actual) >= 0.999


def test_masks_are_osams_but_for_its_cropping(blobs: Blobs) -> None:
    """The box that osam cuts from the low-resolution mask before it stretches it shifts the mask by up to a pixel."""
    side = SAM3_MASK
    prompt = make_prompt(side, side, texts=("a cat",))
    theirs = ask_osam(osam_model(OsamSam3, blobs["sam3"]), smooth_photo(side, side), prompt)
    ours, embedding = answer(Sam3(blobs["sam3"], HERE), side, side, prompt)
    theirs.sort(key=lambda annotation: -(annotation.score or 0))
    for expected, actual in zip(theirs, ours, strict=True):
        assert overlap(osam_mask(expected, side, side), our_mask(actual, embedding)) >= 0.95


def test_embedding_is_osams(blobs: Blobs) -> None:
    """All four feature maps are osam's, in its order, up to what the two resizing filters differ by."""
    image = smooth_photo(333, 500)
    expected = osam_model(OsamSam3, blobs["sam3"]).encode_image(image)
    actual = list(encode_pixels(Sam3(blobs["sam3"], HERE), image).features.values())
    for theirs, ours in zip([expected.embedding, *expected.extra_features], actual, strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=0.03)


def test_every_text_is_answered(blobs: Blobs) -> None:
    """Each text gets its own objects, as if it were asked alone, and all are in one order."""
    model = Sam3(blobs["sam3"], HERE)
    together, _ = answer(model, 240, 320, Prompt(texts=("a cat", "a dog")))
    alone = [found for text in ("a cat", "a dog") for found in answer(model, 240, 320, Prompt(texts=(text,)))[0]]
    alone.sort(key=lambda candidate: -(candidate.score or 0))
    assert {"a cat", "a dog"} == {candidate.text for candidate in together}
    assert [(found.text, found.score, found.box) for found in alone] == [
        (found.text, found.score, found.box) for found in together
    ]


def test_each_text_is_a_step(blobs: Blobs) -> None:
    """So other requests run in between; it is refused before the first if a later text is too long."""
    model = Sam3(blobs["sam3"], HERE)
    assert isinstance(model, Stepwise)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    prompt = Prompt(texts=("a cat", "a dog", "red bus"), max_annotations=5)
    steps = model.decode_in_steps(embedding, prompt, mask_input=None, multimask=False)
    for _ in range(2):
        next(steps)
    with pytest.raises(StopIteration) as ended:
        next(steps)
    whole = model.decode(embedding, prompt, mask_input=None, multimask=False)
    assert len(whole) == 5
    assert [(found.text, found.score, found.box) for found in whole] == [
        (found.text, found.score, found.box) for found in ended.value.value
    ]
    long = Prompt(texts=("a cat", "cat " * 31))
    with pytest.raises(InvalidPromptError, match="at most 30"):
        next(model.decode_in_steps(embedding, long, mask_input=None, multimask=False))


def test_every_box_counts(blobs: Blobs) -> None:
    """Several boxes go into one run: the graph's first object lies in the middle between them."""
    boxes = np.array([[32, 24, 96, 120], [160, 72, 288, 216]], np.float32)
    found, _ = answer(Sam3(blobs["sam3"], HERE), 240, 320, Prompt(boxes=boxes))
    between = tuple(boxes.mean(axis=0).tolist())
    assert any(candidate.box == pytest.approx(between, abs=0.01) for candidate in found)
    assert {"visual"} == {candidate.text for candidate in found}


def test_no_more_than_asked(blobs: Blobs) -> None:
    """``max_annotations`` keeps the best of all texts, and an object at the threshold is kept."""
    model = Sam3(blobs["sam3"], HERE)
    everything, _ = answer(model, 240, 320, Prompt(texts=("a cat", "a dog")))
    assert len(everything) > 3
    few, _ = answer(model, 240, 320, Prompt(texts=("a cat", "a dog"), max_annotations=3))
    assert [found.score for found in everything[:3]] == [found.score for found in few]
    third = few[2].score or 0.0
    good, _ = answer(model, 240, 320, Prompt(texts=("a cat", "a dog"), score_threshold=third))
    assert [found.score for found in everything[:3]] == [found.score for found in good]


def test_nothing_found_is_no_error(blobs: Blobs, tmp_path: Path) -> None:
    """A graph that finds no object gives no candidate."""
    paths = blobs["sam3"] | {"decoder": sam3_decoder(tmp_path / "decoder.onnx", keep=1.0)}
    found, _ = answer(Sam3(paths, HERE), 48, 64, Prompt(texts=("a cat",)))
    assert not found


def test_boxes_are_as_many_as_the_graph_takes(blobs: Blobs, tmp_path: Path) -> None:
    """An export that is fixed to one box says so in its capabilities."""
    assert Sam3(blobs["sam3"], HERE).capabilities.boxes == 64
    paths = blobs["sam3"] | {"decoder": sam3_decoder(tmp_path / "decoder.onnx", boxes=1)}
    fixed = Sam3(paths, HERE)
    assert fixed.capabilities.boxes == 1
    found, _ = answer(fixed, 48, 64, make_prompt(48, 64, box=(0.2, 0.3, 0.6, 0.8)))
    assert found


def test_default_prompt_is_osams(blobs: Blobs) -> None:
    """Where nothing is said, both look for "visual"."""
    theirs = ask_osam(osam_model(OsamSam3, blobs["sam3"]), smooth_photo(48, 64), None)
    model = Sam3(blobs["sam3"], HERE)
    ours, _ = answer(model, 48, 64, model.default_prompt(height=48, width=64))
    expected = sorted(one.score or 0 for one in theirs)
    assert sorted(found.score or 0 for found in ours) == pytest.approx(expected, abs=1e-4)


def test_long_text_is_refused(blobs: Blobs) -> None:
    """Thirty words fit, thirty-one are the caller's mistake."""
    model = Sam3(blobs["sam3"], HERE)
    answer(model, 48, 64, Prompt(texts=("cat " * 30,)))
    with pytest.raises(InvalidPromptError, match="at most 30"):
        answer(model, 48, 64, Prompt(texts=("a cat", "cat " * 31)))
