"""What happens when memory runs out."""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import cv2
import pytest
from engines import embed, loaded, picture, request, run, segment
from fake_model import FakeModel, click
from opened_lanes import settle
from timers import HeldTimers
from waiting import WAIT_S

from osamd.engine import Engine, workers
from osamd.engine.lanes import MOST_HUNG
from osamd.engine.workers import Workers
from osamd.errors import HungError, InferenceError, OutOfMemoryError
from osamd.events import Event, MemoryRanOut, WorkerHung
from osamd.keep_alive import PINNED
from osamd.runtime.out_of_memory import is_out_of_memory
from osamd.settings import load_settings
from osamd.timings import Timings
from osamd.types import ByteArray


class Short:
    """An encoder for which memory runs out until a condition holds, or so many times."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error = error
        self.left = times

    def __call__(self, _: ByteArray) -> None:
        """Fail, or not any more."""
        if self.left:
            self.left -= 1
            raise self.error


def cuda_failure(message: str) -> Exception:
    """An error as ONNX Runtime raises it."""
    kind = type("RuntimeException", (Exception,), {"__module__": "onnxruntime.capi.onnxruntime_pybind11_state"})
    error: Exception = kind(message)
    return error


def raised_from(error: Exception, cause: BaseException) -> Exception:
    """An error with what it was raised from."""
    error.__cause__ = cause
    return error


LOOP = ValueError("no")
LOOP.__cause__ = RuntimeError("no")
LOOP.__cause__.__cause__ = LOOP
OUT_OF_MEMORY = [
    MemoryError(),
    OutOfMemoryError("full"),
    cuda_failure(
        "[ONNXRuntimeError] : 6 : bfc_arena.cc:376 Available memory of 0 is smaller than requested bytes of 1"
    ),
    cuda_failure("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc"),
    cuda_failure("[ONNXRuntimeError] : 1 : FAIL : bad allocation"),
    cv2.error("OpenCV(4.13) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes in function"),
    RuntimeError("std::bad_alloc"),
    raised_from(InferenceError("the encoder failed"), cuda_failure("CUDA failure 2: out of memory")),
    raised_from(ValueError("no"), raised_from(InferenceError("no"), MemoryError())),
]
SOMETHING_ELSE = [
    InferenceError("the input says: out of memory"),
    ValueError("out of memory"),
    cuda_failure("CUDA failure 700: an illegal memory access was encountered"),
    RuntimeError("no"),
    LOOP,
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_memory_that_ran_out_is_known_by_its_words(error: Exception) -> None:
    """Every library says it in its own way."""
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", SOMETHING_ELSE, ids=repr)
def test_other_failures_are_none(error: Exception) -> None:
    """Words alone do not make one; a caller could choose them."""
    assert not is_out_of_memory(error)


def both(model: FakeModel, events: list[Event], main: Callable[[Engine], Any]) -> None:
    """Run with one model for all names."""
    run(main, load=lambda _: model, sinks=(events.append,))


def test_idle_models_make_room_and_it_is_tried_once_more() -> None:
    """The caller sees nothing of it; a pinned model stays."""
    events: list[Event] = []

    async def main(engine: Engine) -> None:
        await embed(engine, picture(1), model="sam:100m")
        await segment(engine, request(picture(1), click(5, 5), model="sam:300m", keep_alive=PINNED))
        model.on_encode = Short(MemoryError(), 1)
        await embed(engine, picture(2), model="builtin")
        assert {"builtin:latest", "sam:300m"} == loaded(engine)

    model = FakeModel()
    both(model, events, main)

    (ran_out,) = [event for event in events if isinstance(event, MemoryRanOut)]
    assert ("builtin:latest", ("sam:100m",)) == (ran_out.model, ran_out.unloaded)


def test_what_never_fits_is_told_so() -> None:
    """After the second try the caller hears when to come back, and the next request is served."""

    async def main(engine: Engine) -> None:
        with pytest.raises(OutOfMemoryError) as caught:
            await embed(engine, picture(1))
        assert (503, "out_of_memory", 10.0) == (caught.value.status, caught.value.code, caught.value.retry_after_s)
        await embed(engine, picture(2))

    both(FakeModel(on_encode=Short(MemoryError(), 2)), [], main)


def test_a_model_that_does_not_fit_beside_another_is_loaded_without_it() -> None:
    """The same holds for loading."""
    failures = [MemoryError()]

    def load(row: Any) -> FakeModel:
        if row.name == "sam:300m" and failures:
            raise failures.pop()
        return FakeModel()

    async def main(engine: Engine) -> None:
        await embed(engine, picture(1), model="sam:100m")
        await embed(engine, picture(1), model="sam:300m")
        assert {"sam:300m"} == loaded(engine)

    run(main, load=load)


def test_a_models_own_use_is_not_idleness() -> None:
    """The model that ran out, and those at work for others, stay."""

    async def main(engine: Engine) -> None:
        await asyncio.gather(*[embed(engine, picture(shade), model="sam:100m") for shade in range(3)])
        assert {"sam:100m"} == loaded(engine)

    both(FakeModel(on_encode=Short(MemoryError(), 1)), [], main)


def test_memory_is_given_back_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once nothing has been computed for a while, not between one piece of work and the next; never after the end."""
    given_back: list[str] = []
    monkeypatch.setattr(workers, "release_memory", lambda: given_back.append("released"))

    async def main() -> None:
        timers = HeldTimers({workers.REST_S})
        lanes = Workers(load_settings(), unload_idle=list, emit=lambda _: None)
        for _ in range(5):
            await lanes.run(lanes.decode, lambda: None, model="model:tag", timings=Timings())
            await settle(lambda: [workers.REST_S] == timers.pending)
        assert not given_back
        timers.fire()
        await settle(lambda: bool(given_back))
        await lanes.run(lanes.decode, lambda: None, model="model:tag", timings=Timings())
        await lanes.close(patience_s=None)
        assert not timers.pending

    asyncio.run(main())

    assert ["released"] == given_back


