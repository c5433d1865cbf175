import asyncio
import gc
import random
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
from opened_lanes import Gate, lane, settle, wait_for
from timers import HeldTimers
from waiting import WAIT_S

from osamd.engine.lanes import MOST_HUNG, Lane
from osamd.errors import HungError, OverloadedError, ShuttingDownError
from osamd.timings import Timings


def test_work_runs_on_a_worker_thread_and_its_result_comes_back() -> None:
    """The event loop's thread is not the one that computes."""
    with lane() as opened:
        name = asyncio.run(opened.run(lambda: threading.current_thread().name, Timings()))

    assert "osamd-test-0" == name


def test_first_come_first_served() -> None:
    """One worker takes the work in the order it came."""

    async def main() -> list[int]:
        done: list[int] = []
        await asyncio.gather(*[opened.run(lambda i=i: done.append(i), Timings()) for i in range(50)])  # type: ignore[misc]
        return done

    with lane() as opened:
        assert list(range(50)) == asyncio.run(main())


def test_as_many_run_at_once_as_there_are_workers() -> None:
    """Two workers meet at a barrier for two; neither waits for the other's work to end."""
    barrier = threading.Barrier(2, timeout=WAIT_S)

    async def main() -> list[int]:
        return await asyncio.gather(*[opened.run(barrier.wait, Timings()) for _ in range(6)])

    with lane(workers=2) as opened:
        assert [0, 0, 0, 1, 1, 1] == sorted(asyncio.run(main()))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_full_queue_refuses_at_once(workers: int) -> None:
    """Beyond what runs and ``capacity`` that wait, the next is refused, and the others are answered all the same."""
    gate = Gate()

    async def main() -> list[str]:
        tasks = [asyncio.create_task(opened.run(gate, Timings())) for _ in range(workers + 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="the test queue is full: 2 requests waiting"):
            await opened.run(gate, Timings())
        gate.opened.set()
        answers = await asyncio.gather(*tasks)
        await opened.run(gate, Timings())
        return answers

    with lane(workers=workers, capacity=2) as opened:
        assert ["through"] * (workers + 2) == asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), StopIteration(), MemoryError()])
def test_an_exception_goes_to_its_waiter_and_the_worker_lives_on(error: BaseException) -> None:
    """Whatever a piece of work raises, its own waiter is told, and the same thread does the next piece."""

    def fail() -> None:
        raise error

    async def main() -> tuple[BaseException | str | None, ...]:
        async def caught() -> BaseException | None:
            try:
                await opened.run(fail, Timings())
            except BaseException as raised:  # noqa: BLE001
                return raised
            return None

        before = opened.run(lambda: threading.current_thread().name, Timings())
        return tuple(
            await asyncio.wait_for(
                asyncio.gather(before, caught(), opened.run(lambda: threading.current_thread().name, Timings())), WAIT_S
            )
        )

    with lane() as opened:
        before, raised, after = asyncio.run(main())

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    assert isinstance(raised, expected)
    assert before == after == "osamd-test-0"


def test_a_cancelled_waiter_frees_its_place_and_its_work_never_runs() -> None:
    """A client that hangs up in the queue costs nothing more."""
    gate = Gate()
    ran: list[str] = []

    async def main() -> None:
        running = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        waiting = asyncio.create_task(opened.run(lambda: ran.append("cancelled"), Timings()))
        await asyncio.sleep(0)
        assert 1 == opened.waiting
        with pytest.raises(OverloadedError):
            await opened.run(gate, Timings())

        waiting.cancel()
        await asyncio.wait([waiting])

        assert 0 == opened.waiting
        successor = asyncio.create_task(opened.run(lambda: ran.append("successor"), Timings()))
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(running, successor)

    with lane(capacity=1) as opened:
        asyncio.run(main())

    assert ["successor"] == ran


