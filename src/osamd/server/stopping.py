"""Signals that stop a server: the first has it finish what runs, a second ends it at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# What a shell calls a process that a signal ended.
SIGNAL_EXIT: Final = 128
# Ctrl-C reaches a supervisor and its workers, and the supervisor sends its workers another signal for it.
ECHO_S: Final = 2.0


@contextmanager
def heeding_signals(on_stop: Callable[[], object]) -> Iterator[None]:
    """Call ``on_stop`` at the first signal, before whoever listened for it already; end the process at the second.

    uvicorn waits for requests first and ends the app's lifespan last, whichever way it was started. Where nobody
    listened before, or on another thread than the main one, as in tests, nothing is changed.

    Args:
        on_stop: called in the main thread, in the midst of whatever it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[tuple[int, float]] = []
    earlier = {number: listener for number in SIGNALS if callable(listener := signal.getsignal(number))}

    def heed(number: int, frame: FrameType | None) -> None:
        if first and (number == first[0][0] or time.monotonic() - first[0][1] > ECHO_S):
            os._exit(SIGNAL_EXIT + number)
        first.append((number, time.monotonic()))
        on_stop()
        earlier[signal.Signals(number)](number, frame)

    for number in earlier:
        signal.signal(number, heed)
    try:
        yield
    finally:
        for number, listener in earlier.items():
            # Somebody else's since then is left alone.
            if signal.getsignal(number) is heed:
                signal.signal(number, listener)
