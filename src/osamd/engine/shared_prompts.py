"""A request's prompts, decoded by one job, and by a second one from the end while nobody else needs its worker.

The threads of one inference wait for each other after each step, so two inferences at a time get more done than one.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Protocol

from osamd.engine.lanes import Lane
from osamd.errors import HungError
from osamd.timings import Timings
from osamd.types import Annotation

Steps = Generator[None, None, list[Annotation]]
# Gives the number of the next prompt to decode, None if there is none.
Take = Callable[[], int | None]
Turn = Callable[[], contextlib.AbstractContextManager[Take]]


class Decoding(Protocol):
    """``decode_prompts`` for the prompts of a request."""

    def __call__(self, *, turn: Turn, timings: Timings) -> Steps:
        """The objects of the prompts that the job takes in its turn."""


class Run(Protocol):
    """Runs steps on the decode lane."""

    def __call__(self, work: Callable[[], Steps], timings: Timings) -> Awaitable[list[Annotation]]:
        """Run steps to their end."""


class SharedPrompts:
    """The numbers of the prompts that no job has taken yet. Thread-safe.

    Args:
        count: how many prompts there are.
    """

    def __init__(self, count: int) -> None:
        self._left = deque(range(count))
        self._lock = threading.Lock()

    @property
    def are_left(self) -> bool:
        """Whether there are some."""
        with self._lock:
            return bool(self._left)

    def first_to_last(self) -> contextlib.AbstractContextManager[Take]:
        """Take prompts in their order; if the block fails, those it took are put back, so that it can run again."""
        return self._turn(self._left.popleft, self._left.appendleft, lambda: True)

    def last_to_first(self, may_go_on: Callable[[], bool]) -> contextlib.AbstractContextManager[Take]:
        """The same from the end, as long as ``may_go_on`` returns True."""
        return self._turn(self._left.pop, self._left.append, may_go_on)

    @contextlib.contextmanager
    def _turn(
        self, pop: Callable[[], int], put_back: Callable[[int], None], may_go_on: Callable[[], bool]
    ) -> Iterator[Take]:
        taken: list[int] = []

        def take() -> int | None:
            with self._lock:
                if not self._left or not may_go_on():
                    return None
                taken.append(pop())
                return taken[-1]

        try:
            yield take
        except BaseException:
            with self._lock:
                for number in reversed(taken):
                    put_back(number)
            raise


async def decode_shared(
    count: int, decode: Decoding, run: Run, *, lane: Lane | None, owner: str, timings: Timings
) -> list[Annotation]:
    """The objects of all prompts, in their order.

    Args:
        count: how many prompts there are.
        decode: decodes those that a job takes.
        run: runs the first job.
        lane: runs a second job, which ends as soon as others wait there; None for a single job.
        owner: the key's name.
        timings: the request's stopwatch; stages that overlap count with their share of the time that passed.

    Raises:
        OsamdError: what the first job raises. Prompts on which the second one fails are left to it, so the error is
            that of the first prompt that fails.
    """
    shared = SharedPrompts(count)
    first = functools.partial(decode, turn=shared.first_to_last)
    if lane is None:
        return await run(functools.partial(first, timings=timings), timings)
    clocks = Timings(), Timings()
    begun = time.perf_counter()
    turn = functools.partial(shared.last_to_first, lambda: not lane.waiting)
    second = functools.partial(decode, turn=turn, timings=clocks[1])
    helping = asyncio.ensure_future(lane.run_in_steps(second, clocks[1], owner=owner))
    try:
        found = await run(functools.partial(first, timings=clocks[0]), clocks[0])
        # A hung job does not put its prompts back.
        (helped,) = await asyncio.gather(helping, return_exceptions=True)
        if isinstance(helped, HungError):
            raise helped
        found += [] if isinstance(helped, BaseException) else helped
        while shared.are_left:
            found += await run(functools.partial(first, timings=clocks[0]), clocks[0])
    finally:
        helping.cancel()
        await asyncio.gather(helping, return_exceptions=True)
        timings.add_overlapping(clocks, time.perf_counter() - begun)
    return sorted(found, key=lambda item: (item.prompt_index, item.mask_index))
