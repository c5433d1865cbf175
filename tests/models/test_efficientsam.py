from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import efficientsam_decoder
from osam._models import EfficientSam10m
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
from osamd.models.efficientsam import EfficientSam


class BestFirst:
    """A decoder session whose masks are sorted as EfficientSAM's authors sort them; osam takes the first."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, names: None, feeds: dict[str, Any]) -> list[Any]:
        """The three outputs with the best mask in front."""
        masks, scores, low_res = self._session.run(names, feeds)
        order = np.argsort(-scores[0, 0])
        assert order[0] != 0
        return [masks[:, :, order], scores[:, :, order], low_res[:, :, order]]


def sorting_osam(blobs: Blobs) -> EfficientSam10m:
    """osam, had it sorted the masks."""
    model = osam_model(EfficientSam10m, blobs["efficientsam"])
    sessions: dict[str, Any] = model._inference_sessions
    sessions["decoder"] = BestFirst(sessions["decoder"])
    return model


@pytest.mark.parametrize("asked", CLICK_PROMPTS.values(), ids=CLICK_PROMPTS.keys())
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_best_mask_is_osams(blobs: Blobs, height: int, width: int, asked: Asked) -> None:
    """Clicks and boxes land where osam puts them, and the mask of the highest predicted IoU is taken."""
    image, prompt = smooth_photo(height, width), make_prompt(height, width, **asked)
    (theirs,) = ask_osam(sorting_osam(blobs), image, prompt)
    model = EfficientSam(blobs["efficientsam"], HERE)
    embedding = encode_pixels(model, image)
    (candidate,) = model.decode(embedding, prompt, mask_input=None, multimask=False)
    expected, actual = osam_mask(theirs, height, width), our_mask(candidate, embedding)
    assert is_telling(expected)
    assert overlap(expected, actual) >= 0.999


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resizing_first_changes_nothing(blobs: Blobs, height: int, width: int) -> None:
    """Resizing bytes outside the graph is the graph's own resizing up to a grey level, on a picture of noise too."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = osam_model(EfficientSam10m, blobs["efficientsam"]).encode_image(noise).embedding
    actual = encode_pixels(EfficientSam(blobs["efficientsam"], HERE), noise).features["image_embeddings"][0]
    np.testing.assert_allclose(actual, expected, atol=0.02)


def test_candidates_come_best_first(blobs: Blobs) -> None:
    """All three masks are given, each with its score, in the order of the scores."""
    model = EfficientSam(blobs["efficientsam"], HERE)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    prompt = make_prompt(240, 320, clicks=((0.3, 0.6, 1),))
    candidates = model.decode(embedding, prompt, mask_input=None, multimask=True)
    scores = [candidate.score or 0.0 for candidate in candidates]
    assert len(scores) == 3
    assert sorted(scores, reverse=True) == scores
    # The graph's second mask is its favourite; the first and the third are a step smaller and larger.
    lows = [candidate.logits.values for candidate in candidates if candidate.logits is not None]
    np.testing.assert_allclose(lows[0] - 1, lows[1], atol=1e-5)
    np.testing.assert_allclose(lows[0] + 1, lows[2], atol=1e-5)


def test_low_resolution_masks_without_queries(blobs: Blobs, tmp_path: Path) -> None:
    """The authors' exporter leaves out one axis of the low-resolution masks; the answer is the same."""
    flat = efficientsam_decoder(tmp_path / "decoder.onnx", flat_low=True)
    prompt = make_prompt(240, 320, clicks=((0.3, 0.6, 1),))
    model = EfficientSam(blobs["efficientsam"], HERE)
    embedding = encode_pixels(model, smooth_photo(240, 320))
    expected = model.decode(embedding, prompt, mask_input=None, multimask=True)
    other = EfficientSam(blobs["efficientsam"] | {"decoder": flat}, HERE)
    actual = other.decode(embedding, prompt, mask_input=None, multimask=True)
    for one, two in zip(expected, actual, strict=True):
        assert one.score == two.score
        assert one.logits is not None
        assert two.logits is not None
        np.testing.assert_array_equal(one.logits.values, two.logits.values)


def test_box_corners_come_before_the_clicks(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real graph reads six points and drops the rest, so the box must not be last."""
    model = EfficientSam(blobs["efficientsam"], HERE)
    embedding = encode_pixels(model, smooth_photo(48, 64))
    prompt = make_prompt(48, 64, clicks=tuple((0.1 * place, 0.5, 1) for place in range(1, 8)), box=(0.1, 0.2, 0.6, 0.8))
    seen: dict[str, Any] = {}
    decoder = model._decoder
    run = decoder.run

    def spy(feeds: Any, outputs: Any = None) -> Any:
        seen.update(feeds)
        return run(feeds, outputs)

    monkeypatch.setattr(decoder, "run", spy)
    model.decode(embedding, prompt, mask_input=None, multimask=False)
    expected = [2, 3, 1, 1, 1, 1, 1, 1, 1]
    assert expected == seen["batched_point_labels"][0, 0].tolist()
