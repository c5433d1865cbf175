import asyncio
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from engines import HEIGHT, WIDTH, breathe, embed, loaded, picture, reached, request, run, segment
from fake_model import FakeModel, Gate, click
from pictures import disc_picture, encoded

from osamd.engine import Engine, lanes
from osamd.errors import (
    HungError,
    InferenceError,
    InvalidPromptError,
    ModelLoadError,
    ModelUnavailableError,
    OutOfMemoryError,
    OverloadedError,
    ShuttingDownError,
    UnknownModelError,
)
from osamd.events import Event, ModelLoaded
from osamd.image_sources import ExchangedEmbedding, ImageSource
from osamd.library.catalog import Model
from osamd.library.library import open_library
from osamd.segment_requests import ImageHandle, SegmentRequest, SegmentResult
from osamd.settings import load_settings
from osamd.timings import Timings
from osamd.types import ByteArray, Candidate, Capabilities, Embedding, MaskLogits, Prompt


def test_a_full_encode_queue_refuses() -> None:
    """One image is encoded, one waits, the third is refused at once; the first two are answered."""
    gate = Gate()

    async def main(engine: Engine) -> None:
        tasks = [asyncio.create_task(segment(engine, request(picture(0))))]
        await reached(gate)
        tasks.append(asyncio.create_task(segment(engine, request(picture(1)))))
        await breathe()
        with pytest.raises(OverloadedError) as caught:
            await segment(engine, request(picture(2)))
        assert (503, "overloaded") == (caught.value.status, caught.value.code)
        assert caught.value.retry_after_s
        gate.open()
        for result in await asyncio.gather(*tasks):
            assert result.annotations
        assert (await segment(engine, request(picture(2)))).annotations

    run(main, FakeModel(on_encode=gate), encode_queue=1)


def test_a_full_decode_queue_refuses() -> None:
    """The two decoders are busy and one request waits: the next is refused."""
    gate = Gate()

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        tasks = [asyncio.create_task(segment(engine, request(handle.image_id))) for _ in range(3)]
        await reached(gate)
        await breathe()
        with pytest.raises(OverloadedError):
            await segment(engine, request(handle.image_id))
        gate.open()
        assert 3 == len(await asyncio.gather(*tasks))

    run(main, FakeModel(on_decode=gate), decode_queue=1)


@pytest.mark.parametrize("stage", ["encode", "decode", "load"])
def test_a_request_can_be_given_up_and_the_engine_goes_on(stage: str) -> None:
    """Wherever a request is stuck its caller can cancel it, and once the worker is free the next is answered."""
    gate = Gate()
    model = FakeModel()
    if stage == "encode":
        model.on_encode = gate
    if stage == "decode":
        model.on_decode = gate

    def load(_: Model) -> FakeModel:
        if stage == "load":
            gate(None)
        return model

    async def main(engine: Engine) -> SegmentResult:
        task = asyncio.create_task(segment(engine, request(picture())))
        await reached(gate)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        gate.open()
        return await segment(engine, request(picture()))

    assert run(main, model, load=load).annotations


