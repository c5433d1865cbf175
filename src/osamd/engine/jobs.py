"""``Job``: a unit of work in a lane, answered exactly once."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any, Generic, Self, TypeVar

from osamd.errors import DeadlineExceededError

Result = TypeVar("Result")


class Job:
    """A unit of work, its owner and its waiter.

    Args:
        work: called once; with ``in_steps`` it returns a generator, which is run step by step, so that other jobs can
            run between steps. The generator's return value is the result.
        owner: the name of the key it belongs to.
        in_steps: whether ``work`` returns such a generator.
        holds: whether it keeps its place after it has finished, until its result is used.

    Attributes:
        owner: the name of the key it belongs to.
        holds: as given.
        future: receives the result.
        seconds: how long the work has run so far.
        slice_s: how long it has run since it was last started or resumed.
        has_begun: whether it has started; from then on it is finished, not refused.
        started: when a worker last took it, on the clock ``time.perf_counter``.
        thread: the worker that is running it, or None.
        watch: the timer that detects a hang.
        is_given_up: whether it was found hung.
        is_replaced: whether its worker was replaced because of that.
        is_abandoned: whether its waiter has gone; it then ends before its next step.
        is_held: whether it has finished and keeps its place.
        is_used: whether its result has been used, so that it need not keep its place.
    """

    __slots__ = (
        *("_in_steps", "_steps", "_work", "future", "has_begun", "holds", "is_abandoned", "is_given_up", "is_held"),
        *("is_replaced", "is_used", "owner", "seconds", "slice_s", "started", "thread", "watch"),
    )

    def __init__(self, work: Callable[[], Any], owner: str, *, in_steps: bool = False, holds: bool = False) -> None:
        self._work = work
        self._in_steps = in_steps
        self._steps: Generator[None, None, Any] | None = None
        self.owner = owner
        self.holds = holds
        self.future: Future[Any] = Future()
        self.seconds = 0.0
        self.slice_s = 0.0
        self.has_begun = False
        self.started = 0.0
        self.thread: threading.Thread | None = None
        self.watch: asyncio.TimerHandle | None = None
        self.is_given_up = False
        self.is_replaced = False
        self.is_abandoned = False
        self.is_held = False
        self.is_used = False

    @property
    def is_awaited(self) -> bool:
        """Whether it has succeeded and its result is still to be used."""
        has_result = self.future.done() and not self.future.cancelled() and self.future.exception() is None
        return has_result and not (self.is_abandoned or self.is_given_up or self.is_used)

    def take(self) -> None:
        """Mark it as running on this thread."""
        self.started, self.thread = time.perf_counter(), threading.current_thread()

    def refuse(self, error: BaseException) -> None:
        """Answer a job that has not started, unless its waiter has gone."""
        if self.future.set_running_or_notify_cancel():
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Answer a started job, unless it has been answered already."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    def forget(self) -> None:
        """End a job that is waiting between two steps and whose waiter has gone."""
        self._steps = None
        self.fail(asyncio.CancelledError())

    def advance(self) -> bool:
        """Run it, or its next step, on this thread; False if there are more steps."""
        started = time.perf_counter()
        try:
            is_over, result = self._next()
        # Any exception goes to the waiter; a worker must survive every job.
        except BaseException as error:  # noqa: BLE001
            self._count(started)
            self._steps = None
            self.fail(error)
            return True
        self._count(started)
        if is_over:
            # A hung job has been answered already.
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(result)
        return is_over

    def _next(self) -> tuple[bool, Any]:
        if self.is_abandoned:
            raise DeadlineExceededError("the request has ended")
        if self._steps is None:
            try:
                result = self._work()
            except StopIteration as error:
                # asyncio cannot pass this exception to the waiter (Python 3.11), which would wait forever.
                message = "the work raised StopIteration"
                raise RuntimeError(message).with_traceback(error.__traceback__) from None
            if not self._in_steps:
                return True, result
            self._steps = result
        try:
            next(self._steps)
        except StopIteration as end:
            self._steps = None
            return True, end.value
        return False, None

    def _count(self, started: float) -> None:
        spent = time.perf_counter() - started
        self.seconds += spent
        self.slice_s += spent


class Held(Generic[Result]):
    """The result of a job that keeps its place in a lane until ``use`` is called, or the block ends.

    Args:
        result: of the job.
        let_go: gives up the place; may be called several times, on any thread.
    """

    def __init__(self, result: Result, let_go: Callable[[], None]) -> None:
        self._result = result
        self._let_go = let_go

    def use(self) -> Result:
        """The result; gives up the place. Thread-safe."""
        self._let_go()
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()
