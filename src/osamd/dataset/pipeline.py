"""Work on several things at once, with results in order and bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
    tasks: Iterable[Task], work: Callable[[Task], Result], *, at_once: int, stop: threading.Event
) -> Generator[tuple[Task, Result]]:
    """Do each task on one of a few threads.

    Args:
        tasks: consumed by the calling thread, only as fast as results are.
        work: what to do with each.
        at_once: tasks in hand, at most.
        stop: once set, no further task is begun; those begun still give their results.

    Yields:
        Each task and its result, in the order of the tasks.

    Raises:
        Exception: the first of ``work``, in that order; tasks that have not begun are dropped.
    """
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="osamd-photos")
    begun: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for task in tasks:
            if stop.is_set():
                break
            begun.append((task, pool.submit(work, task)))
            if len(begun) == at_once:
                yield _first(begun)
        while begun:
            yield _first(begun)
    finally:
        pool.shutdown(cancel_futures=True)


def _first(begun: "deque[tuple[Task, Future[Result]]]") -> tuple[Task, Result]:
    task, future = begun.popleft()
    return task, future.result()
