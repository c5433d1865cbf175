import asyncio
import contextlib
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from engines import HEIGHT, WIDTH, breathe, embed, picture, reached, request, run, segment
from fake_model import FakeModel, Gate, click
from kept_files import kept_embeddings
from pictures import encoded
from PIL import Image
from waiting import WAIT_S

from osamd.engine import Engine
from osamd.engine.embedding_files import EmbeddingFiles, KeptEmbedding
from osamd.errors import (
    EmbeddingExpiredError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidPromptError,
    InvalidRequestError,
    UnknownModelError,
)
from osamd.pixels.masks import full_array
from osamd.segment_requests import ImageHandle, SegmentResult
from osamd.timings import Timings
from osamd.types import Box, Candidate, Capabilities, MaskLogits, Prompt


def test_an_answer_has_the_mask_and_where_it_came_from() -> None:
    """Box, mask at image size, score, indices, a mask_id; the image's size, the model, device and licence."""

    async def main(engine: Engine) -> SegmentResult:
        return await segment(engine, request(picture(), click(10, 8), model="sam2:tiny"))

    result = run(main)

    (annotation,) = result.annotations
    assert Box(8, 6, 12, 10) == annotation.box
    assert annotation.mask is not None
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[6:11, 8:13] = 255
    np.testing.assert_array_equal(expected, full_array(annotation.mask))
    assert (0.9, None, 0, 0) == (annotation.score, annotation.text, annotation.prompt_index, annotation.mask_index)
    assert annotation.mask_id is not None
    assert ("sam2:tiny", WIDTH, HEIGHT) == (result.image.model, result.image.width, result.image.height)
    assert ("fake", "Apache-2.0", False) == (result.device, result.license, result.cache_hit)
    assert result.embedding is None


def test_several_prompts_and_candidates_are_numbered() -> None:
    """Annotations come in the order of the prompts, best first within one; the model is told what is wanted."""
    model = FakeModel()

    async def main(engine: Engine) -> SegmentResult:
        return await segment(engine, request(picture(), click(10, 8), click(30, 20), multimask=True))

    found = run(main, model).annotations

    assert [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] == [(one.prompt_index, one.mask_index) for one in found]
    assert [Box(8, 6, 12, 10), Box(28, 18, 32, 22)] == [found[0].box, found[3].box]
    assert [0.9, 0.6, 0.3] == [one.score for one in found[:3]]
    assert 6 == len({one.mask_id for one in found})
    assert [True, True] == [multimask for _, _, multimask in model.decoded]


def test_without_prompts_the_models_default_decides() -> None:
    """A request that says nothing gets what is in the middle."""

    async def main(engine: Engine) -> SegmentResult:
        return await segment(engine, request(picture()))

    assert Box(18, 13, 22, 17) == run(main).annotations[0].box


def test_without_a_model_the_built_in_one_answers() -> None:
    """And a handle without a model means the handle's model."""

    async def main(engine: Engine) -> tuple[str, str]:
        plain = await segment(engine, request(picture()))
        handle = await embed(engine, picture(), model="sam")
        by_handle = await segment(engine, request(handle.image_id))
        return plain.image.model, by_handle.image.model

    assert ("builtin:latest", "sam:latest") == run(main)


def test_an_empty_mask_is_left_out() -> None:
    """A candidate that covers no pixel is no annotation, and the others keep their places."""
    nowhere = MaskLogits(np.full((4, 4), -1.0, np.float32), 4.0, 4.0)
    everywhere = replace(nowhere, values=-nowhere.values)
    model = FakeModel(candidates=[Candidate(logits=nowhere, score=0.9), Candidate(logits=everywhere, score=0.1)])

    async def main(engine: Engine) -> SegmentResult:
        return await segment(engine, request(picture()))

    (only,) = run(main, model).annotations
    assert (1, 0.1) == (only.mask_index, only.score)


def test_a_box_without_a_mask_is_cut_to_the_image() -> None:
    """Detectors answer with boxes that may reach beyond the picture, between pixels; there is nothing to refine."""
    model = FakeModel(
        capabilities=Capabilities(texts=2, masks=False),
        candidates=[Candidate(box=(-3.5, 4.2, 99.0, 20.9), score=0.7, text="cat")],
    )

    async def main(engine: Engine) -> SegmentResult:
        return await segment(engine, request(picture(), Prompt(texts=("cat",)), model="yoloworld"))

    (only,) = run(main, model).annotations
    assert Box(0, 4, WIDTH - 1, 21) == only.box
    assert (None, "cat", None) == (only.mask, only.text, only.mask_id)


