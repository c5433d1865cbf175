import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import WAIT_S

from osamd.errors import DeadlineExceededError, OverloadedError
from osamd.server.guard.memory_budget import Holding, MemoryBudget
from osamd.server.guard.shares import FACTOR

CAPACITY = 1000
MOST = CAPACITY * FACTOR // (FACTOR + 1)


def run(main: Callable[[MemoryBudget], Awaitable[Any]], *, wait_s: float = WAIT_S) -> Any:
    """Run a test's coroutine with a budget; at its end nothing may be held."""

    async def whole() -> Any:
        budget = MemoryBudget(CAPACITY, wait_s=wait_s)
        result = await main(budget)
        assert (0, 0) == (budget.status().held, budget.status().waiting)
        return result

    return asyncio.run(whole())


async def waiting(budget: MemoryBudget, owner: str, nbytes: int) -> tuple[Holding, "asyncio.Task[int]"]:
    """A request that waits for bytes."""
    holding = budget.open(owner)
    task = asyncio.create_task(holding.reserve(nbytes))
    await asyncio.sleep(0)
    return holding, task


def test_what_is_free_is_had_at_once_and_given_back() -> None:
    """Down to what is still needed, then all of it."""

    async def main(budget: MemoryBudget) -> None:
        holding = budget.open("me")
        assert 300 == await holding.reserve(300)
        assert 200 == await holding.reserve(200)
        assert (300, 300) == (holding.nbytes, budget.status().held)
        holding.shrink(100)
        holding.shrink(500)
        assert (100, 100) == (holding.nbytes, budget.status().held)
        holding.shrink(0)

    run(main)


def test_one_key_leaves_room_for_another() -> None:
    """Alone it has three quarters; what is left another key has at once."""

    async def main(budget: MemoryBudget) -> None:
        much, more = budget.open("much"), budget.open("much")
        await much.reserve(MOST)
        with pytest.raises(OverloadedError):
            more.grow(1)
        little = budget.open("little")
        await asyncio.wait_for(little.reserve(150), WAIT_S)
        for holding in (much, little):
            holding.shrink(0)
        assert 1 == budget.status().refused

    run(main)


def test_a_request_larger_than_its_share_is_told_what_it_may_use() -> None:
    """It waits until it may have all that one key may have."""

    async def main(budget: MemoryBudget) -> None:
        holding = budget.open("me")
        assert MOST == await holding.reserve(CAPACITY * 10)
        holding.shrink(0)

    run(main)


def test_who_holds_least_is_served_first() -> None:
    """Not who came first; and a small request does not pass one of its own key."""

    async def main(budget: MemoryBudget) -> None:
        first = budget.open("much")
        await first.reserve(MOST)
        large, large_task = await waiting(budget, "much", 400)
        small, small_task = await waiting(budget, "much", 1)
        little, little_task = await waiting(budget, "little", 400)
        first.shrink(MOST - 50)
        await asyncio.sleep(0)
        assert [False] * 3 == [task.done() for task in (large_task, small_task, little_task)]
        first.shrink(200)
        await asyncio.wait_for(little_task, WAIT_S)
        assert not large_task.done()
        first.shrink(0)
        await asyncio.wait_for(asyncio.gather(large_task, small_task), WAIT_S)
        for holding in (large, small, little):
            holding.shrink(0)

    run(main)


def test_a_key_that_holds_nothing_passes_one_that_waits_for_more() -> None:
    """A click needs little, and does not wait behind another's large image."""

    async def main(budget: MemoryBudget) -> None:
        much = budget.open("much")
        await much.reserve(MOST)
        large, large_task = await waiting(budget, "large", MOST)
        click = budget.open("click")
        await asyncio.wait_for(click.reserve(10), WAIT_S)
        assert not large_task.done()
        click.shrink(0)
        much.shrink(0)
        await asyncio.wait_for(large_task, WAIT_S)
        large.shrink(0)

    run(main)


def test_a_closed_holding_takes_nothing_any_more() -> None:
    """A thread may still write a reply whose client has gone, and nobody would give its bytes back."""

    async def main(budget: MemoryBudget) -> None:
        holding = budget.open("me")
        await holding.reserve(100)
        holding.close()
        with pytest.raises(DeadlineExceededError):
            holding.grow(200)
        assert 0 == budget.status().held

    run(main)


def test_waiting_is_bounded() -> None:
    """Then 503 with Retry-After; nothing stays held."""

    async def main(budget: MemoryBudget) -> None:
        holding, late = budget.open("me"), budget.open("me")
        await holding.reserve(MOST)
        with pytest.raises(OverloadedError) as caught:
            await late.reserve(1)
        assert (503, True, 0) == (caught.value.status, bool(caught.value.retry_after_s), late.nbytes)
        assert 1 == budget.status().refused
        holding.shrink(0)

    run(main, wait_s=0.02)


def test_a_waiter_that_leaves_lets_others_go_on() -> None:
    """Who waited behind it is served at once."""

    async def main(budget: MemoryBudget) -> None:
        holding = budget.open("me")
        await holding.reserve(MOST - 10)
        large, large_task = await waiting(budget, "me", 500)
        small, small_task = await waiting(budget, "me", 10)
        large_task.cancel()
        await asyncio.wait_for(small_task, WAIT_S)
        for one in (holding, small, large):
            one.shrink(0)

    run(main)


@given(st.integers(), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2 * CAPACITY)), max_size=40))
def test_it_is_never_overdrawn_and_everybody_is_served(seed: int, asked: list[tuple[str, int]]) -> None:
    """Whatever is asked for, given back and left, in any order."""
    rng = random.Random(seed)  # noqa: S311

    async def main(budget: MemoryBudget) -> None:
        async def one(owner: str, nbytes: int) -> None:
            holding = budget.open(owner)
            try:
                granted = await holding.reserve(nbytes)
                assert granted == min(nbytes, MOST)
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                assert budget.status().held <= CAPACITY
                holding.shrink(granted // 2)
                await asyncio.sleep(0)
            finally:
                holding.shrink(0)

        tasks = [asyncio.create_task(one(owner, nbytes)) for owner, nbytes in asked]
        for task in tasks:
            if rng.random() < 0.2:
                await asyncio.sleep(0)
                task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_S)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)

    run(main)
