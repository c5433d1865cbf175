"""The engine's lanes together, what happens when memory runs out or work does not end, and how they stop."""

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Final, TypeVar

from osamd.engine.lanes import MOST_HUNG, Lane, close_lanes
from osamd.errors import OutOfMemoryError
from osamd.events import Event, MemoryRanOut, WorkerHung
from osamd.patience import Patience
from osamd.runtime.container import cpu_count
from osamd.runtime.out_of_memory import is_out_of_memory
from osamd.settings import Settings
from osamd.status import LaneStatus
from osamd.timings import Timings

# Each may hold a decoded image of the largest size allowed.
PREPARE_WORKERS: Final = (2, 4)
DECODE_WORKERS: Final = 2
LOAD_CAPACITY: Final = 64
LOAD_HANG_S: Final = 900.0
# An encoder works in up to some gigabytes, which are quicker to keep than to take again while there is work.
REST_S: Final = 10.0

Result = TypeVar("Result")


class Workers:
    """A lane for each kind of work. Belongs to one event loop.

    Args:
        settings: how much may wait, and how long.
        unload_idle: unloads the models that are not in use; returns their names.
        emit: told about every event.
    """

    def __init__(
        self, settings: Settings, *, unload_idle: Callable[[], list[str]], emit: Callable[[Event], None]
    ) -> None:
        self._unload_idle = unload_idle
        self._rest: asyncio.TimerHandle | None = None
        self._emit = emit
        make = functools.partial(Lane, on_hung=lambda lane, hung: emit(WorkerHung(lane, hung)))
        watched = functools.partial(make, wait_s=settings.queue_wait_s, hang_s=settings.hang_s)
        # A large model on a slow disk takes long to load, but not for ever.
        self.load = make("load", workers=1, capacity=LOAD_CAPACITY, hang_s=max(LOAD_HANG_S, settings.hang_s))
        self.encode = watched("encode", workers=1, capacity=settings.encode_queue)
        # Decodes and resizes images while the encoder is busy; holds as many decoded ones as it has threads.
        # With the spare threads nobody waits for one other owner's.
        self.prepare = watched("prepare", workers=_prepare_workers(), capacity=settings.encode_queue, has_spare=True)
        self.decode = watched("decode", workers=DECODE_WORKERS, capacity=settings.decode_queue, has_spare=True)

    @property
    def is_stuck(self) -> bool:
        """Whether so many computations are hung that only a restart of the process helps."""
        return any(lane.hung >= MOST_HUNG for lane in (self.load, self.prepare, self.encode, self.decode))

    def status(self) -> tuple[LaneStatus, ...]:
        """How the lanes stand at this moment."""
        return tuple(lane.status() for lane in (self.load, self.prepare, self.encode, self.decode))

    async def run(
        self, lane: Lane, work: Callable[[], Result], *, model: str, timings: Timings, owner: str = ""
    ) -> Result:
        """Run work that may need much memory; where there is too little, once more without the models that are idle.

        Args:
            lane: one of these.
            work: what to do, on a worker.
            model: full name of the model it is for.
            timings: the request's stopwatch.
            owner: whose work it is (the key's name); empty for the server's own.

        Raises:
            OutOfMemoryError: there was too little even so.
            OsamdError: what ``Lane.run`` and the work itself raise.
        """
        return await self._try_twice(functools.partial(lane.run, work, timings, owner=owner), model)

    async def run_in_steps(
        self,
        lane: Lane,
        work: Callable[[], Generator[None, None, Result]],
        *,
        model: str,
        timings: Timings,
        owner: str = "",
    ) -> Result:
        """The same for work in steps; see ``Lane.run_in_steps``."""
        return await self._try_twice(functools.partial(lane.run_in_steps, work, timings, owner=owner), model)

    async def _try_twice(self, run: Callable[[], Awaitable[Result]], model: str) -> Result:
        reason = ""
        for is_last in (False, True):
            try:
                return await run()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
            finally:
                self._rest_later()
            # Not in the handler: the failure's traceback holds what it had allocated.
            if not is_last:
                self._emit(MemoryRanOut(model, reason, tuple(self._unload_idle())))
                await asyncio.to_thread(release_memory)
        raise OutOfMemoryError(reason)

    def _rest_later(self) -> None:
        """Give memory back once nothing has been computed for a while."""
        if self._rest is not None:
            self._rest.cancel()
        loop = asyncio.get_running_loop()
        self._rest = loop.call_later(REST_S, loop.run_in_executor, None, release_memory)

    def release_memory_after(self, model: object) -> None:
        """Give a model's memory back when nobody holds it any more, be it a job that outlived its request."""
        weakref.finalize(model, _release_on_thread, asyncio.get_running_loop()).atexit = False

    def drain(self) -> None:
        """Refuse what waits; what runs is finished, and what still comes is done if it need not wait."""
        for lane in (self.load, self.prepare, self.encode, self.decode):
            lane.drain()

    async def close(self, *, patience_s: float | None) -> bool:
        """Refuse all that waits and comes, and wait for what runs.

        Args:
            patience_s: seconds to wait; None waits however long it takes.

        Returns:
            Whether everything has ended.
        """
        if self._rest is not None:
            self._rest.cancel()
        return await close_lanes([self.prepare, self.encode, self.decode, self.load], Patience(patience_s))


def _prepare_workers() -> int:
    least, most = PREPARE_WORKERS
    return min(most, max(least, cpu_count()))


def _release_on_thread(loop: asyncio.AbstractEventLoop) -> None:
    # A loop that has ended needs nothing any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.run_in_executor, None, release_memory)


def release_memory() -> None:
    """Give memory that freed models held back to the system. Takes a moment, so not on a loop."""
    # ONNX Runtime is loaded with the first model, and not for /health.
    from osamd.runtime import sessions

    sessions.release_memory()