def test_a_phones_photo_is_upright() -> None:
    """EXIF turns the image before the model sees it: sizes, clicks and masks are in the upright frame."""
    model = FakeModel()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = encoded(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG", exif=exif)

    async def main(engine: Engine) -> SegmentResult:
        return await segment(engine, request(photo, click(HEIGHT - 1, WIDTH - 1)))

    result = run(main, model)

    assert (HEIGHT, WIDTH) == (result.image.width, result.image.height)
    assert [(WIDTH, HEIGHT)] == model.encoded


def test_an_image_is_encoded_once() -> None:
    """The same bytes again, and the handle, are answered from memory; other bytes or another model are not."""
    model = FakeModel()

    async def main(engine: Engine) -> list[bool]:
        first = await segment(engine, request(picture()))
        again = await segment(engine, request(picture()))
        by_handle = await segment(engine, request(first.image.image_id))
        assert first.image.image_id == again.image.image_id == by_handle.image.image_id
        other_image = await segment(engine, request(picture(1)))
        other_model = await segment(engine, request(picture(), model="sam2:tiny"))
        return [result.cache_hit for result in (first, again, by_handle, other_image, other_model)]

    assert [False, True, True, False, False] == run(main, model)
    assert 3 == len(model.encoded)


def test_an_alias_shares_the_models_images() -> None:
    """``sam_vit_b`` and ``sam:100m`` are one model."""
    model = FakeModel()

    async def main(engine: Engine) -> bool:
        await embed(engine, picture(), model="sam_vit_b")
        return (await segment(engine, request(picture(), model="sam:100m"))).cache_hit

    assert run(main, model)


def test_identical_requests_at_once_share_one_encode() -> None:
    """Ten callers, one encode; each gets an answer, and the one that waited for another's encode is told how long."""
    gate = Gate()
    model = FakeModel(on_encode=gate)
    timings = [Timings() for _ in range(10)]

    async def main(engine: Engine) -> list[SegmentResult]:
        tasks = [asyncio.create_task(engine.segment(request(picture(), click(9, 9)), one)) for one in timings]
        await reached(gate)
        await breathe()
        gate.open()
        return await asyncio.gather(*tasks)

    results = run(main, model)

    assert 1 == len(model.encoded)
    assert {Box(7, 7, 11, 11)} == {result.annotations[0].box for result in results}
    assert all(one.seconds()["encode"] > 0 for one in timings)
    assert 1 == sum("decode_image" in one.seconds() for one in timings)


def test_timings_of_a_miss_and_of_a_hit() -> None:
    """A hit spends nothing on the image."""
    miss, hit = Timings(), Timings()

    async def main(engine: Engine) -> None:
        await engine.segment(request(picture()), miss)
        await engine.segment(request(picture()), hit)

    run(main)

    assert ["queue", "decode_image", "encode", "decode", "mask"] == list(miss.seconds())
    assert ["queue", "decode", "mask"] == list(hit.seconds())


def test_a_click_on_a_known_image_does_not_wait_for_anothers_encode() -> None:
    """While the encoder is busy, and somebody waits for it, handles are answered."""
    gate = Gate()
    model = FakeModel()

    async def main(engine: Engine) -> bool:
        handle = await embed(engine, picture())
        model.on_encode = gate
        others = [asyncio.create_task(embed(engine, picture(shade))) for shade in (1, 2)]
        await reached(gate)
        result = await segment(engine, request(handle.image_id, click(9, 9)))
        assert not any(other.done() for other in others)
        gate.open()
        await asyncio.gather(*others)
        return result.cache_hit

    assert run(main, model)


def test_memory_for_images_is_bounded() -> None:
    """The least recently used image goes; its handle says so, the other's still works."""
    model = FakeModel()
    nbytes = WIDTH * HEIGHT * 3 * 4

    async def main(engine: Engine) -> None:
        handles = [await embed(engine, picture(shade)) for shade in range(3)]
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(handles[0].image_id))
        assert (await segment(engine, request(handles[1].image_id))).cache_hit

    run(main, model, embedding_cache_bytes=2 * nbytes)


def test_the_handle_says_when_it_ends() -> None:
    """``expires_at`` is the configured time from now, in UTC."""

    async def main(engine: Engine) -> ImageHandle:
        return await embed(engine, picture())

    before = datetime.now(UTC)
    handle = run(main, embedding_ttl_s=100.0)
    after = datetime.now(UTC)

    assert before <= handle.expires_at - timedelta(seconds=100) <= after
    assert timedelta(0) == handle.expires_at.utcoffset()


