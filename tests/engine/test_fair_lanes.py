"""How a lane shares its places and its workers between owners."""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

import pytest
from opened_lanes import Gate, lane, settle, wait_for
from waiting import WAIT_S

from osamd.engine import lanes
from osamd.engine.lanes import Lane
from osamd.errors import OverloadedError, ShuttingDownError
from osamd.timings import Timings


class Held:
    """A lane with one owner's work on its worker, and more of it waiting; lets go at the end.

    Attributes:
        order: names of the work that ran, in that order.
        tasks: the owner's waiters, first the one that runs.
    """

    def __init__(self, opened: Lane) -> None:
        self.opened = opened
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[str]] = []
        self.gates: list[Gate] = []

    async def run(self, name: str, owner: str) -> str:
        """Work that notes its name."""

        def work() -> str:
            self.order.append(name)
            return name

        return await self.opened.run(work, Timings(), owner=owner)

    async def hold(self, owner: str) -> None:
        """Occupy a worker."""
        gate = Gate()
        self.gates.append(gate)
        self.tasks.append(asyncio.create_task(self.opened.run(gate, Timings(), owner=owner)))
        await wait_for(gate.begun)

    async def wait(self, name: str, owner: str) -> asyncio.Task[str]:
        """Have work wait in the queue."""
        task = asyncio.create_task(self.run(name, owner))
        await asyncio.sleep(0)
        self.tasks.append(task)
        return task

    async def end(self) -> list[str | BaseException]:
        """Let everything run, and give all answers."""
        for gate in self.gates:
            gate.opened.set()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


@contextlib.contextmanager
def held(**limits: Any) -> Iterator[Held]:
    """A lane to be held."""
    with lane(**limits) as opened:
        yield Held(opened)


def test_another_key_does_not_wait_behind_a_backlog() -> None:
    """With one worker and sixteen jobs of one owner waiting, another owner's job goes first."""

    async def main(one: Held) -> None:
        await one.hold("much")
        for number in range(16):
            await one.wait(f"much {number}", "much")
        await one.wait("little", "little")
        await one.end()

    with held() as one:
        asyncio.run(main(one))
    assert ["little", *[f"much {number}" for number in range(16)]] == one.order


def test_a_full_queue_evicts_from_the_owner_with_most_jobs() -> None:
    """Their newest job is refused with 503 and Retry-After, and the newcomer is served; equal owners evict nobody."""

    async def main(one: Held) -> None:
        await one.hold("much")
        much = [await one.wait(f"much {number}", "much") for number in range(3)]
        await one.wait("little", "little")
        await asyncio.wait(much, return_when=asyncio.FIRST_COMPLETED)
        assert [False, False, True] == [task.done() for task in much]
        with pytest.raises(OverloadedError, match="this key holds the most") as caught:
            await much[-1]
        assert (503, True) == (caught.value.status, bool(caught.value.retry_after_s))
        with pytest.raises(OverloadedError, match="3 requests waiting"):
            await one.run("refused", "much")
        await one.wait("little too", "little")
        with pytest.raises(OverloadedError):
            await one.run("refused", "little")
        assert 3 == one.opened.waiting
        await one.end()

    with held(capacity=3) as one:
        asyncio.run(main(one))
    assert {"much 0", "little", "little too"} == set(one.order)


def test_one_key_alone_gets_everything() -> None:
    """All workers and all places; the spare thread is not its own."""

    async def main(one: Held) -> None:
        await one.hold("me")
        await one.hold("me")
        for number in range(5):
            await one.wait(str(number), "me")
        assert (5, 2) == (one.opened.waiting, one.opened.status().running)
        await one.end()

    with held(workers=2, capacity=5, has_spare=True) as one:
        asyncio.run(main(one))
    assert 5 == len(one.order)