def test_a_failing_encode_fails_alone() -> None:
    """One poisoned image gets its error; those before and behind it are answered, and its failure is not remembered."""

    def on_encode(image: np.ndarray[Any, Any]) -> None:
        if image[0, 0, 0] == 66 and poisonous:
            raise InferenceError("poisoned")

    poisonous = True

    async def main(engine: Engine) -> None:
        nonlocal poisonous
        tasks = [asyncio.create_task(segment(engine, request(picture(shade)))) for shade in (65, 66, 66, 67)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [SegmentResult, InferenceError, InferenceError, SegmentResult] == [type(result) for result in results]
        poisonous = False
        assert not (await segment(engine, request(picture(66)))).cache_hit

    run(main, FakeModel(on_encode=on_encode))


@pytest.mark.parametrize("error", [InferenceError("failed"), ValueError("a bug"), OutOfMemoryError("full")])
def test_a_failing_decode_fails_alone(error: Exception) -> None:
    """One poisoned prompt gets its error, another on the same image its mask, and the image is still known."""

    def on_decode(prompt: Prompt) -> None:
        if prompt.points[0, 0] == 13:
            raise error

    async def main(engine: Engine) -> None:
        tasks = [asyncio.create_task(segment(engine, request(picture(), click(x, 5)))) for x in (12, 13, 14)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [SegmentResult, type(error), SegmentResult] == [type(result) for result in results]
        assert (await segment(engine, request(picture(), click(5, 5)))).cache_hit

    run(main, FakeModel(on_decode=on_decode))


def test_a_client_that_leaves_the_queue_costs_no_encode() -> None:
    """Its image is never encoded, and its place is free at once."""
    gate = Gate()
    model = FakeModel(on_encode=gate)

    async def main(engine: Engine) -> None:
        running = asyncio.create_task(segment(engine, request(picture(0))))
        await reached(gate)
        leaving = asyncio.create_task(segment(engine, request(picture(1, width=20))))
        await breathe()
        leaving.cancel()
        await asyncio.wait([leaving])
        coming = asyncio.create_task(segment(engine, request(picture(2, width=30))))
        await breathe()
        gate.open()
        await asyncio.gather(running, coming)

    run(main, model, encode_queue=1)

    assert [(HEIGHT, WIDTH), (HEIGHT, 30)] == model.encoded


def test_an_encode_that_took_too_long_is_not_lost() -> None:
    """Its client gave up; when they come back with the same image, the embedding is there."""
    gate = Gate()
    model = FakeModel(on_encode=gate)

    async def main(engine: Engine) -> bool:
        task = asyncio.create_task(segment(engine, request(picture())))
        await reached(gate)
        task.cancel()
        await asyncio.wait([task])
        gate.open()
        while not model.encoded:
            await breathe()
        await breathe()
        return (await segment(engine, request(picture()))).cache_hit

    assert run(main, model)
    assert [(HEIGHT, WIDTH)] == model.encoded


@pytest.mark.parametrize("leaving", [0, 1])
def test_a_client_that_leaves_a_shared_encode_leaves_the_others(leaving: int) -> None:
    """Of two who wait for one encode, either may go."""
    gate = Gate()
    model = FakeModel(on_encode=gate)

    async def main(engine: Engine) -> SegmentResult:
        tasks = [asyncio.create_task(segment(engine, request(picture())))]
        await reached(gate)
        tasks.append(asyncio.create_task(segment(engine, request(picture()))))
        await breathe()
        tasks[leaving].cancel()
        await breathe()
        gate.open()
        return await tasks[1 - leaving]

    assert run(main, model).annotations
    assert 1 == len(model.encoded)


def test_a_model_is_loaded_once_and_announced() -> None:
    """Many first requests, one load, one event; its name is then among the loaded."""
    loads: list[str] = []
    events: list[Event] = []

    def load(model: Model) -> FakeModel:
        loads.append(model.name)
        return FakeModel()

    async def main(engine: Engine) -> set[str]:
        await asyncio.gather(*[segment(engine, request(picture(shade), model="sam2")) for shade in range(5)])
        return loaded(engine)

    assert {"sam2:latest"} == run(main, load=load, sinks=(events.append,))
    assert ["sam2:latest"] == loads
    assert [("sam2:latest", "fake")] == [(one.model, one.device) for one in events if isinstance(one, ModelLoaded)]


def test_a_failed_load_is_tried_again() -> None:
    """A model that did not load is not given up for ever."""
    failures = [ModelLoadError("broken file")]

    def load(_: Model) -> FakeModel:
        if failures:
            raise failures.pop()
        return FakeModel()

    async def main(engine: Engine) -> SegmentResult:
        with pytest.raises(ModelLoadError):
            await segment(engine, request(picture()))
        return await segment(engine, request(picture()))

    assert run(main, load=load).annotations


def test_preloading_makes_ready() -> None:
    """Not ready before, ready after, with every model that was asked for."""

    async def main(engine: Engine) -> tuple[str, str, set[str]]:
        before = engine.state
        await engine.preload()
        return before, engine.state, loaded(engine)

    assert ("loading", "ready", {"builtin:latest", "sam:100m"}) == run(main, preload=("builtin", "sam_vit_b"))


def test_who_waits_for_a_model_does_not_wait_for_its_first_run_too() -> None:
    """A model that somebody waits for while it is loaded is not warmed up first: that request is its first run."""
    asked_for, unasked = FakeModel(), FakeModel()
    gate = Gate()

    def load(model: Model) -> FakeModel:
        gate(model)
        return asked_for if model.family == "sam" else unasked

    async def main(engine: Engine) -> bool:
        preloading = asyncio.create_task(engine.preload())
        await reached(gate)
        waiting = asyncio.create_task(segment(engine, request(picture(), model="sam:100m")))
        await breathe()
        gate.open()
        await asyncio.gather(preloading, waiting)
        return engine.state == "ready"

    assert run(main, load=load, preload=("sam:100m", "builtin"))
    assert [(HEIGHT, WIDTH)] == asked_for.encoded
    assert [(256, 256)] == unasked.encoded


def test_one_model_that_fails_does_not_keep_the_others_from_loading() -> None:
    """The first error is told after all were tried, and the engine is not ready."""

    def load(model: Model) -> FakeModel:
        if model.family == "sam":
            raise ModelUnavailableError(f"{model.name} is missing")
        return FakeModel()

    async def main(engine: Engine) -> tuple[bool, set[str]]:
        with pytest.raises(ModelUnavailableError, match="sam:100m"):
            await engine.preload()
        return engine.state == "ready", loaded(engine)

    assert (False, {"builtin:latest"}) == run(main, load=load, preload=("sam:100m", "builtin", "sam:300m"))


def test_a_preload_that_names_no_model_is_not_ready() -> None:
    """A misspelt name is an error at preloading, and /ready says no instead of failing itself."""

    async def main(engine: Engine) -> bool:
        with pytest.raises(UnknownModelError):
            await engine.preload()
        return engine.state == "ready"

    assert not run(main, preload=("no-such-model",))


def test_nothing_to_preload_is_ready() -> None:
    """A server that loads on demand is ready at once."""

    async def main(engine: Engine) -> bool:
        await engine.preload()
        return engine.state == "ready"

    assert run(main, preload="none")


def test_a_gpu_is_tried_even_with_nothing_to_preload() -> None:
    """With ``cuda`` the built-in model is loaded before the server is ready: a promise of a GPU is kept or not made."""

    async def main(engine: Engine) -> tuple[str, str, set[str]]:
        before = engine.state
        await engine.preload()
        return before, engine.state, loaded(engine)

    assert ("loading", "ready", {"builtin:latest"}) == run(main, preload=(), device="cuda")


def test_close_finishes_what_runs_and_refuses_the_rest() -> None:
    """The running encode ends, who waits and who comes later hears that the server goes, and nobody hangs."""
    gate = Gate()
    model = FakeModel(on_encode=gate)

    async def main(engine: Engine) -> None:
        running = asyncio.create_task(embed(engine, picture(0)))
        await reached(gate)
        waiting = asyncio.create_task(embed(engine, picture(1)))
        await breathe()
        closing = asyncio.create_task(engine.close())
        with pytest.raises(ShuttingDownError):
            await waiting
        gate.open()
        await closing
        assert (WIDTH, HEIGHT) == ((await running).width, (await running).height)
        with pytest.raises(ShuttingDownError):
            await embed(engine, picture(2))
        assert not loaded(engine)

    run(main, model)

    assert 1 == len(model.encoded)


def test_the_built_in_model_answers_through_the_engine() -> None:
    """With the packaged weights, a click on the disc finds it."""
    settings = load_settings(preload=("builtin",), device="cpu", threads=2)

    async def main() -> SegmentResult:
        engine = Engine(settings, library=open_library(settings))
        try:
            await engine.preload()
            return await segment(engine, request(encoded(disc_picture()), click(70, 50)))
        finally:
            await engine.close()

    result = asyncio.run(main())

    (annotation,) = result.annotations
    assert ("cpu", "builtin:latest") == (result.device, result.image.model)
    box = annotation.box
    assert max(abs(box.xmin - 38), abs(box.ymin - 18), abs(box.xmax - 102), abs(box.ymax - 82)) <= 4


@pytest.mark.parametrize(("device", "most"), [("cuda", 1), ("cpu", 2)])
def test_what_nobody_waits_for_is_not_decoded_on(device: str, most: int) -> None:
    """A request that was given up stops after the prompt it is at, or the two, and the next one gets a worker."""
    gate = Gate()
    model = FakeModel(device=device, on_decode=gate)

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        task = asyncio.create_task(segment(engine, request(handle.image_id, *[click(5, 5)] * 20)))
        await reached(gate)
        task.cancel()
        await asyncio.wait([task])
        gate.open()
        assert (await segment(engine, request(handle.image_id, click(6, 6)))).annotations

    run(main, model)

    # Counted when the engine has closed, and so has let its workers finish.
    assert len(model.decoded) in {2, most + 1}


def test_masks_of_one_request_are_bounded() -> None:
    """Each mask keeps a byte a pixel of its box: 25 here, and no request may hold more than the setting says."""

    async def main(engine: Engine) -> int:
        handle = await embed(engine, picture())
        with pytest.raises(InvalidPromptError, match="100 pixels") as caught:
            await segment(engine, request(handle.image_id, *[click(10, 10)] * 5))
        assert 422 == caught.value.status
        return len((await segment(engine, request(handle.image_id, *[click(10, 10)] * 4))).annotations)

    assert 4 == run(main, max_mask_pixels=100)


def test_a_sink_that_fails_breaks_no_request() -> None:
    """What is told of a request does not decide how it ends, and the other sinks hear of it."""
    heard: list[Event] = []

    def fail(_: Event) -> None:
        raise RuntimeError("a full pipe")

    async def main(engine: Engine) -> None:
        await segment(engine, request(picture(), click(5, 5)))

    run(main, sinks=(fail, heard.append))
    assert any(isinstance(event, ModelLoaded) for event in heard)


@pytest.mark.parametrize("owner", ["me", "another"])
def test_many_prompts_let_clicks_pass(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While two requests of 64 prompts have all decoders, a click waits for a prompt of theirs, not for all."""
    monkeypatch.setattr(lanes, "SLICE_S", 0.0)
    gate = Gate()
    asked: list[list[float]] = []

    def on_decode(prompt: Prompt) -> None:
        asked.append(prompt.points[0].tolist())
        gate(prompt)

    def decoding(engine: Engine) -> int:
        (lane,) = [lane for lane in engine.status().lanes if lane.name == "decode"]
        return lane.waiting + lane.running

    async def main(engine: Engine) -> None:
        handles = {name: (await embed(engine, picture(), owner=name)).image_id for name in ("me", owner)}
        many = [
            asyncio.create_task(segment(engine, request(handles["me"], *[click(5, 5)] * 64, owner="me")))
            for _ in range(2)
        ]
        while len(asked) < 2:
            await breathe()
        one = asyncio.create_task(segment(engine, request(handles[owner], click(7, 7), owner=owner)))
        while decoding(engine) < 3:
            await breathe()
        gate.open()
        assert 1 == len((await one).annotations)
        assert [64, 64] == [len(result.annotations) for result in await asyncio.gather(*many)]

    run(main, FakeModel(on_decode=on_decode))

    assert asked.index([7.0, 7.0]) < 10


@dataclass
class Reader(FakeModel):
    """Answers texts one after the other, like SAM 3.

    Attributes:
        read: the texts answered.
    """

    capabilities: Capabilities = field(default_factory=lambda: Capabilities(texts=64))
    read: list[str] = field(default_factory=list)

    def decode_in_steps(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> Generator[None, None, list[Candidate]]:
        """A mask in the middle for each text."""
        found: list[Candidate] = []
        for text in prompt.texts:
            if found:
                yield
            self.read.append(text)
            (candidate,) = self.decode(embedding, click(9, 9), mask_input=mask_input, multimask=multimask)
            found.append(replace(candidate, text=text))
        return found


async def _read(engine: Engine, handle: ImageHandle, *texts: str, timings: Timings | None = None) -> list[str | None]:
    asked = request(handle.image_id, Prompt(texts=texts))
    result = await engine.segment(asked, timings or Timings())
    return [annotation.text for annotation in result.annotations]


def test_many_texts_let_clicks_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """While requests of 64 texts in one prompt have all decoders, another waits for a text of theirs, not for all."""
    monkeypatch.setattr(lanes, "SLICE_S", 0.0)
    gate = Gate()
    model = Reader(on_decode=gate)
    many = tuple(f"text {number}" for number in range(64))

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture(), model="sam3")
        timings = Timings()
        busy = [asyncio.create_task(_read(engine, handle, *many, timings=timings)) for _ in range(2)]
        while len(model.read) < 2:
            await breathe()
        one = asyncio.create_task(_read(engine, handle, "one"))
        while sum(lane.waiting + lane.running for lane in engine.status().lanes if lane.name == "decode") < 3:
            await breathe()
        gate.open()
        assert await one == ["one"]
        assert await asyncio.gather(*busy) == [list(many)] * 2
        assert timings.seconds()["decode"] > 0

    run(main, model)
    assert model.read.index("one") < 10


def test_an_abandoned_prompt_of_many_texts_stops_at_its_next_text() -> None:
    """It keeps no worker for the texts that nobody waits for."""
    gate = Gate()
    model = Reader(on_decode=gate)

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture(), model="sam3")
        left = asyncio.create_task(_read(engine, handle, *map(str, range(64))))
        await reached(gate)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        gate.open()
        assert await _read(engine, handle, "one") == ["one"]

    # Closing the engine waits for what runs.
    run(main, model)
    assert sorted(model.read) == ["0", "one"]


def test_an_embedding_whose_decoding_hangs_is_not_called_wrong() -> None:
    """The caller of an embedding of their own learns that it was given up, not that it is none of this model."""
    gate = Gate()

    async def main(engine: Engine) -> None:
        values = np.zeros((3, HEIGHT, WIDTH), np.float32)
        source = ImageSource.of_embedding(ExchangedEmbedding(HEIGHT, WIDTH, (values,)))
        with pytest.raises(HungError) as caught:
            await segment(engine, SegmentRequest(source, prompts=(click(5, 5),), owner="me"))
        assert (500, "hung") == (caught.value.status, caught.value.code)
        gate.open()

    run(main, FakeModel(on_decode=gate), hang_s=0.1)


def test_images_are_prepared_while_the_encoder_is_busy() -> None:
    """The device has one lane; decoding and resizing images has several threads, and does not wait for the device."""
    encoding, preparing = Gate(), Gate()
    begun: list[int] = []

    def on_prepare(image: ByteArray) -> None:
        begun.append(len(image))
        if len(begun) > 1:
            preparing(image)

    async def main(engine: Engine) -> None:
        first = asyncio.create_task(segment(engine, request(picture(height=10))))
        await reached(encoding)
        others = [asyncio.create_task(segment(engine, request(picture(height=height)))) for height in (20, 30)]
        while len(begun) < 3:
            await breathe()
        running = {lane.name: lane.running for lane in engine.status().lanes}
        assert (2, 1) == (running["prepare"], running["encode"])
        preparing.open()
        encoding.open()
        assert [False] * 3 == [result.cache_hit for result in await asyncio.gather(first, *others)]

    run(main, FakeModel(on_prepare=on_prepare, on_encode=encoding))