def test_an_expired_handle_is_gone() -> None:
    """410 with the field, and the advice to send the image again; sending it again works."""

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        await asyncio.sleep(0.06)
        with pytest.raises(EmbeddingExpiredError, match="send the image again") as caught:
            await segment(engine, request(handle.image_id))
        assert (410, "image_id") == (caught.value.status, caught.value.field)
        assert handle.image_id == (await embed(engine, picture())).image_id

    run(main, embedding_ttl_s=0.05)


@pytest.mark.parametrize("image_id", ["", "img_0", "img_" + "0" * 32, "../../etc/passwd", "x" * 100_000])
def test_an_unknown_handle_is_gone(image_id: str) -> None:
    """Whatever a client makes up is answered like a handle that has expired, and is not echoed."""

    async def main(engine: Engine) -> str:
        with pytest.raises(EmbeddingExpiredError) as caught:
            await segment(engine, request(image_id))
        return str(caught.value)

    assert len(run(main)) < 200


def test_owners_share_nothing() -> None:
    """The same image of two owners has two handles; neither works for the other, and no hit tells of the other."""
    model = FakeModel()

    async def main(engine: Engine) -> None:
        mine = await segment(engine, request(picture(), click(9, 9), owner="alice"))
        theirs = await segment(engine, request(picture(), click(9, 9), owner="bob"))
        assert not theirs.cache_hit
        assert mine.image.image_id != theirs.image.image_id
        for stranger, image_id in (
            ("bob", mine.image.image_id),
            ("alice", theirs.image.image_id),
            ("", mine.image.image_id),
        ):
            with pytest.raises(EmbeddingExpiredError):
                await segment(engine, request(image_id, owner=stranger))
            with pytest.raises(EmbeddingExpiredError):
                await engine.forget(image_id, owner=stranger)
        refined = replace(click(9, 9), mask_id=mine.annotations[0].mask_id)
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(theirs.image.image_id, refined, owner="bob"))
        assert (await segment(engine, request(mine.image.image_id, owner="alice"))).cache_hit

    run(main, model)


def test_forgetting_is_final() -> None:
    """A deleted image's handle is gone, deleting it again says so, and the image is encoded anew."""
    model = FakeModel()

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        await engine.forget(handle.image_id, owner="me")
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(handle.image_id))
        with pytest.raises(EmbeddingExpiredError):
            await engine.forget(handle.image_id, owner="me")
        assert not (await segment(engine, request(picture()))).cache_hit

    run(main, model)


def test_forgetting_an_image_forgets_its_masks() -> None:
    """A mask of a forgotten image cannot be refined any more, also when the image comes again."""

    async def main(engine: Engine) -> None:
        first = await segment(engine, request(picture(), click(5, 5)))
        await engine.forget(first.image.image_id, owner="me")
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(picture(), Prompt(mask_id=first.annotations[0].mask_id)))

    run(main)


def test_a_prompt_the_model_cannot_take_costs_no_encode() -> None:
    """It is refused before the image is encoded."""
    model = FakeModel(capabilities=Capabilities(texts=1))

    async def main(engine: Engine) -> None:
        with pytest.raises(InvalidPromptError):
            await segment(engine, request(picture(), click(5, 5)))

    run(main, model)
    assert [] == model.encoded


def test_a_handle_belongs_to_one_model() -> None:
    """Naming another model is the caller's mistake; naming the same one, or an alias of it, is not."""

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture(), model="sam:100m")
        assert (await segment(engine, request(handle.image_id, model="sam_vit_b"))).cache_hit
        with pytest.raises(InvalidRequestError, match="belongs to the model sam:100m") as caught:
            await segment(engine, request(handle.image_id, model="sam2"))
        assert (422, "model") == (caught.value.status, caught.value.field)
        with pytest.raises(UnknownModelError):
            await segment(engine, request(handle.image_id, model="no-such"))

    run(main)


def test_a_mask_is_refined() -> None:
    """``mask_id`` hands the earlier answer's logits to the model, which adds the new click to it."""
    model = FakeModel()

    async def main(engine: Engine) -> tuple[SegmentResult, SegmentResult]:
        first = await segment(engine, request(picture(), click(10, 8)))
        prompt = replace(click(14, 8), mask_id=first.annotations[0].mask_id)
        return first, await segment(engine, request(first.image.image_id, prompt))

    first, second = run(main, model)

    assert Box(8, 6, 16, 10) == second.annotations[0].box
    assert first.annotations[0].mask_id != second.annotations[0].mask_id
    assert [False, True] == [mask_input is not None for _, mask_input, _ in model.decoded]