def test_what_waits_too_long_is_refused_and_never_runs() -> None:
    """Its place is free again; what runs may take longer than anybody may wait."""
    gate, ran = Gate(), []

    async def main(opened: Lane) -> str:
        running = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        with pytest.raises(OverloadedError, match=r"waiting 0\.05 s in the test queue"):
            await opened.run(lambda: ran.append(1), Timings())
        assert 0 == opened.waiting
        gate.opened.set()
        return await running

    with lane(wait_s=0.05) as opened:
        assert "through" == asyncio.run(main(opened))
    assert [] == ran


def test_cancelling_what_runs_lets_it_end_and_the_worker_goes_on() -> None:
    """A thread cannot be stopped: the waiter goes at once, the work ends, the next is done."""
    gate = Gate()

    async def main() -> int:
        running = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        running.cancel()
        await asyncio.wait([running], timeout=WAIT_S)
        assert running.cancelled()
        gate.opened.set()
        return await opened.run(lambda: 7, Timings())

    with lane() as opened:
        assert 7 == asyncio.run(main())


def test_close_finishes_what_runs_and_refuses_what_waits() -> None:
    """Nobody is left without an answer, and the workers are gone when ``close`` returns."""
    gate = Gate()

    async def main() -> None:
        running = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        waiting = [asyncio.create_task(opened.run(gate, Timings())) for _ in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(opened.close))

        refusals = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), WAIT_S)
        assert [ShuttingDownError] * 3 == [type(refusal) for refusal in refusals]
        assert not closing.done()
        assert not running.done()

        gate.opened.set()
        assert "through" == await running
        await closing
        with pytest.raises(ShuttingDownError):
            await opened.run(gate, Timings())

    with lane() as opened:
        asyncio.run(main())

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osamd-test")]


def test_time_in_the_queue_is_added_to_the_stopwatch() -> None:
    """The stage ``queue`` is the waiting, not the work."""
    first, second, gate = Timings(), Timings(), Gate()

    async def main() -> float:
        running = asyncio.create_task(opened.run(gate, first))
        await wait_for(gate.begun)
        start = time.perf_counter()
        waiting = asyncio.create_task(opened.run(lambda: None, second))
        await asyncio.sleep(0.02)
        waited = time.perf_counter() - start
        gate.opened.set()
        await asyncio.gather(running, waiting)
        return waited

    with lane() as opened:
        waited = asyncio.run(main())

    assert second.seconds()["queue"] >= waited * 0.9
    assert ["queue"] == list(first.seconds())


def test_a_waiting_worker_keeps_nothing_of_the_last_work_alive() -> None:
    """Results can be large: an idle server must not hold on to the last one."""

    class Large:
        pass

    with lane() as opened:
        result = asyncio.run(opened.run(Large, Timings()))
        gone = weakref.ref(result)
        del result
        gc.collect()
        until = time.monotonic() + WAIT_S
        while gone() is not None and time.monotonic() < until:
            time.sleep(0.001)

        assert gone() is None


def test_idle_workers_use_no_processor_time() -> None:
    """An idle server sleeps: three waiting workers cost a small part of one core, not cores."""
    with lane(workers=3) as opened:

        async def main() -> None:
            barrier = threading.Barrier(3, timeout=WAIT_S)
            await asyncio.gather(*[opened.run(barrier.wait, Timings()) for _ in range(3)])

        asyncio.run(main())
        before = time.process_time()
        time.sleep(0.3)

        assert time.process_time() - before < 0.1


def test_threads_start_with_the_first_work() -> None:
    """A lane that nobody uses has no threads; one piece of work at a time needs only one."""

    def workers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("osamd-test-")]

    with lane(workers=3) as opened:
        assert [] == workers()

        async def main() -> None:
            for _ in range(5):
                await opened.run(lambda: None, Timings())
                # The result is out a moment before its worker is free again.
                await settle(lambda: opened.status().running == 0)

        asyncio.run(main())

        assert ["osamd-test-0"] == workers()


