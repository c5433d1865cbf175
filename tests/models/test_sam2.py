from pathlib import Path

import numpy as np
import pytest
from graphs import sam2_decoder
from osam._models import Sam2Tiny
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

from osamd.models.base import encode_pixels
from osamd.models.sam2 import Sam2
from osamd.types import Prompt


@pytest.mark.parametrize("asked", CLICK_PROMPTS.values(), ids=CLICK_PROMPTS.keys())
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_best_mask_is_osams(blobs: Blobs, height: int, width: int, asked: Asked) -> None:
    """Clicks and boxes land where osam puts them, and the mask of the highest score is taken."""
    image, prompt = smooth_photo(height, width), make_prompt(height, width, **asked)
    (theirs,) = ask_osam(osam_model(Sam2Tiny, blobs["sam2"]), image, prompt)
    model = Sam2(blobs["sam2"], HERE)
    embedding = encode_pixels(model, image)
    (candidate,) = model.decode(embedding, prompt, mask_input=None, multimask=False)
    expected, actual = osam_mask(theirs, height, width), our_mask(candidate, embedding)
    assert is_telling(expected)
    assert overlap(expected, actual) >= 0.999


def test_embedding_is_osams(blobs: Blobs) -> None:
    """All three feature maps are osam's, in its order, up to half a grey level from resizing."""
    image = smooth_photo(333, 500)
    expected = osam_model(Sam2Tiny, blobs["sam2"]).encode_image(image)
    actual = list(encode_pixels(Sam2(blobs["sam2"], HERE), image).features.values())
    for theirs, ours in zip([expected.embedding, *expected.extra_features], actual, strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=0.05)


def test_candidates_come_best_first(blobs: Blobs) -> None:
    """Of the graph's four masks the three best are given, each with its score."""
    model = Sam2(blobs["sam2"], HERE)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    prompt = make_prompt(240, 320, clicks=((0.3, 0.6, 1),))
    candidates = model.decode(embedding, prompt, mask_input=None, multimask=True)
    scores = [candidate.score or 0.0 for candidate in candidates]
    assert len(scores) == 3
    assert sorted(scores, reverse=True) == scores
    assert all(0 < score < 1 for score in scores)
    # The graph's masks grow by steps of 0.5, the third is its favourite, and its neighbours come next.
    lows = [candidate.logits.values for candidate in candidates if candidate.logits is not None]
    np.testing.assert_allclose(lows[0] - 0.5, lows[1], atol=1e-5)
    np.testing.assert_allclose(lows[0] + 0.5, lows[2], atol=1e-5)


def test_no_mask_is_zero_and_an_earlier_one_counts(blobs: Blobs, tmp_path: Path) -> None:
    """``has_mask_input`` is 0 without an earlier mask and 1 with one; a mask alone is a prompt too."""
    paths = {"encoder": blobs["sam2"]["encoder"], "decoder": sam2_decoder(tmp_path / "decoder.onnx", no_mask=-0.5)}
    model = Sam2(paths, HERE)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    prompt = make_prompt(240, 320, clicks=((0.3, 0.6, 1),))
    (first,) = model.decode(embedding, prompt, mask_input=None, multimask=False)
    (usual,) = Sam2(blobs["sam2"], HERE).decode(embedding, prompt, mask_input=None, multimask=False)
    assert first.logits is not None
    assert usual.logits is not None
    np.testing.assert_allclose(first.logits.values, usual.logits.values - 0.8, atol=1e-4)
    (again,) = model.decode(embedding, prompt, mask_input=usual.logits, multimask=False)
    assert again.logits is not None
    added = np.tanh(usual.logits.values / 4)
    np.testing.assert_allclose(again.logits.values, usual.logits.values + added, atol=1e-4)
    (alone,) = model.decode(embedding, Prompt(), mask_input=usual.logits, multimask=False)
    assert alone.logits is not None
