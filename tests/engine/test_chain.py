"""Words to masks by two models, with fakes that count what they are asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import HEIGHT, WIDTH, Main, embed, loaded, picture, request, run, segment
from fake_model import FakeModel, click
from kept_files import kept_embeddings

from osamd.engine import Engine
from osamd.engine.chain import MOST_BOXES
from osamd.errors import (
    EmbeddingExpiredError,
    InvalidPromptError,
    InvalidRequestError,
    ModelLoadError,
    OsamdError,
    OverloadedError,
    UnknownModelError,
)
from osamd.image_sources import ExchangedEmbedding, ImageSource
from osamd.library.catalog import Model
from osamd.segment_requests import SegmentRequest
from osamd.types import Box, Candidate, Capabilities, Prompt

CHAIN = "yoloworld:latest+sam2:tiny"
FOUND = [
    Candidate(box=(2.0, 3.0, 9.0, 8.0), score=0.8, text="cat"),
    Candidate(box=(20.0, 10.0, 30.0, 25.0), score=0.7, text="dog"),
]
WORDS = Prompt(texts=("cat", "dog"), score_threshold=0.3)


def detector(*candidates: Candidate) -> FakeModel:
    """A fake that takes words and answers with boxes."""
    return FakeModel(capabilities=Capabilities(texts=64, masks=False), candidates=list(candidates))


class Pair:
    """A detector and a segmenter for an engine."""

    def __init__(self, *candidates: Candidate) -> None:
        self.detector = detector(*candidates)
        self.segmenter = FakeModel()
        self.held: list[set[str]] = []
        self.engine: Engine | None = None

    def run(self, main: Main[None], **flags: Any) -> None:
        """Run a test with them."""

        def load(model: Model) -> FakeModel:
            if self.engine is not None:
                self.held.append(loaded(self.engine))
            return self.detector if model.family == "yoloworld" else self.segmenter

        async def with_engine(engine: Engine) -> None:
            self.engine = engine
            await main(engine)

        run(with_engine, load=load, **flags)


def test_words_become_masks_with_both_scores() -> None:
    """Each box is a prompt of the segmenter; its mask has the detector's word and score, and the predicted IoU."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        result = await segment(engine, request(picture(), WORDS, model=CHAIN))

        assert [(0.8, "cat", 0.9), (0.7, "dog", 0.9)] == [
            (one.score, one.text, one.predicted_iou) for one in result.annotations
        ]
        assert [(0, 0), (0, 1)] == [(one.prompt_index, one.mask_index) for one in result.annotations]
        assert [Box(2, 3, 9, 8), Box(20, 10, 30, 25)] == [one.box for one in result.annotations]
        assert all(one.mask is not None and one.mask_id is not None for one in result.annotations)
        assert (CHAIN, "GPL-3.0-only AND Apache-2.0") == (result.image.model, result.license)
        assert [(WIDTH, HEIGHT)] == [(result.image.width, result.image.height)]

    pair.run(main)
    assert [0.3] == [prompt.score_threshold for prompt, _, _ in pair.detector.decoded]
    assert [(HEIGHT, WIDTH)] == pair.detector.encoded == pair.segmenter.encoded


def test_words_and_clicks_keep_their_places() -> None:
    """Prompts of one request are answered in their order, words by both models and clicks by the segmenter alone."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        prompts = (click(5, 20), WORDS, click(35, 5))
        result = await segment(engine, request(picture(), *prompts, model=CHAIN, multimask=True))

        assert [(0, None), (1, "cat"), (1, "dog"), (2, None)] == [
            (one.prompt_index, one.text) for one in result.annotations
        ]
        assert [0.9, 0.8, 0.7, 0.9] == [one.score for one in result.annotations]

    pair.run(main)


def test_answers_can_be_refined_and_asked_again_by_handle() -> None:
    """Clicks take the handle under the name of the chain, of the segmenter or none; words under the chain's.

    No model encodes the image a second time.
    """
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        first = await segment(engine, request(picture(), WORDS, model=CHAIN))
        handle, mask_id = first.image.image_id, first.annotations[0].mask_id
        refining = replace(click(12, 5), mask_id=mask_id)
        for model in (CHAIN, "yoloworld+sam2:tiny", "sam2:tiny", None):
            refined = await segment(engine, request(handle, refining, model=model))
            assert Box(2, 3, 14, 8) == refined.annotations[0].box
            assert handle == refined.image.image_id
        again = await segment(engine, request(handle, WORDS, model=CHAIN))
        assert again.cache_hit
        assert 2 == len(again.annotations)

    pair.run(main)
    assert 1 == len(pair.detector.encoded) == len(pair.segmenter.encoded)


def test_embedding_prepares_both_models() -> None:
    """After ``embed``, neither words nor clicks encode anything; deleting the handle deletes both."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture(), model=CHAIN)
        assert CHAIN == handle.model
        assert (await segment(engine, request(handle.image_id, WORDS, model=CHAIN))).cache_hit
        assert (await segment(engine, request(handle.image_id, click(5, 5)))).cache_hit
        await engine.forget(handle.image_id, owner="me")
        assert 0 == engine.status().cache.entries

    pair.run(main)


