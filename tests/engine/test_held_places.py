"""Results that keep their place in a lane until they are used, so that they do not pile up."""

import asyncio
from dataclasses import replace

import pytest
from engines import breathe, picture, reached, request, run, segment
from fake_model import FakeModel
from fake_model import Gate as ModelGate
from opened_lanes import Gate, lane, settle, wait_for

from osamd.engine import Engine, workers
from osamd.engine.lanes import Lane
from osamd.errors import OverloadedError
from osamd.segment_requests import SegmentResult
from osamd.timings import Timings
from osamd.types import ByteArray

IMAGES, WORKERS = 10, 2


def running(opened: Lane) -> int:
    """How many jobs have a place."""
    return opened.status().running


def test_a_result_keeps_its_place_until_it_is_used() -> None:
    """The next job does not begin before; using it twice, or after the block, changes nothing."""

    async def main() -> None:
        with await opened.run_and_hold(lambda: "first", Timings()) as first:
            await settle(lambda: running(opened) == 1)
            second = asyncio.create_task(opened.run(lambda: "second", Timings()))
            await settle(lambda: opened.waiting == 1)
            assert "first" == await asyncio.to_thread(first.use)
            assert "second" == await second
            assert "first" == first.use()
        assert "third" == await opened.run(lambda: "third", Timings())
        await settle(lambda: running(opened) == 0)

    with lane() as opened:
        asyncio.run(main())


def test_leaving_the_block_gives_up_the_place() -> None:
    """Also by an exception, such as a refusal of the next lane."""

    async def main() -> None:
        with pytest.raises(OverloadedError), await opened.run_and_hold(lambda: None, Timings()):
            raise OverloadedError("full")
        assert "next" == await opened.run(lambda: "next", Timings())

    with lane() as opened:
        asyncio.run(main())


def test_failed_and_abandoned_jobs_keep_no_place() -> None:
    """A job that raises, one that is cancelled while it waits or runs, and one whose result nobody takes."""

    def fail() -> None:
        raise ValueError("mine")

    async def main() -> None:
        with pytest.raises(ValueError, match="mine"):
            await opened.run_and_hold(fail, Timings())
        gate = Gate()
        begun = asyncio.create_task(opened.run_and_hold(gate, Timings()))
        await wait_for(gate.begun)
        waiting = asyncio.create_task(opened.run_and_hold(lambda: None, Timings()))
        await settle(lambda: opened.waiting == 1)
        for task in (waiting, begun):
            task.cancel()
        await asyncio.gather(begun, waiting, return_exceptions=True)
        gate.opened.set()
        untaken = asyncio.create_task(opened.run_and_hold(lambda: None, Timings()))
        await settle(lambda: running(opened) == 1 and opened.waiting == 0)
        untaken.cancel()
        await asyncio.gather(untaken, return_exceptions=True)
        if not untaken.cancelled():
            untaken.result().use()
        assert "next" == await opened.run(lambda: "next", Timings())
        await settle(lambda: running(opened) == 0)

    with lane() as opened:
        asyncio.run(main())


def test_another_owner_gets_the_spare_place() -> None:
    """A result that waits for long, such as for a slow encoder, does not hold up others."""

    async def main() -> None:
        with await opened.run_and_hold(lambda: None, Timings(), owner="slow"):
            assert "other" == await opened.run(lambda: "other", Timings(), owner="other")

    with lane(has_spare=True) as opened:
        asyncio.run(main())


def places(engine: Engine) -> dict[str, tuple[int, int]]:
    """How many jobs wait and run, by lane."""
    return {status.name: (status.waiting, status.running) for status in engine.status().lanes}


async def until_encoder_is_behind(engine: Engine, gate: ModelGate, images: int) -> list[asyncio.Task[SegmentResult]]:
    """Send images until one is at the gate of the encoder, and as many as may be are prepared."""
    tasks = [asyncio.create_task(segment(engine, request(picture(number)))) for number in range(images)]
    await reached(gate)
    while places(engine)["prepare"] != (images - 1 - WORKERS, WORKERS) or places(engine)["encode"] != (WORKERS, 1):
        await breathe()
    return tasks


@pytest.fixture(autouse=True)
def _two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has."""
    monkeypatch.setattr(workers, "PREPARE_WORKERS", (WORKERS, WORKERS))


def test_few_images_are_prepared_ahead_of_the_encoder() -> None:
    """The others wait as encoded images, which are small; all are answered in the end."""
    encoding = ModelGate()
    begun: list[int] = []

    async def main(engine: Engine) -> list[SegmentResult]:
        tasks = await until_encoder_is_behind(engine, encoding, IMAGES)
        assert 1 + WORKERS == len(begun)
        encoding.open()
        return list(await asyncio.gather(*tasks))

    results = run(main, FakeModel(on_prepare=lambda image: begun.append(len(image)), on_encode=encoding))
    assert IMAGES == len(results) == len(begun)


def test_cut_outs_of_a_known_image_do_not_wait_for_the_encoder() -> None:
    """They need the image's pixels, for which it is decoded once more."""
    gate = ModelGate()
    is_gated: list[bool] = []

    def on_encode(image: ByteArray) -> None:
        if is_gated:
            gate(image)

    async def main(engine: Engine) -> None:
        asked = replace(request(picture(99)), with_pixels=True)
        await segment(engine, asked)
        is_gated.append(True)
        tasks = await until_encoder_is_behind(engine, gate, IMAGES)
        result = await segment(engine, asked)
        assert result.cache_hit
        assert result.pixels is not None
        gate.open()
        await asyncio.gather(*tasks)

    run(main, FakeModel(on_encode=on_encode))


def test_a_full_queue_is_known_before_an_image_is_read() -> None:
    """For the owner of most that waits; another owner would get one of those places."""
    gate = ModelGate()

    async def main(engine: Engine) -> None:
        engine.check_room("me")
        tasks = await until_encoder_is_behind(engine, gate, 1 + WORKERS)
        tasks += [asyncio.create_task(segment(engine, request(picture(100 + number)))) for number in range(3)]
        while places(engine)["prepare"] != (3, WORKERS):
            await breathe()
        with pytest.raises(OverloadedError, match="queue is full: 3 requests waiting"):
            engine.check_room("me")
        engine.check_room("another")
        gate.open()
        await asyncio.gather(*tasks)
        engine.check_room("me")

    run(main, FakeModel(on_encode=gate), encode_queue=3)
