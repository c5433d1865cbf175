"""Lanes for tests, and work that tests hold up."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from waiting import WAIT_S

from osamd.engine.lanes import Lane


@contextlib.contextmanager
def lane(*, workers: int = 1, capacity: int = 100, **limits: Any) -> Iterator[Lane]:
    """A lane that is closed at the end."""
    opened = Lane("test", workers=workers, capacity=capacity, **limits)
    try:
        yield opened
    finally:
        opened.close()


class Gate:
    """Work that signals its start and waits for a signal to continue."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> str:
        """Wait for the gate to be opened."""
        self.begun.set()
        if not self.opened.wait(WAIT_S):
            raise RuntimeError("nobody opened the gate")
        return "through"


async def wait_for(event: threading.Event) -> None:
    """Wait for a worker without holding the event loop."""
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def settle(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something holds."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.001)
