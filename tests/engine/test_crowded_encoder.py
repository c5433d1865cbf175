"""While more images wait, two are encoded at a time, unless that may take gigabytes."""

import asyncio
import threading

import pytest
from engines import breathe, picture, request, run, segment
from fake_model import FakeModel
from opened_lanes import Gate as JobGate
from opened_lanes import lane, settle, wait_for
from waiting import WAIT_S

from osamd.engine import Engine, image_encoder, workers
from osamd.timings import Timings
from osamd.types import ByteArray

PREPARED = 2
MANY = 7


@pytest.fixture(autouse=True)
def _two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has."""
    monkeypatch.setattr(workers, "PREPARE_WORKERS", (PREPARED, PREPARED))
    monkeypatch.setattr(workers, "cpu_count", lambda: 2)


def waiting(engine: Engine) -> int:
    """How many images wait to be decoded, or for the encoder."""
    return sum(status.waiting for status in engine.status().lanes if status.name in {"prepare", "encode"})


class Turns:
    """Encodes as many images as it is told to, and counts how many at a time."""

    def __init__(self) -> None:
        self._turns = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self, image: ByteArray) -> None:
        """Wait for a turn, on a worker."""
        del image
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        assert self._turns.acquire(timeout=WAIT_S)
        with self._lock:
            self.now -= 1

    def give(self, count: int) -> None:
        """Let this many images be encoded."""
        self._turns.release(count)


@pytest.fixture
def turns() -> Turns:
    """Of the images of a test."""
    return Turns()


def encode_several(turns: Turns, *, images: int, at_a_time: int, device: str = "cpu", parallel: int = 1) -> None:
    """Send images at once, and check how many are encoded while the others wait."""

    async def main(engine: Engine) -> None:
        tasks = [asyncio.create_task(segment(engine, request(picture(number)))) for number in range(images)]
        while turns.now != at_a_time or waiting(engine) != images - at_a_time:
            await breathe()
        turns.give(images)
        await asyncio.gather(*tasks)

    run(main, FakeModel(on_encode=turns, device=device), parallel=parallel, encode_queue=MANY)
    assert at_a_time == turns.most


@pytest.mark.parametrize("images", [3, MANY])
def test_two_at_a_time_while_two_more_wait(turns: Turns, images: int) -> None:
    """Of a model that takes little memory, on a CPU."""
    encode_several(turns, images=images, at_a_time=2)


def test_one_at_a_time_while_one_more_waits(turns: Turns) -> None:
    """The first is done as soon as it can be, and the second no later."""
    encode_several(turns, images=2, at_a_time=1)


def test_no_more_than_asked_for(turns: Turns) -> None:
    """``osamd batch`` has an image on each core already."""
    encode_several(turns, images=MANY, at_a_time=2, parallel=2)


def test_one_at_a_time_on_one_core(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait."""
    monkeypatch.setattr(workers, "cpu_count", lambda: 1)
    encode_several(turns, images=MANY, at_a_time=1)


def test_one_at_a_time_on_a_gpu(turns: Turns) -> None:
    """However many wait."""
    encode_several(turns, images=MANY, at_a_time=1, device="cuda")


def test_one_at_a_time_of_a_model_that_may_take_gigabytes(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait."""
    monkeypatch.setattr(image_encoder, "LIGHT_FAMILIES", frozenset())
    encode_several(turns, images=MANY, at_a_time=1)


def test_the_extra_thread_helps_any_owner_when_it_may() -> None:
    """Also the owner of what runs already; and not while it may not."""
    may_help = False

    async def main() -> None:
        nonlocal may_help
        gates = [JobGate() for _ in range(3)]
        tasks = [asyncio.create_task(opened.run(gate, Timings(), owner="me")) for gate in gates[:2]]
        await wait_for(gates[0].begun)
        await settle(lambda: opened.waiting == 1)
        may_help = True
        tasks.append(asyncio.create_task(opened.run(gates[2], Timings(), owner="me")))
        await wait_for(gates[1].begun)
        assert 2 == opened.status().running
        may_help = False
        gates[1].opened.set()
        await tasks[1]
        await settle(lambda: opened.status().running == 1)
        assert 1 == opened.waiting
        for gate in gates:
            gate.opened.set()
        await asyncio.gather(*tasks)

    with lane(may_help=lambda: may_help) as opened:
        asyncio.run(main())
