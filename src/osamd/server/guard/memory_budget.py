"""``MemoryBudget``: limits the memory of all requests' masks and replies, shared fairly between keys."""

import asyncio
import contextlib
import threading
from collections import deque

from osamd.errors import DeadlineExceededError, InvalidPromptError, OverloadedError
from osamd.server.guard.shares import FACTOR, Shares
from osamd.status import MemoryStatus


class Holding:
    """Bytes reserved by one request, initially none. Created by ``MemoryBudget.open``.

    Args:
        budget: the budget they belong to.
        owner: the name of the request's key.
    """

    def __init__(self, budget: "MemoryBudget", owner: str) -> None:
        self._budget = budget
        self.owner = owner
        self.nbytes = 0
        self.is_closed = False

    async def reserve(self, nbytes: int) -> int:
        """Reserve at least ``nbytes``, waiting for them if needed. Call on the event loop.

        Returns:
            Bytes it may use: ``nbytes``, or the limit of a single key if that is less.

        Raises:
            OverloadedError: they did not become free in time.
        """
        return await self._budget.reserve(self, nbytes)

    def grow(self, nbytes: int) -> None:
        """Reserve at least ``nbytes`` without waiting. Thread-safe.

        Raises:
            OverloadedError: they are not free now.
            InvalidPromptError: they exceed the limit of a single request.
            DeadlineExceededError: the request is over.
        """
        self._budget.grow(self, nbytes)

    def shrink(self, nbytes: int) -> None:
        """Release what it holds beyond ``nbytes``. Call on the event loop."""
        self._budget.shrink(self, nbytes)

    def close(self) -> None:
        """Release everything permanently: a thread that still writes for a disconnected client gets no more."""
        self._budget.close(self)


class MemoryBudget:
    """Bytes that requests reserve before use and release once their reply is sent. Belongs to one event loop.

    Keys share it as in ``Shares``. Waiting requests are served by key: the key that holds least goes first.

    Args:
        capacity_bytes: for all requests together.
        wait_s: seconds a request may wait.
    """

    def __init__(self, capacity_bytes: int, *, wait_s: float) -> None:
        self._shares = Shares(capacity_bytes)
        # The limit of a single request, so that it leaves something for others.
        self._most = capacity_bytes * FACTOR // (FACTOR + 1)
        self._wait_s = wait_s
        self._lines: dict[str, deque[tuple[Holding, int, asyncio.Future[None]]]] = {}
        self._refused = 0
        # Needed because replies grow on worker threads.
        self._lock = threading.Lock()

    def open(self, owner: str) -> Holding:
        """A holding for a request of this key. The caller must close it."""
        return Holding(self, owner)

    def status(self) -> MemoryStatus:
        """The current state."""
        with self._lock:
            waiting = sum(len(line) for line in self._lines.values())
            return MemoryStatus(self._shares.total, self._shares.whole, waiting, self._refused)

    async def reserve(self, holding: Holding, nbytes: int) -> int:
        """See ``Holding.reserve``."""
        nbytes = min(nbytes, self._most)
        with self._lock:
            if holding.owner not in self._lines and self._take(holding, nbytes):
                return nbytes
        free = asyncio.get_running_loop().create_future()
        entry = (holding, nbytes, free)
        self._lines.setdefault(holding.owner, deque()).append(entry)
        try:
            async with asyncio.timeout(self._wait_s):
                await free
        except TimeoutError:
            with self._lock:
                self._refused += 1
            message = f"no memory for masks became free within {self._wait_s:g} s"
            raise OverloadedError(message) from None
        finally:
            self._leave(entry)
            # Another request may have been waiting behind it.
            self._serve()
        return nbytes

    def grow(self, holding: Holding, nbytes: int) -> None:
        """See ``Holding.grow``."""
        with self._lock:
            if holding.is_closed:
                raise DeadlineExceededError("the request has ended")
            if self._take(holding, nbytes):
                return
            self._refused += 1
        message = f"not enough free memory for masks and a reply of {nbytes:,} bytes"
        if nbytes > self._most:
            raise InvalidPromptError(
                f"{message}; the limit per request is {self._most:,} bytes: request fewer masks, mask_format png, or no"
                " include"
            )
        raise OverloadedError(message)

    def shrink(self, holding: Holding, nbytes: int) -> None:
        """See ``Holding.shrink``."""
        with self._lock:
            if nbytes >= holding.nbytes:
                return
            self._change(holding, nbytes)
        self._serve()

    def close(self, holding: Holding) -> None:
        """See ``Holding.close``."""
        with self._lock:
            holding.is_closed = True
            self._change(holding, 0)
        self._serve()

    def _take(self, holding: Holding, nbytes: int) -> bool:
        """Reserve bytes if they are free. Call with the lock held."""
        more = nbytes - holding.nbytes
        if more <= 0:
            return True
        if not self._shares.has_room(holding.owner, more):
            return False
        self._change(holding, nbytes)
        return True

    def _change(self, holding: Holding, nbytes: int) -> None:
        self._shares.add(holding.owner, nbytes - holding.nbytes)
        holding.nbytes = nbytes

    def _leave(self, entry: tuple[Holding, int, asyncio.Future[None]]) -> None:
        owner = entry[0].owner
        line = self._lines.get(owner)
        if line is None:
            return
        with contextlib.suppress(ValueError):
            line.remove(entry)
        if not line:
            del self._lines[owner]

    def _serve(self) -> None:
        """Serve waiting requests whose bytes are free; none overtakes a waiting key that holds less."""
        with self._lock:
            most_held: float = float("inf")
            for owner in sorted(self._lines, key=self._shares.held_by):
                held = self._shares.held_by(owner)
                if held > most_held:
                    return
                if not self._serve_line(owner):
                    most_held = min(most_held, held)

    def _serve_line(self, owner: str) -> bool:
        """Serve one key's requests, oldest first; False if one does not fit."""
        for holding, nbytes, free in tuple(self._lines[owner]):
            if free.done():
                continue
            if not self._take(holding, nbytes):
                return False
            free.set_result(None)
        return True
