"""Bounded queues with worker threads behind them. Knows no model.

Every accepted piece of work is answered exactly once: with its result, with its own exception, or with a refusal when
the lane closes. A waiter that is cancelled gives its place in the queue back at once. Work that does not end is given
up and its worker replaced; a thread cannot be stopped, so there is a limit to how often.

Places and workers are shared by owner: nobody waits behind another owner's backlog, and a full queue takes a place
from the owner that has most.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, TypeVar

from osamd.engine.fair_queue import FairQueue
from osamd.engine.jobs import Job
from osamd.errors import HungError, OverloadedError, ShuttingDownError
from osamd.patience import Patience
from osamd.status import LaneStatus
from osamd.timings import Timings

Result = TypeVar("Result")

# Threads a lane leaves to work that does not end. Beyond this it reports itself stuck, so that the host restarts the
# process.
MOST_HUNG: Final = 3
# How long work in steps goes on before others get the worker: a click on one object is done within it, and 64 are not.
SLICE_S: Final = 0.02


class Lane:
    """A named queue of at most ``capacity`` waiting jobs and ``workers`` threads that share it fairly between owners.

    Idle workers block on a condition and use no CPU. Threads start with the first job.

    Args:
        name: for messages.
        workers: how many threads.
        capacity: how many jobs may wait.
        wait_s: what has waited for so many seconds is refused; None lets it wait.
        hang_s: what has run for so many seconds is given up; None lets it run.
        on_hung: told the lane's name and how many of its threads are given up, on the event loop.
        has_spare: whether one more thread serves another owner while one owner holds all workers.
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
    ) -> None:
        self._name = name
        self._capacity = capacity
        self._wait_s = wait_s
        self._hang_s = hang_s
        self._on_hung = on_hung
        self._has_spare = has_spare
        self._hung = 0
        self._made = 0
        self._draining = False
        self._worker_count = workers
        self._queue: FairQueue[Job] = FairQueue()
        # Jobs that have not begun; those between two steps wait too, but were let in already.
        self._waiting = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._idle = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait to be begun."""
        with self._changed:
            return self._waiting

    @property
    def hung(self) -> int:
        """How many of its workers are given up."""
        with self._changed:
            return self._hung

    def status(self) -> LaneStatus:
        """How it stands at this moment."""
        with self._changed:
            running = self._queue.running
            return LaneStatus(self._name, self._waiting, self._capacity, running=running, hung=self._hung)

    async def run(self, work: Callable[[], Result], timings: Timings, *, owner: str = "") -> Result:
        """Run ``work`` on a worker thread; time in which it did not run is added to the stage ``queue``.

        Args:
            work: what to do.
            timings: the request's stopwatch.
            owner: whose work it is (the key's name); empty for the server's own.

        Raises:
            OverloadedError: the queue is full, or the wait was too long.
            ShuttingDownError: the lane is closed, or was closed before the work began.
            HungError: the work does not end.
        """
        result: Result = await self._answer(Job(work, owner, in_steps=False), timings)
        return result

    async def run_in_steps(
        self, work: Callable[[], Generator[None, None, Result]], timings: Timings, *, owner: str = ""
    ) -> Result:
        """Run a generator to its end, whose return value is the result; jobs that wait may take turns where it yields.

        When the waiter is cancelled it ends at its next ``yield``. Arguments and errors as of ``run``.
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

    def drain(self) -> None:
        """Refuse what waits; from now on, work is begun at once or refused."""
        with self._changed:
            self._draining = True
            refused = [job for line in self._queue.lines().values() for job in line if not job.has_begun]
            for job in refused:
                self._remove(job)
            self._changed.notify_all()
        for job in refused:
            job.refuse(_shutting_down())

    def close(self, *, patience_s: float | None = None) -> bool:
        """Refuse what waits and what comes; what runs is finished.

        Args:
            patience_s: seconds to wait for that; None waits however long it takes.

        Returns:
            Whether all workers are gone.
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
            if self._waiting >= self._capacity + free:
                evicted = self._to_evict(job.owner)
                if evicted is None:
                    raise OverloadedError(f"the {self._name} queue is full: {self._capacity} requests wait already")
                self._remove(evicted)
            self._queue.add(job, job.owner)
            self._waiting += 1
            self._wake()
        if evicted is not None:
            message = f"the {self._name} queue is full, and this key has most of the {self._capacity} places"
            evicted.refuse(OverloadedError(message))

    def _free(self, owner: str) -> int:
        """How many more jobs could run now, the next being this owner's. To be called with the lock held."""
        free = self._worker_count - self._queue.running
        return max(free, int(self._is_for_spare(owner)))

    def _is_for_spare(self, owner: str) -> bool:
        """Whether one other owner holds all workers, so that this one may use the spare thread."""
        queue = self._queue
        return (
            self._has_spare
            and queue.running == self._worker_count
            and queue.owners_running == 1
            and not queue.running_of(owner)
        )

    def _to_evict(self, newcomer: str) -> Job | None:
        """The newest waiting job of the owner with most jobs; None when the newcomer would have as many."""
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
        """Take a waiting job out. To be called with the lock held."""
        is_removed = self._queue.remove(job, job.owner)
        self._waiting -= is_removed and not job.has_begun
        return is_removed

    def _wake(self) -> None:
        """Have a worker look at the queue. To be called with the lock held."""
        owner = self._queue.next_owner()
        if owner is None:
            return
        startable = min(len(self._queue), self._free(owner))
        if startable > self._idle and len(self._threads) < self._worker_count + self._has_spare:
            thread = threading.Thread(target=self._work, name=f"osamd-{self._name}-{self._made}", daemon=True)
            self._made += 1
            self._threads.append(thread)
            self._idle += 1
            thread.start()
        else:
            self._changed.notify()

    def _abandon(self, job: Job) -> None:
        """Forget a job whose waiter has gone; one that runs ends at its next step."""
        with self._changed:
            job.is_abandoned = True
            is_removed = self._remove(job)
        if is_removed and job.has_begun:
            job.forget()

    def _expire(self, job: Job) -> None:
        with self._changed:
            if job.has_begun or not self._remove(job):
                return
        job.refuse(OverloadedError(f"waited {self._wait_s:g} s in the {self._name} queue"))

    def _unwatch(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        """End the watch over a job, which would keep it and all it holds alive, when it has ended."""
        if job.watch is None:
            return

        def ended(_: object) -> None:
            # A loop that was closed watches nothing any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: job.watch.cancel() if job.watch is not None else None)

        if job.future.done():
            job.watch.cancel()
        else:
            job.future.add_done_callback(ended)

    def _check(self, loop: asyncio.AbstractEventLoop, job: Job, hang_s: float) -> None:
        """Give a job up that has run for too long; look at a younger one again when it is as old."""
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
        job.fail(HungError(f"given up after {hang_s:g} s in the {self._name} lane"))
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
                    # Nothing of a finished job may stay alive in a waiting worker's frame.
                    del job
                    job = self._next()
                else:
                    job.take()

    def _begin(self, job: Job) -> bool:
        """Whether the job is to be run: not when its waiter had gone before it began."""
        if job.has_begun:
            return True
        job.has_begun = True
        return job.future.set_running_or_notify_cancel()

    def _release(self, job: Job, *, is_over: bool) -> None:
        """End a job's turn. To be called with the lock held."""
        self._queue.done(job.owner, job.slice_s)
        job.slice_s = 0.0
        job.thread = None
        self._idle += 1
        if not is_over:
            self._queue.add(job, job.owner)

    def _next(self) -> Job | None:
        """Wait for a job that may run now, and take it; None when the lane is closed. To be called with the lock."""
        while True:
            owner = self._queue.next_owner()
            if owner is not None and self._free(owner) > 0:
                break
            if owner is None and self._closed:
                self._idle -= 1
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
    """Close lanes one after the other, off the loop; returns whether all their workers are gone."""
    closed = [await asyncio.to_thread(lane.close, patience_s=patience.left()) for lane in lanes]
    return all(closed)
