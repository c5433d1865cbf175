"""Low-priority threads, for work that takes seconds and must not slow down clicks, which take milliseconds."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from osamd.daemon_thread import start_thread

Result = TypeVar("Result")

_Inbox = queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]

# A nice value of 5 gives a thread a third of the weight of one at 0.
STEPS_BACK = 5


def step_back() -> None:
    """Lower the calling thread's priority for good; threads that it starts inherit it.

    Linux keeps a priority for each thread, under the thread's own id (sched(7)). Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEPS_BACK)


class Background:
    """Low-priority threads that run a function while its caller waits.

    There is one thread for each concurrent call, kept for later ones: a call that hangs does not hold up others. Only
    work that releases the GIL belongs here: a low-priority thread that holds the GIL and is not scheduled would hold
    up the whole process. The threads end with ``close`` and never keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[_Inbox] = []
        self._is_closed = False

    def run(self, work: Callable[[], Result]) -> Result:
        """Run the function on such a thread and return its result or raise its exception.

        Raises:
            OverloadedError: the process may start no more threads.
        """
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = queue.SimpleQueue()
            start_thread(threading.Thread(target=self._serve, args=(inbox,), name=self._name, daemon=True))
        future: Future[Result] = Future()
        inbox.put((work, future))
        return future.result()

    def close(self) -> None:
        """Let each thread end after its current call."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _serve(self, inbox: "_Inbox") -> None:
        step_back()
        while (item := inbox.get()) is not None:
            work, future = item
            result, error = None, None
            try:
                result = work()
            # The caller gets any exception.
            except BaseException as raised:  # noqa: BLE001
                error = raised
            with self._lock:
                is_closed = self._is_closed
                if not is_closed:
                    # Before the caller is notified, since its next call may follow at once.
                    self._idle.append(inbox)
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
            # An idle thread must not keep its last call's objects alive.
            del item, work, future, result, error
            if is_closed:
                return