def test_memory_is_not_given_back_during_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encode of a large model may take longer than the while after which memory is given back."""
    monkeypatch.setattr(workers, "release_memory", lambda: None)
    go_on = threading.Event()

    async def main() -> None:
        timers = HeldTimers({workers.REST_S})
        lanes = Workers(load_settings(), unload_idle=list, emit=lambda _: None)
        work = functools.partial(lanes.run, model="model:tag", timings=Timings())
        await work(lanes.prepare, lambda: None)
        encode = asyncio.create_task(work(lanes.encode, go_on.wait))
        await settle(lambda: not timers.pending)
        await work(lanes.decode, lambda: None)
        assert not timers.pending
        go_on.set()
        await encode
        assert [workers.REST_S] == timers.pending
        await lanes.close(patience_s=None)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["load", "prepare", "encode", "whole", "decode"])
def test_every_lane_gives_up_what_hangs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading too, after a longer while; three hung jobs are told as stuck."""
    monkeypatch.setattr(workers, "LOAD_HANG_S", 0.0)
    go_on = threading.Event()
    events: list[Event] = []

    async def main() -> None:
        lanes = Workers(load_settings(hang_s=0.05), unload_idle=list, emit=events.append)
        lane = getattr(lanes, name)
        for _ in range(MOST_HUNG):
            assert not lanes.is_stuck
            with pytest.raises(HungError):
                await lanes.run(lane, lambda: go_on.wait(WAIT_S), model="", timings=Timings())
        assert lanes.is_stuck
        go_on.set()
        async with asyncio.timeout(WAIT_S):
            while lane.hung:
                await asyncio.sleep(0.01)
        assert await lanes.close(patience_s=20)

    asyncio.run(main())
    assert [WorkerHung(name, number) for number in (1, 2, 3)] == events
