import asyncio
import threading
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from engines import WIDTH, breathe, embed, picture, reached, request, run, segment
from fake_model import FakeModel, Gate, click
from waiting import WAIT_S

from osamd.engine import Engine, lanes, workers
from osamd.engine.shared_prompts import SharedPrompts, Take
from osamd.errors import HungError, InferenceError, InvalidPromptError, OutOfMemoryError
from osamd.timings import Timings
from osamd.types import Prompt


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr(workers, "cpu_count", lambda: 2)


def light(**hooks: Any) -> FakeModel:
    """A model that may decode two prompts of a request at a time."""
    return FakeModel(device="cpu", **hooks)


def in_pairs(model: FakeModel) -> FakeModel:
    """Let it decode a prompt only while it decodes another one, which is in vain if they come one after the other."""
    both = threading.Barrier(2)

    def on_decode(_: Prompt) -> None:
        both.wait(WAIT_S)

    model.on_decode = on_decode
    return model


class Crowd:
    """A hook that counts how many prompts are decoded at the same time."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _: object) -> None:
        """Count this one for long enough that another one could come."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.005)
        with self._lock:
            self._now -= 1


def test_two_prompts_of_a_request_are_decoded_at_a_time() -> None:
    """By two workers of an idle lane; the stages add up to no more than the time that passed."""
    timings = Timings()

    async def main(engine: Engine) -> int:
        handle = await embed(engine, picture())
        return len((await engine.segment(request(handle.image_id, *[click(9, 9)] * 6), timings)).annotations)

    assert 6 == run(main, in_pairs(light()))
    assert 0 < sum(timings.seconds().values()) <= timings.total()


def test_answers_come_in_the_order_of_the_prompts() -> None:
    """With the number of its prompt, whichever worker decoded it, also of an odd number of prompts."""
    places = [(x, 3 + x % 20) for x in range(5, WIDTH - 5, 2)]
    assert len(places) % 2

    async def main(engine: Engine) -> None:
        result = await segment(engine, request(picture(), *[click(*place) for place in places], multimask=True))
        assert [(index, mask) for index in range(len(places)) for mask in range(3)] == [
            (item.prompt_index, item.mask_index) for item in result.annotations
        ]
        for item in result.annotations[::3]:
            x, y = places[item.prompt_index]
            assert (max(0, x - 2), max(0, y - 2)) == (item.box.xmin, item.box.ymin)

    run(main, light())


def test_mask_ids_refine_their_own_prompts() -> None:
    """Earlier masks go with their prompts to either worker."""

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        first = await segment(engine, request(handle.image_id, *[click(x, 9) for x in (5, 15, 25)]))
        again = [
            Prompt(np.array([[x, 20]], np.float32), np.ones(1, np.int64), mask_id=item.mask_id)
            for x, item in zip((5, 15, 25), first.annotations, strict=True)
        ]
        second = await segment(engine, request(handle.image_id, *again))
        assert [(x - 2, 7, x + 2, 22) for x in (5, 15, 25)] == [
            (item.box.xmin, item.box.ymin, item.box.xmax, item.box.ymax) for item in second.annotations
        ]

    run(main, light())