def test_every_waiter_is_answered_exactly_once_under_a_hammer() -> None:
    """Hundreds of callers that succeed, fail, give up and are refused, while the lane closes: each gets one answer."""
    rng = random.Random(5)  # noqa: S311
    succeeds, fails_at = 0, 1
    ran: list[int] = []
    opened = Lane("test", workers=3, capacity=40)

    def work(number: int, pause: float, *, fails: bool) -> int:
        time.sleep(pause)
        ran.append(number)
        if fails:
            raise ValueError(number)
        return number

    async def caller(number: int) -> int | Exception:
        fails, pause = rng.random() < 0.2, rng.random() * 0.002
        patience = rng.choice([0.001, 0.01, WAIT_S])
        if number in {succeeds, fails_at}:
            fails, patience = number == fails_at, WAIT_S
        else:
            await asyncio.sleep(rng.random() * 0.1)
        try:
            async with asyncio.timeout(patience):
                return await opened.run(lambda: work(number, pause, fails=fails), Timings())
        except (TimeoutError, ValueError, OverloadedError, ShuttingDownError) as error:
            return error

    async def main() -> list[int | Exception]:
        callers = [asyncio.create_task(caller(number)) for number in range(600)]
        await asyncio.wait([callers[succeeds], callers[fails_at]])
        await asyncio.sleep(0.08)
        await asyncio.to_thread(opened.close)
        # On a busy machine all others may have come before.
        callers.append(asyncio.create_task(caller(len(callers))))
        return await asyncio.wait_for(asyncio.gather(*callers), WAIT_S)

    answers = asyncio.run(main())

    assert len(ran) == len(set(ran))
    refused = {
        number for number, answer in enumerate(answers) if isinstance(answer, OverloadedError | ShuttingDownError)
    }
    assert set() == refused & set(ran)
    own = [
        (number, answer.args[0] if isinstance(answer, ValueError) else answer)
        for number, answer in enumerate(answers)
        if isinstance(answer, int | ValueError)
    ]
    assert [(number, number) for number, _ in own] == own
    assert {number for number, _ in own} <= set(ran)
    assert {int, ValueError, ShuttingDownError} <= {type(answer) for answer in answers}
    assert 0 == opened.waiting


# --- work that does not end -----------------------------------------------------------------------------------------


def test_work_that_does_not_end_fails_and_the_next_gets_a_new_worker() -> None:
    """Its waiter is told, who waits behind it is served, and its thread ends when it comes back after all."""
    gate = Gate()
    told: list[tuple[str, int]] = []

    async def main() -> tuple[BaseException | str, str]:
        hung = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        waiting = asyncio.create_task(opened.run(lambda: threading.current_thread().name, Timings()))
        answers = await asyncio.gather(hung, waiting, return_exceptions=True)
        # An answer is out a moment before its worker is idle again.
        await settle(lambda: opened.status().running == 0)
        assert 1 == opened.status().hung
        gate.opened.set()
        await settle(lambda: opened.hung == 0)
        return answers[0], str(answers[1])

    with lane(hang_s=0.05, on_hung=lambda name, hung: told.append((name, hung))) as opened:
        error, name = asyncio.run(main())
    assert isinstance(error, HungError)
    assert ("osamd-test-1", [("test", 1)]) == (name, told)


def test_work_whose_waiter_left_is_given_up_too() -> None:
    """A worker is not lost to a request that was cancelled."""
    gate = Gate()

    async def main() -> str:
        hung = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        hung.cancel()
        name = await opened.run(lambda: threading.current_thread().name, Timings())
        gate.opened.set()
        return name

    with lane(hang_s=0.5) as opened:
        assert "osamd-test-1" == asyncio.run(main())


