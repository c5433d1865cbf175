"""Runs work on a daemon thread of its own, so that work that hangs cannot keep the process alive."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from osamd.errors import OverloadedError

Result = TypeVar("Result")


def on_daemon_thread(work: Callable[[], Result], name: str) -> Future[Result]:
    """Start work on a new thread. It cannot be cancelled, only abandoned, unlike the work of an executor.

    Args:
        work: what to do.
        name: of the thread.

    Returns:
        Gets the result, or any exception.

    Raises:
        OverloadedError: the process may start no more threads.
    """
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work()
        # The waiter gets any exception.
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)
        else:
            future.set_result(result)

    start_thread(threading.Thread(target=run, name=name, daemon=True))
    return future


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        OverloadedError: the process may start no more, such as below a limit of a container's processes.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise OverloadedError(f"{error}: too many threads or processes are running here") from error
