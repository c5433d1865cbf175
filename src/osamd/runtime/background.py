"""Work that gives way: threads of a lower priority, for what may take seconds while clicks want milliseconds."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

_Inbox = queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]

# Five steps are a third of the weight of a thread that has not stepped back.
STEPS_BACK = 5


def step_back() -> None:
    """Lower the calling thread's priority for good; threads that it starts inherit it.

    Linux keeps a priority for each thread, under the thread's own id (sched(7)). Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEPS_BACK)


class Background:
    """Threads of a lower priority that run what they are given while the giver waits.

    There are as many as there is work under way at once, kept for what comes next: work that does not end holds up no
    other. Only work that leaves Python's lock alone belongs here: a thread that holds the lock and is not scheduled
    would hold up the whole process. They end with ``close``, and never keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[_Inbox] = []
        self._is_closed = False

    def run(self, work: Callable[[], Result]) -> Result:
        """Run the work there and return what it returns, or raise what it raises."""
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), name=self._name, daemon=True).start()
        future: Future[Result] = Future()
        inbox.put((work, future))
        return future.result()

    def close(self) -> None:
        """Let the threads end, each once it has done what it was given."""
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
            # The giver gets whatever went wrong.
            except BaseException as raised:  # noqa: BLE001
                error = raised
            with self._lock:
                is_closed = self._is_closed
                if not is_closed:
                    # Before the giver hears of it, who may come again at once.
                    self._idle.append(inbox)
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
            # A waiting thread must not keep alive what it has done.
            del item, work, future, result, error
            if is_closed:
                return
