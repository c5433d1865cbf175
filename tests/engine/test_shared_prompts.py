import asyncio
import threading

import numpy as np
import pytest
from engines import WIDTH, embed, picture, reached, request, run, segment
from fake_model import FakeModel, Gate, click
from waiting import WAIT_S

from osamd.engine import Engine, shared_prompts
from osamd.errors import InferenceError, InvalidPromptError, OutOfMemoryError
from osamd.timings import Timings
from osamd.types import Prompt


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr(shared_prompts, "cpu_count", lambda: 2)


class Crowd:
    """A hook that counts how many prompts are decoded at the same time."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _: object) -> None:
        """Stay for a while, so that another one can come."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.005)
        with self._lock:
            self._now -= 1


def test_two_prompts_of_a_request_are_decoded_at_a_time() -> None:
    """Each waits for another one, so that they would wait in vain one after the other."""
    both = threading.Barrier(2)

    def on_decode(_: Prompt) -> None:
        both.wait(WAIT_S)

    async def main(engine: Engine) -> int:
        handle = await embed(engine, picture())
        return len((await segment(engine, request(handle.image_id, *[click(9, 9)] * 6))).annotations)

    assert 6 == run(main, FakeModel(on_decode=on_decode))


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

    run(main)


def test_mask_ids_refine_their_own_prompts() -> None:
    """Earlier masks go with their prompts into either half."""
    model = FakeModel()

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

    run(main, model)


def test_one_worker_is_left_to_others() -> None:
    """While something else is decoded, a request has one worker."""
    gate, crowd = Gate(), Crowd()

    def on_decode(prompt: Prompt) -> None:
        if prompt.points[0, 0] == 1:
            gate(prompt)
        else:
            crowd(prompt)

    async def main(engine: Engine) -> None:
        handle, other = await embed(engine, picture()), await embed(engine, picture(), owner="another")
        busy = asyncio.create_task(segment(engine, request(other.image_id, click(1, 1), owner="another")))
        await reached(gate)
        await segment(engine, request(handle.image_id, *[click(9, 9)] * 8))
        gate.open()
        await busy

    run(main, FakeModel(on_decode=on_decode))

    assert 1 == crowd.most


def test_a_single_core_decodes_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would take as long, and each other's memory."""
    monkeypatch.setattr(shared_prompts, "cpu_count", lambda: 1)
    crowd = Crowd()

    async def main(engine: Engine) -> None:
        await segment(engine, request(picture(), *[click(9, 9)] * 8))

    run(main, FakeModel(on_decode=crowd))

    assert 1 == crowd.most


@pytest.mark.parametrize("failing", [0, 7])
def test_a_prompt_that_fails_stops_all(failing: int) -> None:
    """The other half goes on with nothing that nobody waits for, and the next request finds free workers."""
    model = FakeModel()
    reached_other = threading.Event()

    def on_decode(prompt: Prompt) -> None:
        x = int(prompt.points[0, 0])
        if x == failing:
            assert reached_other.wait(WAIT_S)
            raise InferenceError("failed")
        if x < 20:
            reached_other.set()

    model.on_decode = on_decode

    async def main(engine: Engine) -> None:
        handle = await embed(engine, picture())
        with pytest.raises(InferenceError, match="failed"):
            await segment(engine, request(handle.image_id, *[click(x, 9) for x in range(8)]))
        assert 2 == len((await segment(engine, request(handle.image_id, click(20, 9), click(21, 9)))).annotations)

    run(main, model)


def test_halves_share_the_limit_of_masks() -> None:
    """Ten masks of 25 pixels are 250; one pixel less is refused, however they are divided."""

    async def main(engine: Engine) -> int:
        handle = await embed(engine, picture())
        return len((await segment(engine, request(handle.image_id, *[click(10, 10)] * 10))).annotations)

    assert 10 == run(main, max_mask_pixels=250)
    with pytest.raises(InvalidPromptError, match="249 pixels"):
        run(main, max_mask_pixels=249)


def test_masks_of_a_second_try_count_once() -> None:
    """Memory runs out after some masks; a half that is decoded again has the room of its first try."""
    failed: set[int] = set()

    def on_decode(prompt: Prompt) -> None:
        x = int(prompt.points[0, 0])
        if x in {12, 17} - failed:
            failed.add(x)
            raise OutOfMemoryError("full")

    async def main(engine: Engine) -> int:
        handle = await embed(engine, picture())
        return len(
            (await segment(engine, request(handle.image_id, *[click(x, 10) for x in range(10, 18)]))).annotations
        )

    assert 8 == run(main, FakeModel(on_decode=on_decode), max_mask_pixels=8 * 25)
    assert {12, 17} == failed


def test_stages_that_overlap_are_no_longer_than_the_time_that_passed() -> None:
    """What two workers did at the same time counts by its share, so that the stages still add up."""
    one, other, timings = Timings(), Timings(), Timings()
    one.add("decode", 3.0)
    one.add("mask", 1.0)
    other.add("decode", 2.0)
    other.add("queue", 2.0)
    timings.add("decode", 1.0)

    timings.add_overlapping([one, other], 4.0)

    assert {"queue": 1.0, "decode": 1.0 + 2.5, "mask": 0.5} == pytest.approx(dict(timings.seconds()))


def test_stopwatches_that_measured_nothing_add_nothing() -> None:
    """A request that was refused at once has no stages."""
    timings = Timings()

    timings.add_overlapping([Timings(), Timings()], 1.0)

    assert not timings.seconds()


def test_stages_of_a_request_add_up() -> None:
    """Those of a request with many prompts are its own time, not twice as much."""
    crowd, timings = Crowd(), Timings()

    async def main(engine: Engine) -> None:
        await engine.segment(request(picture(), *[click(9, 9)] * 30), timings)

    run(main, FakeModel(on_decode=crowd))

    assert 2 == crowd.most
    assert 0 < sum(timings.seconds().values()) <= timings.total()
