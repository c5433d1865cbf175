"""Bounded queues with worker threads behind them. Knows no model.

Every accepted piece of work is answered exactly once: with its result, with its own exception, or with a refusal when
the lane closes. A waiter that is cancelled gives its place in the queue back at once.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from osamd.errors import OverloadedError, ShuttingDownError
from osamd.events import Timings
from osamd.status import LaneStatus

Result = TypeVar("Result")


class _Job:
    __slots__ = ("future", "seconds", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.future: Future[Any] = Future()
        # How long the work itself ran.
        self.seconds = 0.0


class Lane:
    """A named queue of at most ``capacity`` waiting jobs and ``workers`` threads that run them in order.

    Idle workers block on a condition and use no CPU. Threads start with the first job. What has waited for ``wait_s``
    seconds is refused; None lets it wait.
    """

    def __init__(self, name: str, *, workers: int, capacity: int, wait_s: float | None = None) -> None:
        self._name = name
        self._capacity = capacity
        self._wait_s = wait_s
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

    def status(self) -> LaneStatus:
        """How it stands at this moment."""
        with self._changed:
            running = len(self._threads) - self._idle
            return LaneStatus(self._name, len(self._jobs), self._capacity, running=running, hung=0)

    async def run(self, work: Callable[[], Result], timings: Timings) -> Result:
        """Run ``work`` on a worker thread; time in which it did not run is added to the stage ``queue``.

        Raises:
            OverloadedError: the queue is full, or the wait was too long.
            ShuttingDownError: the lane is closed, or was closed before the work began.
        """
        submitted = time.perf_counter()
        job = self._submit(work)
        loop = asyncio.get_running_loop()
        expiry = None if self._wait_s is None else loop.call_later(self._wait_s, self._expire, job)
        try:
            result: Result = await asyncio.wrap_future(job.future)
        finally:
            if expiry is not None:
                expiry.cancel()
            self._forget(job)
        timings.add("queue", time.perf_counter() - submitted - job.seconds, begun=submitted)
        return result

    def close(self) -> None:
        """Refuse what waits and what comes; what runs is finished. Returns when the workers are gone."""
        with self._changed:
            self._closed = True
            refused = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in refused:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(ShuttingDownError("the server is shutting down"))
        for thread in self._threads:
            thread.join()

    def _submit(self, work: Callable[[], Any]) -> _Job:
        with self._changed:
            if self._closed:
                raise ShuttingDownError("the server is shutting down")
            if len(self._jobs) >= self._capacity + self._idle:
                raise OverloadedError(f"the {self._name} queue is full: {self._capacity} requests wait already")
            job = _Job(work)
            self._jobs.append(job)
            if len(self._jobs) > self._idle and len(self._threads) < self._worker_count:
                thread = threading.Thread(
                    target=self._work, name=f"osamd-{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                self._idle += 1
                thread.start()
            else:
                self._changed.notify()
            return job

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

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            if job.future.set_running_or_notify_cancel():
                _do(job)
            # Nothing of a finished job may stay alive in a waiting worker's frame.
            del job
            with self._changed:
                self._idle += 1


def _do(job: _Job) -> None:
    started = time.perf_counter()
    try:
        result = job.work()
        job.seconds = time.perf_counter() - started
        job.future.set_result(result)
    except StopIteration as error:
        # asyncio cannot carry this one to the waiter (Python 3.11), who would wait for ever.
        job.future.set_exception(RuntimeError("the work raised StopIteration").with_traceback(error.__traceback__))
    # The waiter gets whatever went wrong; a worker must survive every job.
    except BaseException as error:  # noqa: BLE001
        job.future.set_exception(error)
