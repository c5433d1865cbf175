"""The server's own threads: bodies are parsed on some, replies written on others."""

import functools
from collections.abc import Callable, Generator
from typing import Final, TypeVar

from osamd.engine.lanes import MOST_HUNG, Lane, close_lanes
from osamd.events import Event, WorkerHung
from osamd.patience import Patience
from osamd.settings import Settings
from osamd.status import LaneStatus
from osamd.timings import Timings

SIDE_WORKERS: Final = 2
REPLY_WORKERS: Final = 2

Result = TypeVar("Result")


class Pools:
    """Two bounded queues with threads behind them. Belongs to one event loop.

    Args:
        settings: how much may wait, and how long.
        emit: told about every event.
    """

    def __init__(self, settings: Settings, *, emit: Callable[[Event], None]) -> None:
        make = functools.partial(
            Lane,
            capacity=settings.decode_queue,
            wait_s=settings.queue_wait_s,
            hang_s=settings.hang_s,
            on_hung=lambda lane, hung: emit(WorkerHung(lane, hung)),
            # With the spare thread nobody waits for another owner's.
            has_spare=True,
        )
        # Parsing and hashing, which the event loop must not do.
        self._side = make("side", workers=SIDE_WORKERS)
        # Writing replies, which takes seconds for many masks of a large image; clicks do not wait behind it.
        self._reply = make("reply", workers=REPLY_WORKERS)

    @property
    def is_stuck(self) -> bool:
        """Whether so many computations are hung that only a restart of the process helps."""
        return any(lane.hung >= MOST_HUNG for lane in (self._side, self._reply))

    def status(self) -> tuple[LaneStatus, ...]:
        """Both queues at this moment."""
        return self._side.status(), self._reply.status()

    async def parse(self, work: Callable[[], Result], timings: Timings, *, owner: str) -> Result:
        """Run something short on a thread.

        Args:
            work: what to do.
            timings: the request's stopwatch.
            owner: whose work it is (the key's name).

        Raises:
            OverloadedError: the queue is full, or the wait was too long.
            ShuttingDownError: the pools were closed.
        """
        return await self._side.run(work, timings, owner=owner)

    async def write(self, work: Callable[[], Generator[None, None, Result]], timings: Timings, *, owner: str) -> Result:
        """Write a reply on a thread, in steps between which others may go on; it ends when nobody waits any more.

        Args:
            work: starts writing; see ``Lane.run_in_steps``.
            timings: the request's stopwatch.
            owner: whose reply it is.

        Raises:
            OverloadedError: the queue is full, or the wait was too long.
            ShuttingDownError: the pools were closed.
        """
        return await self._reply.run_in_steps(work, timings, owner=owner)

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Refuse what waits and what comes, and wait for what runs.

        Args:
            patience_s: seconds to wait; None waits however long it takes.

        Returns:
            Whether everything has ended.
        """
        return await close_lanes([self._side, self._reply], Patience(patience_s))
