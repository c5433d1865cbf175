from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import sam_decoder
from osam._models import Sam100m
from peer import (
    CLICK_PROMPTS,
    HERE,
    SIZES,
    Asked,
    Blobs,
    ask_osam,
    is_telling,
    make_prompt,
    osam_mask,
    osam_model,
    our_mask,
    overlap,
    smooth_photo,
)

from osamd.errors import ModelLoadError
from osamd.models.base import encode_pixels
from osamd.models.sam import Sam
from osamd.types import Prompt


@pytest.mark.parametrize("asked", CLICK_PROMPTS.values(), ids=CLICK_PROMPTS.keys())
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_are_osams(blobs: Blobs, height: int, width: int, asked: Asked) -> None:
    """Clicks and boxes land where osam puts them, on images of any shape."""
    image, prompt = smooth_photo(height, width), make_prompt(height, width, **asked)
    (theirs,) = ask_osam(osam_model(Sam100m, blobs["sam"]), image, prompt)
    model = Sam(blobs["sam"], HERE)
    embedding = encode_pixels(model, image)
    (candidate,) = model.decode(embedding, prompt, mask_input=None, multimask=False)
    expected, actual = osam_mask(theirs, height, width), our_mask(candidate, embedding)
    assert is_telling(expected)
    assert overlap(expected, actual) >= 0.999


def test_embedding_is_osams(blobs: Blobs) -> None:
    """The embedding is osam's to rounding, so that one can be sent to the other."""
    image = smooth_photo(333, 500)
    expected = osam_model(Sam100m, blobs["sam"]).encode_image(image)
    actual = encode_pixels(Sam(blobs["sam"], HERE), image)
    assert (expected.original_height, expected.original_width) == (actual.height, actual.width)
    np.testing.assert_allclose(actual.features["image_embeddings"][0], expected.embedding, atol=1e-5)


def test_default_prompt_is_osams(blobs: Blobs) -> None:
    """Where nothing is said, both take a click in the middle."""
    image = smooth_photo(301, 450)
    (theirs,) = ask_osam(osam_model(Sam100m, blobs["sam"]), image, None)
    model = Sam(blobs["sam"], HERE)
    embedding = encode_pixels(model, image)
    prompt = model.default_prompt(height=301, width=450)
    (candidate,) = model.decode(embedding, prompt, mask_input=None, multimask=False)
    assert overlap(osam_mask(theirs, 301, 450), our_mask(candidate, embedding)) >= 0.999


def test_missing_mask_input_is_encoded_like_metas(blobs: Blobs, tmp_path: Path) -> None:
    """``has_mask_input`` is 0 where there is no earlier mask, which osam's -1 is not the same as."""
    paths = {"encoder": blobs["sam"]["encoder"], "decoder": sam_decoder(tmp_path / "decoder.onnx", no_mask=-0.5)}
    image = smooth_photo(240, 320)
    prompt = make_prompt(240, 320, clicks=((0.3, 0.6, 1),))
    model = Sam(paths, HERE)
    embedding = encode_pixels(model, image)
    (candidate,) = model.decode(embedding, prompt, mask_input=None, multimask=False)
    (usual,) = Sam(blobs["sam"], HERE).decode(embedding, prompt, mask_input=None, multimask=False)
    assert candidate.logits is not None
    assert usual.logits is not None
    np.testing.assert_allclose(candidate.logits.values, usual.logits.values - 0.8, atol=1e-4)
    (theirs,) = ask_osam(osam_model(Sam100m, paths), image, prompt)
    assert overlap(osam_mask(theirs, 240, 320), our_mask(candidate, embedding)) < 0.9


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"clicks": ((0.3, 0.6, 1),)}, [1, -1]),
        ({"box": (0.1, 0.1, 0.6, 0.5)}, [2, 3]),
        ({"box": (0.1, 0.1, 0.6, 0.5), "clicks": ((0.3, 0.3, 0),)}, [2, 3, 0]),
    ],
    ids=["click", "box", "box and click"],
)
def test_padding_point_is_added_without_a_box(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, asked: Asked, expected: list[int]
) -> None:
    """A padding point follows clicks alone, as SAM was trained; osam has one beside a box too."""
    model = Sam(blobs["sam"], HERE)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    seen: dict[str, Any] = {}
    decoder = model._decoder
    run = decoder.run

    def spy(feeds: Any, outputs: Any = None) -> Any:
        seen.update(feeds)
        return run(feeds, outputs)

    monkeypatch.setattr(decoder, "run", spy)
    model.decode(embedding, make_prompt(240, 320, **asked), mask_input=None, multimask=False)
    assert expected == seen["point_labels"][0].tolist()


def test_earlier_mask_is_refined(blobs: Blobs) -> None:
    """An earlier mask counts, and a prompt may consist of nothing else."""
    model = Sam(blobs["sam"], HERE)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    prompt = make_prompt(240, 320, clicks=((0.3, 0.6, 1),))
    (first,) = model.decode(embedding, prompt, mask_input=None, multimask=False)
    assert first.logits is not None
    (again,) = model.decode(embedding, prompt, mask_input=first.logits, multimask=False)
    assert again.logits is not None
    added = np.tanh(first.logits.values / 4)
    np.testing.assert_allclose(again.logits.values, first.logits.values + added, atol=1e-4)
    (alone,) = model.decode(embedding, Prompt(), mask_input=first.logits, multimask=False)
    assert alone.logits is not None


def test_score_is_the_predicted_overlap(blobs: Blobs) -> None:
    """The score is the IoU that the model predicts; the graph gives a function of its logits."""
    model = Sam(blobs["sam"], HERE)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    prompt = make_prompt(240, 320, box=(0.1, 0.1, 0.6, 0.5))
    (candidate,) = model.decode(embedding, prompt, mask_input=None, multimask=True)
    assert candidate.logits is not None
    assert candidate.score == pytest.approx(1 / (1 + np.exp(-candidate.logits.values.mean())), abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 10_000), (10_000, 1), (1, 1), (1025, 2048)])
def test_extreme_shapes_are_encoded(blobs: Blobs, height: int, width: int) -> None:
    """Strips one pixel wide and sides that do not divide give an embedding and a mask like any other."""
    model = Sam(blobs["sam"], HERE)
    embedding = encode_pixels(model, smooth_photo(height, width))
    (candidate,) = model.decode(
        embedding, model.default_prompt(height=height, width=width), mask_input=None, multimask=False
    )
    assert (height, width) == our_mask(candidate, embedding).shape


def test_swapped_files_are_refused(blobs: Blobs) -> None:
    """A graph of another role is reported when it is loaded, not at the first click."""
    paths = {"encoder": blobs["sam"]["encoder"], "decoder": blobs["sam"]["encoder"]}
    with pytest.raises(ModelLoadError, match="expected an input image_embeddings"):
        Sam(paths, HERE)