def test_a_cut_out_of_nothing_has_the_photos_pixels() -> None:
    """Where no box is found, the segmenter is asked for them all the same."""
    pair = Pair()

    async def main(engine: Engine) -> None:
        asked = replace(request(picture(), WORDS, model=CHAIN), refinable=False, with_pixels=True)
        result = await segment(engine, asked)
        assert [] == list(result.annotations)
        assert result.pixels is not None
        assert (HEIGHT, WIDTH, 3) == result.pixels.shape

    pair.run(main)


def test_the_detectors_picture_is_not_kept_on_disk(tmp_path: Path) -> None:
    """After a restart, nobody could delete it: its handle was never told."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        await embed(engine, picture(), model=CHAIN)

    pair.run(main, cache=tmp_path, embedding_disk_bytes=10**8)
    assert 1 == len(kept_embeddings(tmp_path))


def test_a_deletion_that_failed_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector's image is not forgotten to be deleted because the disk was too slow once."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        handle = (await embed(engine, picture(), model=CHAIN)).image_id
        with monkeypatch.context() as slow:
            slow.setattr(engine._images, "forget", too_slow)
            with pytest.raises(OverloadedError):
                await engine.forget(handle, owner="me")
        assert 2 == engine.status().cache.entries
        await engine.forget(handle, owner="me")
        assert 0 == engine.status().cache.entries

    async def too_slow(*_: Any, **__: Any) -> bool:
        raise OverloadedError("the disk is too slow")

    pair.run(main)


def test_handle_that_the_detector_does_not_know_is_refused_for_words() -> None:
    """The image is needed again: the status that clients answer by sending it; clicks need no detector."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        handle = (await embed(engine, picture(), model="sam2:tiny")).image_id
        with pytest.raises(EmbeddingExpiredError, match="send the image again"):
            await segment(engine, request(handle, WORDS, model=CHAIN))
        assert (await segment(engine, request(handle, click(5, 5), model=CHAIN))).cache_hit

    pair.run(main)


def test_parts_are_loaded_one_at_a_time_without_memory_for_both() -> None:
    """A budget of one model is enough: each part makes room for the other, and requests do not wait for ever."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        for _ in range(2):
            assert 2 == len((await segment(engine, request(picture(), WORDS, model=CHAIN))).annotations)
        assert {"sam2:tiny"} == loaded(engine)

    # Every model of the tests' store has one byte.
    pair.run(main, model_memory_bytes=1)
    assert [set(), set(), set(), set()] == pair.held


def test_parts_stay_loaded_with_memory_for_both() -> None:
    """The second request loads nothing."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        for _ in range(2):
            await segment(engine, request(picture(), WORDS, model=CHAIN))
        assert {"yoloworld:latest", "sam2:tiny"} == loaded(engine)

    pair.run(main, model_memory_bytes=2)
    assert 2 == len(pair.held)


