"""Hear of a stop when it is asked for, not when the last request is done: under any server that handles the signal."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_of_stop(tell: Callable[[], None]) -> Iterator[None]:
    """While the block runs, SIGTERM calls ``tell`` on this loop, and then who handled it before.

    uvicorn waits for requests first and ends the app's lifespan last, whichever way it was started. Without a handler
    before, or on another thread than the main one, as in tests, nothing is changed.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(tell)
        before(number, frame)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        # Somebody else's handler since then is left alone.
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, before)
