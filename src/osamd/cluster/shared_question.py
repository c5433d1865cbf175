"""``SharedQuestion``: many requests ask at once, and Segmenters or Ray are asked once."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class SharedQuestion(Generic[Value]):
    """An answer that all requests share while it is fresh. Belongs to one event loop.

    Args:
        ask: asks.
        age_s: seconds for which an answer is fresh, from when it was asked for.
    """

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, Value]], *, age_s: float) -> None:
        self._ask = ask
        self._age_s = age_s
        self._task: asyncio.Task[Value] | None = None
        self._asked_at = 0.0

    async def answer(self) -> Value:
        """The answer; waits for the one that others wait for."""
        now = time.monotonic()
        if self._task is None or (self._task.done() and now - self._asked_at >= self._age_s):
            # In no request's context: Ray cancels the calls of a request whose client leaves, and others wait for this.
            self._task = asyncio.create_task(self._ask(), context=contextvars.Context())
            self._asked_at = now
        return await asyncio.shield(self._task)

    def forget(self) -> None:
        """Ask again next time."""
        self._task = None