def test_a_spare_thread_serves_another_key_while_one_holds_all_workers() -> None:
    """Also when the queue is full; where two share the workers, a third waits as they do."""

    async def main(one: Held) -> None:
        await one.hold("much")
        await one.hold("much")
        await one.wait("more", "much")
        assert "little" == await one.run("little", "little")
        assert "little" == await one.run("little", "little")
        await one.hold("little")
        third = await one.wait("third", "third")
        assert not third.done()
        await one.end()

    with held(workers=2, capacity=2, has_spare=True) as one:
        asyncio.run(main(one))
    assert ["little", "little"] == one.order[:2]


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others get their turn after each step, however short it was."""
    monkeypatch.setattr(lanes, "SLICE_S", 0.0)


def steps(count: int, order: list[str], name: str, gates: dict[int, Gate]) -> Generator[None, None, str]:
    """Work of so many steps; it stops at gates."""
    for number in range(count):
        if number in gates:
            gates[number]()
        order.append(f"{name} {number}")
        yield
    return name


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("owner", ["me", "another"])
def test_short_work_runs_between_the_steps_of_long_work(owner: str) -> None:
    """Whoever's it is; the long work goes on afterwards and gives its result."""
    order: list[str] = []
    gate = Gate()

    async def main() -> str:
        long: asyncio.Task[str] = asyncio.create_task(
            opened.run_in_steps(lambda: steps(4, order, "long", {1: gate}), Timings(), owner="me")
        )
        await wait_for(gate.begun)
        short = asyncio.create_task(opened.run(lambda: order.append("short"), Timings(), owner=owner))
        await settle(lambda: opened.waiting == 1)
        gate.opened.set()
        await short
        result: str = await long
        return result

    with lane() as opened:
        assert "long" == asyncio.run(main())
    assert ["long 0", "long 1", "short", "long 2", "long 3"] == order


@pytest.mark.usefixtures("step_by_step")
def test_two_long_ones_take_turns() -> None:
    """Neither waits for the other's end."""
    order: list[str] = []
    gate = Gate()

    async def main() -> list[str]:
        first = asyncio.create_task(opened.run_in_steps(lambda: steps(3, order, "a", {0: gate}), Timings()))
        await wait_for(gate.begun)
        second = asyncio.create_task(opened.run_in_steps(lambda: steps(3, order, "b", {}), Timings()))
        await settle(lambda: opened.waiting == 1)
        gate.opened.set()
        return list(await asyncio.gather(first, second))

    with lane() as opened:
        assert ["a", "b"] == asyncio.run(main())
    assert ["a 0", "b 0", "a 1", "b 1", "a 2", "b 2"] == order


@pytest.mark.usefixtures("step_by_step")
def test_steps_end_when_their_waiter_leaves() -> None:
    """At the next step if it runs, at once if it waits between two; what it held is let go."""
    order: list[str] = []

    class Picture:
        pass

    def work(gate: Gate, picture: Picture) -> Generator[None, None, Picture]:
        yield from steps(3, order, "left", {1: gate})
        return picture

    async def main() -> None:
        gate, picture = Gate(), Picture()
        gone = weakref.ref(picture)
        task = asyncio.create_task(opened.run_in_steps(partial(work, gate, picture), Timings()))
        del picture
        await wait_for(gate.begun)
        other = Gate()
        waiting = asyncio.create_task(opened.run(other, Timings()))
        await settle(lambda: opened.waiting == 1)
        gate.opened.set()
        await wait_for(other.begun)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task
        await settle(lambda: gone() is None)
        other.opened.set()
        await waiting

    with lane() as opened:
        asyncio.run(main())
    assert ["left 0", "left 1"] == order


