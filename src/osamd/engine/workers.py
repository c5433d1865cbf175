"""The engine's lanes: out-of-memory retries, hung work and shutdown."""

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Final, TypeVar

from osamd.engine.jobs import Held
from osamd.engine.lanes import MOST_HUNG, Lane, close_lanes
from osamd.errors import OutOfMemoryError
from osamd.events import Event, MemoryRanOut, WorkerHung
from osamd.patience import Patience
from osamd.runtime.container import cpu_count
from osamd.runtime.out_of_memory import is_out_of_memory
from osamd.settings import Settings
from osamd.status import LaneStatus
from osamd.timings import Timings

# Each worker may hold a decoded image of the maximum size.
PREPARE_WORKERS: Final = (2, 4)
DECODE_WORKERS: Final = 2
LOAD_CAPACITY: Final = 64
LOAD_HANG_S: Final = 900.0
# Images that have to wait before two are encoded at a time. A single one would be ready no earlier, the first later.
MANY_IMAGES: Final = 2
# Encoders use up to a few gigabytes of scratch memory; keeping it while there is work is faster than reallocating it.
REST_S: Final = 10.0

Result = TypeVar("Result")


class Workers:
    """A lane for each kind of work. Belongs to one event loop.

    Args:
        settings: queue sizes and time limits.
        unload_idle: unloads idle models; returns their names.
        emit: called with every event.
        parallel: images encoded at the same time, and prompts decoded at the same time if more than usual. If it is 1,
            two images are encoded while two more wait, given two cores, unless a request is in ``one_at_a_time``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        unload_idle: Callable[[], list[str]],
        emit: Callable[[Event], None],
        parallel: int = 1,
    ) -> None:
        self._unload_idle = unload_idle
        self._working = 0
        self._rest: asyncio.TimerHandle | None = None
        self._emit = emit
        make = functools.partial(Lane, on_hung=lambda lane, hung: emit(WorkerHung(lane, hung)))
        watched = functools.partial(make, wait_s=settings.queue_wait_s, hang_s=settings.hang_s)
        # A large model on a slow disk takes long to load, but not forever.
        self.load = make("load", workers=1, capacity=LOAD_CAPACITY, hang_s=max(LOAD_HANG_S, settings.hang_s))
        self._has_cores = cpu_count() > 1
        # Requests that are being answered with models of which only one image at a time may be encoded.
        self._alone = 0
        self.encode = watched(
            "encode",
            workers=parallel,
            capacity=settings.encode_queue,
            # On a single core an inference has a single thread, so a second image would only delay the first.
            may_help=self._may_encode_one_more if parallel == 1 and self._has_cores else None,
        )
        # Decodes and resizes images while the encoder is busy. Each holds its place until the encoder takes it, so that
        # requests wait before any work is done for them, and in one queue.
        # The spare threads keep a single owner from blocking everyone else.
        self.prepare = watched("prepare", workers=_prepare_workers(), capacity=settings.encode_queue, has_spare=True)
        # Decodes images at full size for cut-outs, which do not wait for the encoder.
        self.whole = watched("whole", workers=1, capacity=settings.encode_queue, has_spare=True)
        self.decode = watched(
            "decode", workers=max(DECODE_WORKERS, parallel), capacity=settings.decode_queue, has_spare=True
        )
        self._all = (self.load, self.prepare, self.encode, self.whole, self.decode)

    @contextlib.contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """While the block runs, no more images are encoded at the same time than usual."""
        self._alone += 1
        try:
            yield
        finally:
            self._alone -= 1

    def _may_encode_one_more(self) -> bool:
        """Whether so many images wait that throughput matters more than latency.

        The threads of one computation wait for each other many times. What the kernel runs instead of one of them, such
        as the next photo's decoder, holds up all of them, unless those of another computation can go on.
        """
        return not self._alone and self.encode.waiting + self.prepare.waiting >= MANY_IMAGES

    @property
    def is_stuck(self) -> bool:
        """Whether so many computations are hung that only a restart of the process helps."""
        return any(lane.hung >= MOST_HUNG for lane in self._all)

    def status(self) -> tuple[LaneStatus, ...]:
        """Current state of the lanes."""
        return tuple(lane.status() for lane in self._all)

    async def run(
        self, lane: Lane, work: Callable[[], Result], *, model: str, timings: Timings, owner: str = ""
    ) -> Result:
        """Run memory-intensive work; when memory runs out, unload idle models and retry once.

        Args:
            lane: one of the lanes of this object.
            work: the function to run on a worker.
            model: full name of the model it is for.
            timings: the request's timings.
            owner: the key's name; empty for the server's own work.

        Raises:
            OutOfMemoryError: the retry ran out of memory, too.
            OsamdError: what ``Lane.run`` and the work itself raise.
        """
        return await self._try_twice(functools.partial(lane.run, work, timings, owner=owner), model)

    async def run_and_hold(
        self, lane: Lane, work: Callable[[], Result], *, model: str, timings: Timings, owner: str = ""
    ) -> Held[Result]:
        """Like ``run``; see ``Lane.run_and_hold``."""
        return await self._try_twice(functools.partial(lane.run_and_hold, work, timings, owner=owner), model)

    async def run_in_steps(
        self,
        lane: Lane,
        work: Callable[[], Generator[None, None, Result]],
        *,
        model: str,
        timings: Timings,
        owner: str = "",
    ) -> Result:
        """Like ``run``, for work in steps; see ``Lane.run_in_steps``."""
        return await self._try_twice(functools.partial(lane.run_in_steps, work, timings, owner=owner), model)

    async def run_decoder(
        self, work: Callable[[], Generator[None, None, Result]], timings: Timings, *, model: str, owner: str
    ) -> Result:
        """``run_in_steps`` on the decode lane."""
        return await self.run_in_steps(self.decode, work, model=model, timings=timings, owner=owner)

    def second_decoder(self) -> Lane | None:
        """The decode lane if it has nothing to do, so that a request may have two of its workers.

        None on a single core, where an inference has a single thread, so that two at a time would gain nothing.
        """
        status = self.decode.status()
        return self.decode if self._has_cores and not (status.waiting or status.running) else None

    async def _try_twice(self, run: Callable[[], Awaitable[Result]], model: str) -> Result:
        with self._at_work():
            reason = ""
            for is_last in (False, True):
                try:
                    return await run()
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = f"{type(error).__name__}: {error}"
                # Outside the handler: the exception's traceback would keep its allocations alive.
                if not is_last:
                    self._emit(MemoryRanOut(model, reason, tuple(self._unload_idle())))
                    await asyncio.to_thread(release_memory)
            raise OutOfMemoryError(reason)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Release memory once no such block has been running for a while."""
        if self._rest is not None:
            self._rest.cancel()
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                loop = asyncio.get_running_loop()
                self._rest = loop.call_later(REST_S, loop.run_in_executor, None, release_memory)

    def release_memory_after(self, model: object) -> None:
        """Release a model's memory once nothing references it, including jobs that outlive their requests."""
        weakref.finalize(model, _release_on_thread, asyncio.get_running_loop()).atexit = False

    def drain(self) -> None:
        """Refuse waiting jobs; running ones finish, and new ones run only if they can start at once."""
        for lane in self._all:
            lane.drain()

    async def close(self, *, patience_s: float | None) -> bool:
        """Refuse waiting and new jobs, and wait for running ones.

        Args:
            patience_s: seconds to wait; None for no limit.

        Returns:
            Whether all jobs have ended.
        """
        if self._rest is not None:
            self._rest.cancel()
        lanes = [self.prepare, self.encode, self.whole, self.decode, self.load]
        return await close_lanes(lanes, Patience(patience_s))


def _prepare_workers() -> int:
    least, most = PREPARE_WORKERS
    return min(most, max(least, cpu_count()))


def _release_on_thread(loop: asyncio.AbstractEventLoop) -> None:
    # Nothing to do once the event loop is closed.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.run_in_executor, None, release_memory)


def release_memory() -> None:
    """Return memory freed by models to the operating system. Blocks, so do not call it on an event loop."""
    # Imported with the first model, so that /health need not wait for ONNX Runtime.
    from osamd.runtime import sessions

    sessions.release_memory()