def test_the_time_in_the_queue_is_not_the_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had to wait is not given up for that: 180 s after it came, of which it ran 90, it has 10 left of 100."""
    gates, now = [Gate(), Gate()], 0.0
    for module in ("lanes", "jobs"):
        clock = SimpleNamespace(**vars(time) | {"perf_counter": lambda: now})
        monkeypatch.setattr(f"osamd.engine.{module}.time", clock)

    async def main() -> list[str]:
        nonlocal now
        watches = HeldTimers({100.0})
        first = asyncio.create_task(opened.run(gates[0], Timings()))
        second = asyncio.create_task(opened.run(gates[1], Timings()))
        await wait_for(gates[0].begun)
        now = 90.0
        watches.fire()
        gates[0].opened.set()
        await wait_for(gates[1].begun)
        now = 180.0
        watches.fire()
        assert not second.done()
        gates[1].opened.set()
        return list(await asyncio.gather(first, second))

    with lane(hang_s=100.0) as opened:
        assert ["through", "through"] == asyncio.run(main())


def test_workers_are_not_replaced_without_end() -> None:
    """Once the limit of hung workers is reached, none is replaced until one returns."""
    gates = [Gate() for _ in range(MOST_HUNG + 1)]

    async def main() -> None:
        for gate in gates:
            with pytest.raises(HungError):
                await opened.run(gate, Timings())
        assert MOST_HUNG + 1 == opened.hung
        last = asyncio.create_task(opened.run(lambda: "served", Timings()))
        await settle(lambda: 1 == opened.waiting)
        gates[-1].opened.set()
        assert "served" == await last
        for gate in gates:
            gate.opened.set()
        await settle(lambda: opened.hung == 0)

    with lane(hang_s=0.2) as opened:
        asyncio.run(main())


def test_finished_work_is_not_kept_by_its_watch() -> None:
    """An image of 50 megapixels must not stay for as long as it could have taken, also when its waiter left."""

    class Picture:
        pass

    async def main(*, leaves: bool) -> None:
        gate, picture = Gate(), Picture()
        gone = weakref.ref(picture)
        task = asyncio.create_task(opened.run(lambda picture=picture: (gate(), picture)[0], Timings()))  # type: ignore[misc]
        del picture
        await wait_for(gate.begun)
        if leaves:
            task.cancel()
        gate.opened.set()
        await asyncio.gather(task, return_exceptions=True)
        del task
        await settle(lambda: gc.collect() >= 0 and gone() is None)

    with lane(hang_s=600.0) as opened:
        asyncio.run(main(leaves=False))
        asyncio.run(main(leaves=True))


def test_a_draining_lane_refuses_what_would_wait() -> None:
    """What waits is refused at once, what runs is finished, and what finds a free worker is done."""
    gate = Gate()

    async def main() -> list[BaseException | str]:
        running = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        waiting = asyncio.create_task(opened.run(lambda: "late", Timings()))
        await settle(lambda: opened.waiting == 1)
        opened.drain()
        refused = await asyncio.gather(waiting, opened.run(lambda: "later", Timings()), return_exceptions=True)
        gate.opened.set()
        answers = [*refused, await running]
        await settle(lambda: opened.status().running == 0)
        return [*answers, await opened.run(lambda: "free", Timings())]

    with lane() as opened:
        first, second, *rest = asyncio.run(main())
    assert (ShuttingDownError, ShuttingDownError) == (type(first), type(second))
    assert ["through", "free"] == rest


def test_closing_does_not_wait_for_ever() -> None:
    """With patience, the caller hears that something has not ended, and goes on."""
    gate = Gate()

    async def main() -> bool:
        running = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        closed = await asyncio.to_thread(opened.close, patience_s=0.05)
        gate.opened.set()
        await running
        return closed

    with lane() as opened:
        assert not asyncio.run(main())
        assert opened.close(patience_s=WAIT_S)


def test_without_a_thread_a_job_is_refused_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that is out of threads for a moment costs one request, and not the lane."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with lane() as opened:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(OverloadedError, match="no thread could be started"):
                asyncio.run(opened.run(lambda: "never", Timings()))
        assert 0 == opened.waiting
        assert "done" == asyncio.run(opened.run(lambda: "done", Timings()))


def test_without_another_thread_the_one_there_is_runs_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane of two workers goes on with one."""
    gate = Gate()

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> list[str]:
        running = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            waiting = asyncio.create_task(opened.run(lambda: "after it", Timings()))
            await asyncio.sleep(0)
        gate.opened.set()
        return list(await asyncio.gather(running, waiting))

    with lane(workers=2) as opened:
        assert ["through", "after it"] == asyncio.run(main())
