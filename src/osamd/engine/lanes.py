"""Bounded queues with worker threads behind them. Knows no model.

Every accepted job completes exactly once: with its result, its own exception, or a refusal when the lane closes.
Cancelling a waiter frees its queue slot at once. A hung job fails and its worker is replaced; threads cannot be killed,
so the number of replacements is limited.

Slots and workers are shared fairly between owners: no owner waits behind another's backlog, and a full queue evicts a
job of the owner that has most.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, TypeVar

from osamd.engine.fair_queue import FairQueue
from osamd.engine.jobs import Held, Job
from osamd.errors import HungError, OverloadedError, ShuttingDownError
from osamd.patience import Patience
from osamd.plurals import counted
from osamd.status import LaneStatus
from osamd.timings import Timings

Result = TypeVar("Result")

# Hung threads a lane replaces. Beyond this it reports itself stuck so that the host restarts the process.
MOST_HUNG: Final = 3
# Time slice of work in steps: long enough for most clicks on one object, too short for 64.
SLICE_S: Final = 0.02


class Lane:
    """A named queue of at most ``capacity`` waiting jobs and ``workers`` threads that share it fairly between owners.

    Idle workers block on a condition and use no CPU. Threads start with the first job.

    Args:
        name: used in messages.
        workers: number of threads.
        capacity: maximum number of waiting jobs.
        wait_s: seconds after which a waiting job is refused; None for no limit.
        hang_s: seconds after which a running job counts as hung and fails; None for no limit.
        on_hung: called on the event loop with the lane's name and the number of its hung threads.
        has_spare: whether an extra thread serves other owners while one owner occupies all workers.
        may_help: whether the extra thread, if it serves any owner, may do so now; called with the lane's lock held.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int,
        capacity: int,
        wait_s: float | None = None,
        hang_s: float | None = None,
        on_hung: Callable[[str, int], None] | None = None,
        has_spare: bool = False,
        may_help: Callable[[], bool] | None = None,
    ) -> None:
        self._name = name
        self._capacity = capacity
        self._wait_s = wait_s
        self._hang_s = hang_s
        self._on_hung = on_hung
        self._has_spare = has_spare or may_help is not None
        self._may_help = may_help
        self._hung = 0
        self._made = 0
        self._draining = False
        self._worker_count = workers
        self._queue: FairQueue[Job] = FairQueue()
        # Jobs that have not started; those between two steps wait too, but were already admitted.
        self._waiting = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._idle = 0

    @property
    def waiting(self) -> int:
        """Number of jobs waiting to start."""
        with self._changed:
            return self._waiting

    @property
    def hung(self) -> int:
        """Number of hung workers."""
        with self._changed:
            return self._hung

    def status(self) -> LaneStatus:
        """The lane's current state."""
        with self._changed:
            running = self._queue.running
            return LaneStatus(self._name, self._waiting, self._capacity, running=running, hung=self._hung)

    async def run(self, work: Callable[[], Result], timings: Timings, *, owner: str = "") -> Result:
        """Run ``work`` on a worker thread; the time it spent waiting is added to the stage ``queue``.

        Args:
            work: the function to run.
            timings: the request's timings.
            owner: the key's name; empty for the server's own work.

        Raises:
            OverloadedError: the queue is full, or the job waited too long.
            ShuttingDownError: the lane is closed, or was closed before the job started.
            HungError: the job ran for longer than ``hang_s``.
        """
        result: Result = await self._answer(Job(work, owner), timings)
        return result

    async def run_and_hold(self, work: Callable[[], Result], timings: Timings, *, owner: str = "") -> Held[Result]:
        """Like ``run``, but the job counts as running until its result is used, so that results do not pile up.

        Arguments and errors as for ``run``. The caller must use the result or leave the block of ``Held``.
        """
        job = Job(work, owner, holds=True)
        result: Result = await self._answer(job, timings)
        return Held(result, functools.partial(self._let_go, job))

    async def run_in_steps(
        self, work: Callable[[], Generator[None, None, Result]], timings: Timings, *, owner: str = ""
    ) -> Result:
        """Run a generator to its end; its return value is the result. Waiting jobs may take a turn at each ``yield``.

        Cancelling the waiter ends it at its next ``yield``. Arguments and errors as for ``run``.
        """
        result: Result = await self._answer(Job(work, owner, in_steps=True), timings)
        return result

    async def _answer(self, job: Job, timings: Timings) -> Any:
        submitted = time.perf_counter()
        self._submit(job)
        loop = asyncio.get_running_loop()
        expiry = None if self._wait_s is None else loop.call_later(self._wait_s, self._expire, job)
        if self._hang_s is not None:
            job.watch = loop.call_later(self._hang_s, self._check, loop, job, self._hang_s)
        try:
            result = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
            self._unwatch(loop, job)
        timings.add("queue", time.perf_counter() - submitted - job.seconds, begun=submitted)
        return result

    def check_room(self, owner: str) -> None:
        """Check whether a job of this owner would be accepted now.

        Raises:
            OverloadedError: the queue is full.
        """
        with self._changed:
            if self._is_full(owner) and self._to_evict(owner) is None:
                raise self._overloaded()

    def drain(self) -> None:
        """Refuse waiting jobs; from now on, a job starts at once or is refused."""
        with self._changed:
            self._draining = True
            refused = [job for line in self._queue.lines().values() for job in line if not job.has_begun]
            for job in refused:
                self._remove(job)
            self._changed.notify_all()
        for job in refused:
            job.refuse(_shutting_down())

    def close(self, *, patience_s: float | None = None) -> bool:
        """Refuse waiting and new jobs, and wait for running ones.

        Args:
            patience_s: seconds to wait; None for no limit.

        Returns:
            Whether all workers have ended.
        """
        self._closed = True
        self.drain()
        patience = Patience(patience_s)
        for thread in tuple(self._threads):
            thread.join(patience.left())
        with self._changed:
            return not self._hung and not any(thread.is_alive() for thread in self._threads)

    def _submit(self, job: Job) -> None:
        evicted = None
        with self._changed:
            free = self._free(job.owner)
            if self._closed or (self._draining and len(self._queue) >= free):
                raise _shutting_down()
            if self._is_full(job.owner):
                evicted = self._to_evict(job.owner)
                if evicted is None:
                    raise self._overloaded()
                self._remove(evicted)
            self._queue.add(job, job.owner)
            self._waiting += 1
            self._wake()
            is_stranded = not self._threads
            if is_stranded:
                self._remove(job)
        if evicted is not None:
            message = f"the {self._name} queue is full, and this key holds the most of its {self._capacity} places"
            evicted.refuse(OverloadedError(message))
        if is_stranded:
            raise OverloadedError("no thread could be started: the limit of the system is reached; try again later")

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(f"the {self._name} queue is full: {counted(self._capacity, 'request')} waiting")

    def _is_full(self, owner: str) -> bool:
        """Whether a job of this owner needs the place of another. Call with the lock held."""
        return self._waiting >= self._capacity + self._free(owner)

    def _free(self, owner: str) -> int:
        """How many more jobs could run now if the next is this owner's. Call with the lock held."""
        free = self._worker_count - self._queue.running
        return max(free, int(self._is_for_spare(owner)))

    def _is_for_spare(self, owner: str) -> bool:
        """Whether all workers are busy and the extra thread may serve this owner."""
        queue = self._queue
        if not self._has_spare or queue.running != self._worker_count:
            return False
        if self._may_help is not None:
            return self._may_help()
        return queue.owners_running == 1 and not queue.running_of(owner)

    def _to_evict(self, newcomer: str) -> Job | None:
        """The newest waiting job of the owner with the most jobs; None if the newcomer would have as many."""
        lines = {
            owner: fresh
            for owner, line in self._queue.lines().items()
            if (fresh := [job for job in line if not job.has_begun])
        }
        most = max(lines, key=self._queue.held_by)
        if self._queue.held_by(most) <= self._queue.held_by(newcomer) + 1:
            return None
        return lines[most][-1]

    def _remove(self, job: Job) -> bool:
        """Remove a waiting job. Call with the lock held."""
        is_removed = self._queue.remove(job, job.owner)
        self._waiting -= is_removed and not job.has_begun
        return is_removed

    def _wake(self) -> None:
        """Wake or start a worker. Call with the lock held."""
        owner = self._queue.next_owner()
        if owner is None:
            return
        startable = min(len(self._queue), self._free(owner))
        if startable > self._idle and len(self._threads) < self._worker_count + self._has_spare:
            thread = threading.Thread(target=self._work, name=f"osamd-{self._name}-{self._made}", daemon=True)
            # If the system has no more threads, one that exists takes the job.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._made += 1
                self._threads.append(thread)
                self._idle += 1
                return
        self._changed.notify()

    def _abandon(self, job: Job) -> None:
        """Drop a job whose waiter was cancelled; a running one ends at its next step."""
        with self._changed:
            job.is_abandoned = True
            is_removed = self._remove(job)
            self._give_up_place(job)
        if is_removed and job.has_begun:
            job.forget()

    def _let_go(self, job: Job) -> None:
        with self._changed:
            job.is_used = True
            self._give_up_place(job)

    def _give_up_place(self, job: Job) -> None:
        """Free the place that a finished job holds. Call with the lock held."""
        if job.is_held:
            job.is_held = False
            self._queue.done(job.owner, job.slice_s)
            self._wake()

    def _expire(self, job: Job) -> None:
        with self._changed:
            if job.has_begun or not self._remove(job):
                return
        job.refuse(OverloadedError(f"gave up after waiting {self._wait_s:g} s in the {self._name} queue"))

    def _unwatch(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        """Cancel the watchdog of a job once it has ended; otherwise its timer would keep the job alive."""
        if job.watch is None:
            return

        def ended(_: object) -> None:
            # A closed event loop has no timers left to cancel.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: job.watch.cancel() if job.watch is not None else None)

        if job.future.done():
            job.watch.cancel()
        else:
            job.future.add_done_callback(ended)

    def _check(self, loop: asyncio.AbstractEventLoop, job: Job, hang_s: float) -> None:
        """Fail a job that has run for too long; otherwise check again when its time is up."""
        with self._changed:
            if job.future.done():
                return
            left_s = hang_s if job.thread is None else job.started + hang_s - time.perf_counter()
            if left_s <= 0:
                job.is_given_up = True
                self._hung += 1
                hung = self._hung
                if hung <= MOST_HUNG and job.thread in self._threads:
                    job.is_replaced = True
                    self._threads.remove(job.thread)
                    self._queue.done(job.owner, hang_s)
                    self._wake()
        if left_s > 0:
            job.watch = loop.call_later(left_s, self._check, loop, job, hang_s)
            return
        job.fail(HungError(f"hung: not finished after {hang_s:g} s in the {self._name} lane"))
        if self._on_hung is not None:
            self._on_hung(self._name, hung)

    def _work(self) -> None:
        with self._changed:
            job = self._next()
        while job is not None:
            is_over = not self._begin(job) or job.advance()
            with self._changed:
                if job.is_given_up:
                    self._hung -= 1
                    if job.is_replaced:
                        return
                    is_over = True
                if is_over or (len(self._queue) and job.slice_s >= SLICE_S):
                    self._release(job, is_over=is_over)
                    # A waiting worker's frame must not keep a finished job alive.
                    del job
                    job = self._next()
                else:
                    job.take()

    def _begin(self, job: Job) -> bool:
        """Whether to run the job; False if it was cancelled before it started."""
        if job.has_begun:
            return True
        job.has_begun = True
        return job.future.set_running_or_notify_cancel()

    def _release(self, job: Job, *, is_over: bool) -> None:
        """End a job's turn. Call with the lock held."""
        job.thread = None
        self._idle += 1
        if is_over and job.holds and job.is_awaited:
            job.is_held = True
            return
        self._queue.done(job.owner, job.slice_s)
        job.slice_s = 0.0
        if not is_over:
            self._queue.add(job, job.owner)

    def _next(self) -> Job | None:
        """Wait for a runnable job and take it; None when the lane is closed. Call with the lock held."""
        while True:
            owner = self._queue.next_owner()
            if owner is not None and self._free(owner) > 0:
                break
            if owner is None and self._closed:
                self._idle -= 1
                # An idle spare thread may have gone back to waiting because the last jobs were not for it.
                self._changed.notify_all()
                return None
            self._changed.wait()
        self._idle -= 1
        job = self._queue.take()
        self._waiting -= not job.has_begun
        job.take()
        return job


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the server is shutting down")


async def close_lanes(lanes: Iterable[Lane], patience: Patience) -> bool:
    """Close lanes one after the other, off the event loop; returns whether all their workers have ended."""
    closed = [await asyncio.to_thread(lane.close, patience_s=patience.left()) for lane in lanes]
    return all(closed)