def test_a_mask_of_another_image_is_refused() -> None:
    """Also when both images are the caller's own, or the other model's of the same bytes; an unknown one is gone."""

    async def main(engine: Engine) -> None:
        first = await segment(engine, request(picture(), click(10, 8)))
        refined = replace(click(10, 8), mask_id=first.annotations[0].mask_id)
        for other in (request(picture(1), refined), request(picture(), refined, model="sam")):
            with pytest.raises(InvalidPromptError, match="another image or another model") as caught:
                await segment(engine, other)
            assert "prompt.mask_input" == caught.value.field
        with pytest.raises(EmbeddingExpiredError, match="without mask_input"):
            await segment(engine, request(picture(), replace(click(10, 8), mask_id="mask_0")))

    run(main)


ONE_BOX = Prompt(boxes=np.array([[0, 0, 5, 5]], np.float32))


@pytest.mark.parametrize(
    ("capabilities", "prompt", "part", "sentence"),
    [
        (Capabilities(texts=1), click(1, 1), "points", "one text"),
        (Capabilities(points=True), ONE_BOX, "box", "points"),
        (Capabilities(points=True), replace(click(1, 1), mask_id="mask_0"), "mask_input", "points"),
    ],
)
def test_what_a_model_cannot_take_is_refused(
    capabilities: Capabilities, prompt: Prompt, part: str, sentence: str
) -> None:
    """The message says what the model does take, the field which part is at fault; nothing is decoded."""
    model = FakeModel(capabilities=capabilities)

    async def main(engine: Engine) -> InvalidPromptError:
        with pytest.raises(InvalidPromptError) as caught:
            await segment(engine, request(picture(), prompt, model="sam2:tiny"))
        return caught.value

    error = run(main, model)

    assert f"sam2:tiny takes {sentence}" == str(error)
    assert (422, f"prompt.{part}") == (error.status, error.field)
    assert [] == model.decoded


@pytest.mark.parametrize(
    ("prompts", "field", "words"),
    [
        ([click(WIDTH + 1, 0)], "prompt.points[0]", "outside the image, which is 40 x 30 pixels"),
        ([click(0, -1)], "prompt.points[0]", "outside"),
        ([click(0, 0), replace(click(0, HEIGHT + 1), field="prompts[1]")], "prompts[1].points[0]", "outside"),
        ([Prompt(boxes=np.array([[5, 5, 4, 9]], np.float32))], "prompt.box", "swapped corners"),
        ([Prompt(boxes=np.array([[5, 5, 50, 9]], np.float32))], "prompt.box", "outside"),
    ],
)
def test_prompts_beside_the_image_are_refused(prompts: list[Prompt], field: str, words: str) -> None:
    """One bad prompt refuses the request, by its place in it; nothing is decoded."""
    model = FakeModel()

    async def main(engine: Engine) -> InvalidPromptError:
        with pytest.raises(InvalidPromptError, match=words) as caught:
            await segment(engine, request(picture(), *prompts))
        return caught.value

    assert field == run(main, model).field
    assert [] == model.decoded


@pytest.mark.parametrize(
    ("data", "error"), [(b"no image", InvalidImageError), (picture(width=500), ImageTooLargeError)]
)
def test_a_bad_image_is_refused(data: bytes, error: type[Exception]) -> None:
    """The image's own error comes out, and the engine answers the next request."""
    model = FakeModel()

    async def main(engine: Engine) -> None:
        with pytest.raises(error):
            await segment(engine, request(data))
        assert (await segment(engine, request(picture()))).annotations

    run(main, model, max_image_pixels=2000)

    assert [(HEIGHT, WIDTH)] == model.encoded


def test_a_restarted_server_knows_its_images_from_the_disk(tmp_path: Path) -> None:
    """With room on the disk a handle outlives the process, and the image sent again is a hit; forgetting is final."""
    model = FakeModel()
    handles = []

    async def first(engine: Engine) -> None:
        handles.append((await embed(engine, picture())).image_id)

    async def second(engine: Engine) -> None:
        (image_id,) = handles
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(image_id, owner="stranger"))
        assert (await segment(engine, request(image_id))).cache_hit
        assert (await segment(engine, request(picture()))).cache_hit
        assert (await segment(engine, request(picture()))).image.image_id == image_id
        await engine.forget(image_id, owner="me")

    async def third(engine: Engine) -> None:
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(handles[0]))

    for main in (first, second, third):
        run(main, model, cache=tmp_path, embedding_disk_bytes=10**8)

    assert 1 == len(model.encoded)


