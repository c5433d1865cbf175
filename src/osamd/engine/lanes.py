"""Bounded queues with worker threads behind them. Knows no model.

Every accepted piece of work is answered exactly once: with its result, with its own exception, or with a refusal when
the lane closes. A waiter that is cancelled gives its place in the queue back at once. Work that does not end is given
up and its worker replaced; a thread cannot be stopped, so there is a limit to how often.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final, TypeVar

from osamd.engine.status import LaneStatus
from osamd.errors import InferenceError, OverloadedError, ShuttingDownError
from osamd.timings import Timings

Result = TypeVar("Result")

# Threads a lane leaves to work that does not end. With one more it would rather be stuck, and its process ended.
MOST_HUNG: Final = 3


class _Job:
    __slots__ = ("future", "is_given_up", "seconds", "started", "thread", "watch", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.future: Future[Any] = Future()
        # How long the work itself ran.
        self.seconds = 0.0
        self.started = 0.0
        self.thread: threading.Thread | None = None
        self.watch: asyncio.TimerHandle | None = None
        self.is_given_up = False


class Lane:
    """A named queue of at most ``capacity`` waiting jobs and ``workers`` threads that run them in order.

    Idle workers block on a condition and use no CPU. Threads start with the first job.

    Args:
        name: for messages.
        workers: how many threads.
        capacity: how many jobs may wait.
        wait_s: what has waited for so many seconds is refused; None lets it wait.
        hang_s: what has run for so many seconds is given up; None lets it run.
        on_hung: told the lane's name and how many of its threads are given up, on the event loop.
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
    ) -> None:
        self._name = name
        self._capacity = capacity
        self._wait_s = wait_s
        self._hang_s = hang_s
        self._on_hung = on_hung
        self._hung = 0
        self._made = 0
        self._draining = False
        self._worker_count = workers
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._idle = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker."""
        with self._changed:
            return len(self._jobs)

    @property
    def hung(self) -> int:
        """How many of its workers are given up."""
        with self._changed:
            return self._hung

    def status(self) -> LaneStatus:
        """How it stands at this moment."""
        with self._changed:
            running = len(self._threads) - self._idle
            return LaneStatus(self._name, len(self._jobs), self._capacity, running=running, hung=self._hung)

    async def run(self, work: Callable[[], Result], timings: Timings) -> Result:
        """Run ``work`` on a worker thread; time in which it did not run is added to the stage ``queue``.

        Raises:
            OverloadedError: the queue is full, or the wait was too long.
            ShuttingDownError: the lane is closed, or was closed before the work began.
            InferenceError: the work does not end.
        """
        submitted = time.perf_counter()
        job = self._submit(work)
        loop = asyncio.get_running_loop()
        expiry = None if self._wait_s is None else loop.call_later(self._wait_s, self._expire, job)
        if self._hang_s is not None:
            job.watch = loop.call_later(self._hang_s, self._check, loop, job, self._hang_s)
        try:
            result: Result = await asyncio.wrap_future(job.future)
        finally:
            if expiry is not None:
                expiry.cancel()
            self._forget(job)
            self._unwatch(loop, job)
        timings.add("queue", time.perf_counter() - submitted - job.seconds, begun=submitted)
        return result

    def drain(self) -> None:
        """Refuse what waits; from now on, work is begun at once or refused."""
        with self._changed:
            self._draining = True
            refused = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in refused:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(_shutting_down())

    def close(self, *, patience_s: float | None = None) -> bool:
        """Refuse what waits and what comes; what runs is finished.

        Args:
            patience_s: seconds to wait for that; None waits however long it takes.

        Returns:
            Whether all workers are gone.
        """
        self._closed = True
        self.drain()
        until = None if patience_s is None else time.monotonic() + patience_s
        for thread in tuple(self._threads):
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        with self._changed:
            return not self._hung and not any(thread.is_alive() for thread in self._threads)

    def _submit(self, work: Callable[[], Any]) -> _Job:
        with self._changed:
            free = self._idle + self._worker_count - len(self._threads)
            if self._closed or (self._draining and len(self._jobs) >= free):
                raise _shutting_down()
            if len(self._jobs) >= self._capacity + self._idle:
                raise OverloadedError(f"the {self._name} queue is full: {self._capacity} requests wait already")
            job = _Job(work)
            self._jobs.append(job)
            self._wake()
            return job

    def _wake(self) -> None:
        """Have a worker look at the queue. To be called with the lock held."""
        if len(self._jobs) > self._idle and len(self._threads) < self._worker_count:
            thread = threading.Thread(target=self._work, name=f"osamd-{self._name}-{self._made}", daemon=True)
            self._made += 1
            self._threads.append(thread)
            self._idle += 1
            thread.start()
        else:
            self._changed.notify()

    def _forget(self, job: _Job) -> None:
        if job.future.cancelled():
            with self._changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def _expire(self, job: _Job) -> None:
        with self._changed:
            if job not in self._jobs:
                return
            self._jobs.remove(job)
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(OverloadedError(f"waited {self._wait_s:g} s in the {self._name} queue"))

    def _unwatch(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
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

    def _check(self, loop: asyncio.AbstractEventLoop, job: _Job, hang_s: float) -> None:
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
                    self._threads.remove(job.thread)
                    if self._jobs:
                        self._wake()
        if left_s > 0:
            job.watch = loop.call_later(left_s, self._check, loop, job, hang_s)
            return
        with contextlib.suppress(InvalidStateError):
            job.future.set_exception(InferenceError(f"given up after {hang_s:g} s in the {self._name} lane"))
        if self._on_hung is not None:
            self._on_hung(self._name, hung)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                job.started, job.thread = time.perf_counter(), threading.current_thread()
            if job.future.set_running_or_notify_cancel():
                _do(job)
            with self._changed:
                if job.is_given_up:
                    self._hung -= 1
                    if threading.current_thread() not in self._threads:
                        return
                self._idle += 1
            # Nothing of a finished job may stay alive in a waiting worker's frame.
            del job


def _do(job: _Job) -> None:
    # One that was given up has been answered already.
    with contextlib.suppress(InvalidStateError):
        _answer(job)


def _answer(job: _Job) -> None:
    started = time.perf_counter()
    try:
        result = job.work()
        job.seconds = time.perf_counter() - started
    except StopIteration as error:
        # asyncio cannot carry this one to the waiter (Python 3.11), who would wait for ever.
        job.future.set_exception(RuntimeError("the work raised StopIteration").with_traceback(error.__traceback__))
    # The waiter gets whatever went wrong; a worker must survive every job.
    except BaseException as error:  # noqa: BLE001
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the server is shutting down")