def test_preloaded_chain_is_ready_when_both_parts_are() -> None:
    """``preload`` takes a chain; one whose parts cannot be chained leaves the engine not ready."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        before = engine.state
        await engine.preload()
        assert ("loading", "ready") == (before, engine.state)
        assert {"yoloworld:latest", "sam2:tiny"} == loaded(engine)

    pair.run(main, preload=(CHAIN,))


def test_only_the_best_boxes_become_masks() -> None:
    """However many a detector finds in however many prompts, a request costs at most so many decodes."""
    many = [Candidate(box=(1.0, 1.0, 5.0, 5.0), score=1 - index / 1000, text="cat") for index in range(MOST_BOXES)]
    pair = Pair(*many)

    async def main(engine: Engine) -> None:
        result = await segment(engine, request(picture(), WORDS, WORDS, model=CHAIN))

        assert MOST_BOXES == len(result.annotations)
        assert 1 - 50 / 1000 < min(one.score or 0 for one in result.annotations)
        assert {0, 1} == {one.prompt_index for one in result.annotations}

    pair.run(main)
    assert MOST_BOXES == len(pair.segmenter.decoded)


def test_nothing_found_still_gives_a_handle() -> None:
    """A click on the same image comes next, so it is encoded; without a use for the handle it is not."""
    pair = Pair()

    async def main(engine: Engine) -> None:
        asked = request(picture(), WORDS, model=CHAIN)
        nothing = await segment(engine, replace(asked, refinable=False))
        assert () == nothing.annotations
        assert (CHAIN, WIDTH, HEIGHT) == (nothing.image.model, nothing.image.width, nothing.image.height)
        assert [] == pair.segmenter.encoded
        handle = (await segment(engine, asked)).image.image_id
        assert (await segment(engine, request(handle, click(5, 5)))).cache_hit

    pair.run(main)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"model": "yoloworld+nothing"}, UnknownModelError, "unknown model 'nothing'"),
        ({"model": "+sam2:tiny"}, InvalidRequestError, r"DETECTOR\+SEGMENTER"),
        ({"model": "yoloworld+"}, InvalidRequestError, r"DETECTOR\+SEGMENTER"),
        ({"model": "yoloworld+sam+sam"}, InvalidRequestError, r"DETECTOR\+SEGMENTER"),
        ({"model": "sam2:tiny+yoloworld"}, InvalidRequestError, "the detector .* sam2:tiny does not; expected.*yolo"),
        ({"model": "sam3+sam2:tiny"}, InvalidRequestError, "the detector .* sam3:latest does not"),
        ({"model": "yoloworld+yoloworld"}, InvalidRequestError, "the segmenter .* expected one of: .*sam2:tiny"),
        ({"model": "yoloworld+sam3"}, InvalidRequestError, "the segmenter .* sam3:latest does not"),
        ({"prompts": (replace(click(5, 5), texts=("cat",)),)}, InvalidPromptError, "not both in one prompt"),
        ({"prompts": (replace(WORDS, mask_id="mask_1"),)}, InvalidPromptError, "not both in one prompt"),
        ({"prompts": (replace(WORDS, texts=("cat",) * 65),)}, InvalidPromptError, "up to 64 texts"),
        ({"image": ExchangedEmbedding(3, 4, (np.zeros((1, 2, 2), np.float32),))}, InvalidRequestError, "the image"),
    ],
)
def test_requests_that_make_no_sense_are_refused_before_any_work(
    asked: dict[str, Any], error: type[OsamdError], message: str
) -> None:
    """Both parts must exist and have their role; a prompt has words or clicks; words need the image."""
    pair = Pair(*FOUND)
    given = {"model": CHAIN, "image": picture(), "prompts": (WORDS,)} | asked
    kept = isinstance(given["image"], ExchangedEmbedding)
    source = (ImageSource.of_embedding if kept else ImageSource.of_bytes)(given["image"])

    async def main(engine: Engine) -> None:
        with pytest.raises(error, match=message):
            await segment(engine, SegmentRequest(source, model=given["model"], prompts=given["prompts"]))
        assert set() == loaded(engine)

    pair.run(main)
    assert [] == pair.detector.encoded


def test_part_that_is_too_large_is_named() -> None:
    """A part that fits no budget fails the request with that part's name."""
    pair = Pair(*FOUND)

    async def main(engine: Engine) -> None:
        with pytest.raises(ModelLoadError, match="yoloworld:latest needs"):
            await segment(engine, request(picture(), WORDS, model=CHAIN))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engines.FullStore.size", lambda *_: 10)
        pair.run(main, model_memory_bytes=5)