@pytest.mark.parametrize(
    ("cores", "device", "family"), [(1, "cpu", "builtin"), (2, "cuda", "builtin"), (2, "cpu", "sam2:tiny")]
)
def test_others_decode_one_prompt_at_a_time(
    cores: int, device: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one core nothing is gained, and two decoders of a large model or on a GPU may not fit into memory."""
    monkeypatch.setattr(workers, "cpu_count", lambda: cores)
    crowd = Crowd()

    async def main(engine: Engine) -> None:
        await segment(engine, request(picture(), *[click(9, 9)] * 8, model=family))

    run(main, FakeModel(device=device, on_decode=crowd))

    assert 1 == crowd.most


@pytest.mark.parametrize("owner", ["me", "another"])
def test_no_second_worker_while_the_lane_has_work(owner: str) -> None:
    """A request that comes while something is decoded has one job."""
    gate = Gate()

    async def main(engine: Engine) -> None:
        handle, other = await embed(engine, picture()), await embed(engine, picture(), owner=owner)
        busy = asyncio.create_task(segment(engine, request(other.image_id, click(1, 1), owner=owner)))
        await reached(gate)
        late = asyncio.create_task(segment(engine, request(handle.image_id, *[click(9, 9)] * 8)))
        await breathe()
        (lane,) = [lane for lane in engine.status().lanes if lane.name == "decode"]
        assert 2 == lane.running + lane.waiting
        gate.open()
        await asyncio.gather(busy, late)

    run(main, light(on_decode=gate))


def test_the_second_worker_is_given_up_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A click of the same key waits for the prompts that are being decoded, not for a turn among two jobs."""
    monkeypatch.setattr(lanes, "SLICE_S", 1e9)
    gate = Gate()
    asked: list[int] = []

    def on_decode(prompt: Prompt) -> None:
        asked.append(int(prompt.points[0, 0]))
        gate(prompt)

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        many = asyncio.create_task(segment(engine, request(handle.image_id, *[click(5, 5)] * 40)))
        while len(asked) < 2:
            await breathe()
        one = asyncio.create_task(segment(engine, request(handle.image_id, click(7, 7))))
        while not any(lane.waiting for lane in engine.status().lanes):
            await breathe()
        gate.open()
        await one
        assert 40 == len((await many).annotations)

    run(main, light(on_decode=on_decode))

    # With turns as long as this, it would come after all others if both workers kept on.
    assert asked.index(7) < 38


@pytest.mark.parametrize("failing", [{0}, {7}, {2, 6}])
def test_the_first_prompt_that_fails_is_told(failing: set[int]) -> None:
    """Whichever worker met a fault first; the next request is answered."""

    def on_decode(prompt: Prompt) -> None:
        x = int(prompt.points[0, 0])
        if x in failing:
            raise InferenceError(f"prompt {x} failed")

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        for _ in range(5):
            with pytest.raises(InferenceError, match=f"prompt {min(failing)} failed"):
                await segment(engine, request(handle.image_id, *[click(x, 9) for x in range(8)]))
        assert 2 == len((await segment(engine, request(handle.image_id, click(20, 9), click(21, 9)))).annotations)

    run(main, light(on_decode=on_decode))


def test_a_worker_that_hangs_fails_the_request() -> None:
    """Its prompts are lost, whichever of the two it is."""
    gate = Gate()

    def on_decode(prompt: Prompt) -> None:
        if prompt.points[0, 0] == 7:
            gate(prompt)

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        with pytest.raises(HungError):
            await segment(engine, request(handle.image_id, *[click(x, 9) for x in range(8)]))
        gate.open()

    run(main, light(on_decode=on_decode), hang_s=0.2)


def test_workers_share_the_limit_of_masks() -> None:
    """Ten masks of 25 pixels are 250; one pixel less is refused, however they are divided."""

    async def main(engine: Engine) -> int:
        handle = await embed(engine, picture())
        return len((await segment(engine, request(handle.image_id, *[click(10, 10)] * 10))).annotations)

    assert 10 == run(main, light(), max_mask_pixels=250)
    with pytest.raises(InvalidPromptError, match="249 pixels"):
        run(main, light(), max_mask_pixels=249)


@pytest.mark.parametrize("failing", [10, 13, 17])
def test_masks_of_a_second_try_count_once(failing: int) -> None:
    """Memory runs out once, on either worker; what is decoded again has the room of the first try."""
    failed: list[int] = []

    def on_decode(prompt: Prompt) -> None:
        if prompt.points[0, 0] == failing and not failed:
            failed.append(failing)
            raise OutOfMemoryError("full")

    async def main(engine: Engine) -> list[int]:
        handle = await embed(engine, picture())
        result = await segment(engine, request(handle.image_id, *[click(x, 10) for x in range(10, 18)]))
        return [item.prompt_index for item in result.annotations]

    assert list(range(8)) == run(main, light(on_decode=on_decode), max_mask_pixels=8 * 25)
    assert [failing] == failed


def test_prompts_are_taken_from_both_ends_and_put_back() -> None:
    """Each once; a job that fails leaves the order as it was."""
    shared = SharedPrompts(5)

    def fail(turn: AbstractContextManager[Take], expected: list[int]) -> None:
        with turn as take:
            assert expected == [take() for _ in expected]
            raise InferenceError("failed")

    with shared.first_to_last() as first, shared.last_to_first(lambda: True) as last:
        assert [0, 4, 1] == [first(), last(), first()]
        with pytest.raises(InferenceError):
            fail(shared.first_to_last(), [2])
        with pytest.raises(InferenceError):
            fail(shared.last_to_first(lambda: True), [3, 2])
        assert shared.are_left
        with shared.last_to_first(lambda: False) as none:
            assert none() is None
        assert [2, 3, None, None] == [first(), last(), first(), last()]
    assert not shared.are_left


def test_stages_that_overlap_are_no_longer_than_the_time_that_passed() -> None:
    """What two workers did at the same time counts by its share; a stage began when the first of them began it."""
    one, other, timings = Timings(), Timings(), Timings()
    one.add("decode", 3.0, begun=timings.made + 2.0)
    one.add("mask", 1.0, begun=timings.made + 5.0)
    other.add("decode", 2.0, begun=timings.made + 1.0)
    other.add("queue", 2.0, begun=timings.made + 0.5)

    timings.add_overlapping([one, other], 4.0)

    assert {"queue": 1.0, "decode": 2.5, "mask": 0.5} == pytest.approx(dict(timings.seconds()))
    assert {"queue": 0.5, "decode": 1.0, "mask": 5.0} == pytest.approx(dict(timings.begun()))


@pytest.mark.parametrize("seconds", [1.0, 90.0])
def test_stages_are_not_stretched_to_the_time_that_passed(seconds: float) -> None:
    """A worker may also have waited where no stage counts, and a refused one has no stages."""
    one, timings = Timings(), Timings()
    one.add("decode", 1.0)

    timings.add_overlapping([one, Timings()], seconds)
    timings.add_overlapping([Timings(), Timings()], seconds)

    assert {"decode": 1.0} == pytest.approx(dict(timings.seconds()))
