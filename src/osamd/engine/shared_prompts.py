"""A request's prompts, shared between two of the decode lane's workers while nobody else needs them.

The threads of one inference wait for each other after each step, so two inferences at a time get more done than one.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Final, Protocol

from osamd.runtime.container import cpu_count
from osamd.status import LaneStatus
from osamd.timings import Timings
from osamd.types import Annotation, MaskLogits, Prompt

Steps = Generator[None, None, list[Annotation]]

SHARES: Final = 2


class Decoding(Protocol):
    """``decode_prompts`` for an image."""

    def __call__(self, prompts: Sequence[Prompt], refined: Sequence[MaskLogits | None], *, timings: Timings) -> Steps:
        """The objects of some prompts, each with its prompt's place among these."""


class Run(Protocol):
    """``Workers.run_in_steps`` on the decode lane."""

    def __call__(self, work: Callable[[], Steps], *, timings: Timings) -> Awaitable[list[Annotation]]:
        """Run steps to their end."""


def shares(count: int, lane: LaneStatus) -> Sequence[slice]:
    """The prompts of each job: all in one, or two halves if the decode lane has nothing else to do.

    On a single core an inference has a single thread, so two at a time would gain nothing.
    """
    if count < SHARES or cpu_count() < SHARES or lane.waiting or lane.running:
        return [slice(0, count)]
    middle = (count + 1) // SHARES
    return [slice(0, middle), slice(middle, count)]


async def decode_shares(
    prompts: Sequence[Prompt],
    refined: Sequence[MaskLogits | None],
    decode: Decoding,
    run: Run,
    *,
    parts: Sequence[slice],
    timings: Timings,
) -> list[Annotation]:
    """The objects of all prompts, in their order.

    Args:
        prompts: what to segment.
        refined: the earlier mask of each prompt, or None.
        decode: decodes some of them.
        run: runs a job in steps.
        parts: the prompts of each job, by ``shares``.
        timings: the request's stopwatch; stages that overlap count with their share of the time that passed.

    Raises:
        OsamdError: what the first job to fail raises; the other one is cancelled.
    """
    clocks = [timings if len(parts) == 1 else Timings() for _ in parts]
    begun = time.perf_counter()
    jobs = [
        asyncio.ensure_future(
            run(functools.partial(decode, prompts[part], refined[part], timings=clock), timings=clock)
        )
        for part, clock in zip(parts, clocks, strict=True)
    ]
    try:
        found = await asyncio.gather(*jobs)
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        if len(parts) > 1:
            timings.add_overlapping(clocks, time.perf_counter() - begun)
    return [
        replace(item, prompt_index=part.start + item.prompt_index)
        for part, items in zip(parts, found, strict=True)
        for item in items
    ]
