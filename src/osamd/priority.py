"""Work that gives way: a thread of a lower priority, for what may take seconds while clicks want milliseconds."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

# Five steps are a third of the weight of a thread that has not stepped back.
STEPS_BACK = 5


def step_back() -> None:
    """Lower the calling thread's priority for good; threads that it starts inherit it.

    Linux keeps a priority for each thread, under the thread's own id (sched(7)). Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEPS_BACK)


class BackgroundThread:
    """One thread of a lower priority that runs what it is given, in order, while the giver waits.

    Only work that leaves Python's lock alone belongs here: a thread that holds the lock and is not scheduled would hold
    up the whole process. It ends with ``close``, and never keeps the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=_run, args=(self._work,), name=name, daemon=True).start()

    def run(self, work: Callable[[], Result]) -> Result:
        """Run the work there and return what it returns, or raise what it raises."""
        future: Future[Result] = Future()
        self._work.put((work, future))
        return future.result()

    def close(self) -> None:
        """Let the thread end once it has done what it was given."""
        self._work.put(None)


def _run(waiting: "queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]") -> None:
    step_back()
    while (item := waiting.get()) is not None:
        work, future = item
        try:
            future.set_result(work())
        # The giver gets whatever went wrong.
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)
        # A waiting thread must not keep alive what it has done.
        del item, work, future
