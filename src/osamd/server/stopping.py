"""Signals that stop a server: the first shuts it down gracefully, a second ends it immediately."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# Shell convention: a process killed by a signal exits with 128 + its number.
SIGNAL_EXIT: Final = 128
# Ctrl-C reaches a supervisor and its workers, and the supervisor then forwards another signal to its workers.
ECHO_S: Final = 2.0


@contextmanager
def handling_stop_signals(on_stop: Callable[[], object]) -> Iterator[None]:
    """Call ``on_stop`` on the first signal, before the existing handler; end the process on the second.

    Needed because uvicorn waits for requests first and ends the app's lifespan last. Without an existing handler, or on
    a thread other than the main one, as in tests, this does nothing.

    Args:
        on_stop: called in the main thread, which it interrupts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[tuple[int, float]] = []
    earlier = {number: listener for number in SIGNALS if callable(listener := signal.getsignal(number))}

    def handle(number: int, frame: FrameType | None) -> None:
        if first and (number == first[0][0] or time.monotonic() - first[0][1] > ECHO_S):
            os._exit(SIGNAL_EXIT + number)
        first.append((number, time.monotonic()))
        on_stop()
        earlier[signal.Signals(number)](number, frame)

    for number in earlier:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, listener in earlier.items():
            # Leave a handler installed since then alone.
            if signal.getsignal(number) is handle:
                signal.signal(number, listener)