def test_a_short_slice_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A click is decoded and cut out in one go, although others wait."""
    # A busy machine may take longer than a slice between two steps.
    monkeypatch.setattr(lanes, "SLICE_S", WAIT_S)
    order: list[str] = []
    gate = Gate()

    async def main() -> None:
        click = asyncio.create_task(opened.run_in_steps(lambda: steps(3, order, "click", {}), Timings(), owner="me"))
        await click
        holding = asyncio.create_task(opened.run(gate, Timings()))
        await wait_for(gate.begun)
        clicks = [
            asyncio.create_task(opened.run_in_steps(partial(steps, 2, order, name, {}), Timings(), owner=name))
            for name in ("a", "b")
        ]
        await settle(lambda: opened.waiting == len(clicks))
        gate.opened.set()
        await asyncio.gather(holding, *clicks)

    with lane() as opened:
        asyncio.run(main())
    assert [["a 0", "a 1", "b 0", "b 1"]] == [order[3:]]


def test_an_error_between_steps_reaches_its_waiter() -> None:
    """Alone."""

    def work() -> Generator[None, None, None]:
        yield
        raise ValueError("no")

    with lane() as opened, pytest.raises(ValueError, match="no"):
        asyncio.run(opened.run_in_steps(work, Timings()))


@pytest.mark.usefixtures("step_by_step")
def test_what_has_begun_is_finished_by_a_draining_lane() -> None:
    """Also when it waits between two steps at that moment; it does not count as waiting."""
    order: list[str] = []
    first, second = Gate(), Gate()

    async def main() -> list[Any]:
        long = asyncio.create_task(opened.run_in_steps(lambda: steps(3, order, "long", {0: first}), Timings()))
        await wait_for(first.begun)
        between = asyncio.create_task(opened.run(second, Timings()))
        await settle(lambda: opened.waiting == 1)
        first.opened.set()
        await wait_for(second.begun)
        assert 0 == opened.waiting
        late = asyncio.create_task(opened.run(lambda: "late", Timings()))
        await settle(lambda: opened.waiting == 1)
        opened.drain()
        second.opened.set()
        return list(await asyncio.gather(long, between, late, return_exceptions=True))

    with lane() as opened:
        long, between, late = asyncio.run(main())
    assert ("long", "through", ShuttingDownError) == (long, between, type(late))


@pytest.mark.usefixtures("step_by_step")
def test_every_step_of_every_owner_runs_once_under_a_hammer() -> None:
    """Many owners, workers and lengths at once: each result is its own, and all threads end."""

    async def main() -> None:
        def work(number: int) -> Generator[None, None, int]:
            for _ in range(number % 7):
                yield
            return number

        results = await asyncio.gather(
            *[opened.run_in_steps(partial(work, number), Timings(), owner=str(number % 5)) for number in range(700)]
        )
        assert list(range(700)) == results
        await settle(lambda: opened.status().running == 0)

    with lane(workers=3, capacity=1000, has_spare=True) as opened:
        asyncio.run(main())
        assert 0 == opened.waiting
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osamd-test-")]


@pytest.mark.usefixtures("step_by_step")
def test_a_spare_thread_ends_with_the_lane() -> None:
    """Also one that finds, while the lane closes, only steps that it may not run: those of the only busy owner."""
    order: list[str] = []
    first, second = Gate(), Gate()

    async def main() -> bool:
        tasks = [asyncio.create_task(opened.run_in_steps(lambda: steps(3, order, "one", {0: first}), Timings()))]
        await wait_for(first.begun)
        await opened.run(lambda: None, Timings(), owner="other")
        tasks.append(asyncio.create_task(opened.run_in_steps(lambda: steps(3, order, "two", {0: second}), Timings())))
        await settle(lambda: opened.waiting == 1)
        first.opened.set()
        await wait_for(second.begun)
        refused = asyncio.create_task(opened.run(lambda: None, Timings()))
        await settle(lambda: opened.waiting == 1)
        closing = asyncio.create_task(asyncio.to_thread(opened.close, patience_s=WAIT_S))
        with pytest.raises(ShuttingDownError):
            await refused
        second.opened.set()
        await asyncio.gather(*tasks)
        return await closing

    with lane(has_spare=True) as opened:
        assert asyncio.run(main())
    assert len(order) == 6
