"""The server's thread pools: one parses bodies, the other writes replies."""

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
    """Two bounded queues with worker threads. Belongs to one event loop.

    Args:
        settings: limits on queue length and waiting time.
        emit: receives every event.
    """

    def __init__(self, settings: Settings, *, emit: Callable[[Event], None]) -> None:
        make = functools.partial(
            Lane,
            capacity=settings.decode_queue,
            wait_s=settings.queue_wait_s,
            hang_s=settings.hang_s,
            on_hung=lambda lane, hung: emit(WorkerHung(lane, hung)),
            # The spare thread keeps owners from waiting for each other.
            has_spare=True,
        )
        # Parsing and hashing, which must not block the event loop.
        self._side = make("side", workers=SIDE_WORKERS)
        self._familiar: set[object] = set()
        # Writing replies can take seconds for many masks of a large image; clicks must not wait behind it.
        self._reply = make("reply", workers=REPLY_WORKERS)

    @property
    def is_stuck(self) -> bool:
        """Whether so many computations are hung that only a restart of the process helps."""
        return any(lane.hung >= MOST_HUNG for lane in (self._side, self._reply))

    def status(self) -> tuple[LaneStatus, ...]:
        """The current state of both queues."""
        return self._side.status(), self._reply.status()

    async def parse(self, work: Callable[[], Result], timings: Timings, *, owner: str, small: object = None) -> Result:
        """Run something short on a thread.

        Args:
            work: what to do.
            timings: the request's stopwatch.
            owner: whose work it is (the key's name).
            small: its kind, if it takes less time than waking a thread: it then runs at once, except for the first of
                its kind, which may import modules and build schemas.

        Raises:
            OverloadedError: the queue is full, or the wait was too long.
            ShuttingDownError: the pools were closed.
        """
        if small in self._familiar:
            return work()
        result = await self._side.run(work, timings, owner=owner)
        if small is not None:
            self._familiar.add(small)
        return result

    async def write(self, work: Callable[[], Generator[None, None, Result]], timings: Timings, *, owner: str) -> Result:
        """Write a reply on a thread, in steps between which other jobs may run; cancelled when its waiter has gone.

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
        """Refuse queued and new jobs, and wait for running ones.

        Args:
            patience_s: seconds to wait; None waits as long as it takes.

        Returns:
            Whether all jobs have ended.
        """
        return await close_lanes([self._side, self._reply], Patience(patience_s))