def test_without_room_on_the_disk_nothing_is_written_there(tmp_path: Path) -> None:
    """The tier is off unless it is given room: photos leave no trace."""

    async def main(engine: Engine) -> None:
        await embed(engine, picture())

    run(main, cache=tmp_path)

    assert [] == kept_embeddings(tmp_path)


def test_the_disk_gives_back_what_memory_had_to_drop(tmp_path: Path) -> None:
    """A cache too small for two images still answers both handles, each encoded once."""
    model = FakeModel()

    async def main(engine: Engine) -> None:
        first = await embed(engine, picture(5))
        second = await embed(engine, picture(9))
        for handle in (first, second, first):
            assert (await segment(engine, request(handle.image_id))).cache_hit

    run(main, model, cache=tmp_path, embedding_disk_bytes=10**8, embedding_cache_bytes=1)

    assert 2 == len(model.encoded)


def test_expired_files_go_without_a_write(tmp_path: Path) -> None:
    """The server looks for them by itself."""

    async def fill(engine: Engine) -> None:
        await embed(engine, picture())

    run(fill, cache=tmp_path, embedding_disk_bytes=10**8)
    (path,) = kept_embeddings(tmp_path)
    os.utime(path, (1, 1))

    async def wait(engine: Engine) -> None:
        await engine.preload()
        while kept_embeddings(tmp_path):
            await breathe()

    run(wait, cache=tmp_path, embedding_disk_bytes=10**8)


def test_a_use_from_memory_is_noted_on_the_disk(tmp_path: Path) -> None:
    """So the image that is clicked on all day is not the first to be deleted there."""

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        while not kept_embeddings(tmp_path):
            await breathe()
        os.utime(kept_embeddings(tmp_path)[0], (0, 0))
        assert (await segment(engine, request(handle.image_id))).cache_hit

    run(main, cache=tmp_path, embedding_disk_bytes=10**8)

    (file,) = kept_embeddings(tmp_path)
    assert file.stat().st_mtime > 0


def test_what_waits_to_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its owner alone, while memory has dropped it and the disk is slow; until it is forgotten."""
    writing, go_on = threading.Event(), threading.Event()
    real = EmbeddingFiles.put

    def slow(self: EmbeddingFiles, image_id: str, kept: KeptEmbedding, *, owner: str) -> None:
        writing.set()
        go_on.wait(WAIT_S)
        real(self, image_id, kept, owner=owner)

    monkeypatch.setattr(EmbeddingFiles, "put", slow)
    model = FakeModel()

    async def main(engine: Engine) -> None:
        first, second = await embed(engine, picture(5)), await embed(engine, picture(9))
        assert await asyncio.to_thread(writing.wait, WAIT_S)
        for handle in (first, second, first):
            assert (await segment(engine, request(handle.image_id))).cache_hit
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(first.image_id, owner="stranger"))
        forgetting = asyncio.create_task(engine.forget(first.image_id, owner="me"))
        await breathe()
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(first.image_id))
        go_on.set()
        await forgetting
        for image_id, is_known in ((first.image_id, False), (second.image_id, True)):
            with contextlib.nullcontext() if is_known else pytest.raises(EmbeddingExpiredError):
                await segment(engine, request(image_id))

    run(main, model, cache=tmp_path, embedding_disk_bytes=10**8, embedding_cache_bytes=1)

    assert 2 == len(model.encoded)


def test_what_is_forgotten_while_it_is_read_stays_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that reads the file in the same moment does not bring the image back into memory."""
    reading, go_on = threading.Event(), threading.Event()
    real = EmbeddingFiles.get

    def slow(self: EmbeddingFiles, image_id: str, *, owner: str) -> KeptEmbedding | None:
        found = real(self, image_id, owner=owner)
        reading.set()
        go_on.wait(WAIT_S)
        return found

    def kept() -> bool:
        return bool(kept_embeddings(tmp_path))

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        # The file is there a moment before it counts as written.
        while not kept() or engine._images._unwritten:
            await breathe()
        engine._embeddings.clear()
        monkeypatch.setattr(EmbeddingFiles, "get", slow)
        looking = asyncio.create_task(segment(engine, request(handle.image_id)))
        while not reading.is_set():
            await breathe()
        forgetting = asyncio.create_task(engine.forget(handle.image_id, owner="me"))
        while kept():
            await breathe()
        go_on.set()
        await asyncio.gather(looking, forgetting)
        with pytest.raises(EmbeddingExpiredError):
            await segment(engine, request(handle.image_id))

    run(main, cache=tmp_path, embedding_disk_bytes=10**8)
