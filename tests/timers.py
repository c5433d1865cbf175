"""Timers of an event loop that run when a test says so, so that no test depends on how fast the machine is."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

# Longer than any test.
NEVER_S = 3600.0


class HeldTimers:
    """Holds back the timers of the running loop that were set for some delays; all others run as ever.

    Args:
        delays: seconds, as given to ``call_later``.
    """

    def __init__(self, delays: Collection[float]) -> None:
        self._delays = delays
        self._loop = asyncio.get_running_loop()
        self._call_later = self._loop.call_later
        self._held: list[tuple[float, asyncio.TimerHandle, Callable[[], object]]] = []
        setattr(self._loop, "call_later", self._hold)  # noqa: B010 - mypy lets no method be assigned

    @property
    def pending(self) -> list[float]:
        """Delays of those that were neither cancelled nor fired."""
        return [delay for delay, handle, _ in self._held if not handle.cancelled()]

    def fire(self) -> None:
        """Run what is pending now."""
        for _, handle, call in tuple(self._held):
            if not handle.cancelled():
                handle.cancel()
                call()

    def _hold(self, delay: float, callback: Callable[..., object], *arguments: Any, **more: Any) -> asyncio.TimerHandle:
        if delay not in self._delays:
            return self._call_later(delay, callback, *arguments, **more)
        handle = self._call_later(NEVER_S, callback, *arguments, **more)
        self._held.append((delay, handle, lambda: callback(*arguments)))
        return handle
