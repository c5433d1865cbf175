"""``MemoryBudget``: how many bytes of masks and replies all requests together may hold, shared between keys."""

import asyncio
import contextlib
import threading
from collections import deque

from osamd.errors import DeadlineExceededError, InvalidPromptError, OverloadedError
from osamd.server.guard.shares import FACTOR, Shares
from osamd.status import MemoryStatus


class Holding:
    """What one request holds; starts with nothing. Made by ``MemoryBudget.open``.

    Args:
        budget: whose bytes these are.
        owner: whose request it is (the key's name).
    """

    def __init__(self, budget: "MemoryBudget", owner: str) -> None:
        self._budget = budget
        self.owner = owner
        self.nbytes = 0
        self.is_closed = False

    async def reserve(self, nbytes: int) -> int:
        """Hold at least so many bytes, after waiting for them if need be. To be called on the event loop.

        Returns:
            Bytes it may use: ``nbytes``, or the most that one key may hold where that is less.

        Raises:
            OverloadedError: they did not become free in time.
        """
        return await self._budget.reserve(self, nbytes)

    def grow(self, nbytes: int) -> None:
        """Hold at least so many bytes without waiting. May be called from any thread.

        Raises:
            OverloadedError: they are not free now.
            InvalidPromptError: one request may never have so many.
            DeadlineExceededError: the request is over.
        """
        self._budget.grow(self, nbytes)

    def shrink(self, nbytes: int) -> None:
        """Give back what it holds beyond so many bytes. To be called on the event loop."""
        self._budget.shrink(self, nbytes)

    def close(self) -> None:
        """Give back everything, for good: a thread that still writes for a client that has gone gets no more."""
        self._budget.close(self)


class MemoryBudget:
    """Bytes that requests reserve before they use them and give back when their reply is sent. Belongs to one loop.

    Keys share it as ``Shares`` says. Requests that wait are served by key: first the key that holds least.

    Args:
        capacity_bytes: of all requests together.
        wait_s: seconds a request may wait.
    """

    def __init__(self, capacity_bytes: int, *, wait_s: float) -> None:
        self._shares = Shares(capacity_bytes)
        # What one request may have at most, so that it leaves something for others.
        self._most = capacity_bytes * FACTOR // (FACTOR + 1)
        self._wait_s = wait_s
        self._lines: dict[str, deque[tuple[Holding, int, asyncio.Future[None]]]] = {}
        self._refused = 0
        # Replies grow on worker threads.
        self._lock = threading.Lock()

    def open(self, owner: str) -> Holding:
        """A holding for a request of this key. Whoever opens it closes it at the end."""
        return Holding(self, owner)

    def status(self) -> MemoryStatus:
        """How it stands at this moment."""
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
            message = f"no memory became free for masks within {self._wait_s:g} s"
            raise OverloadedError(message) from None
        finally:
            self._leave(entry)
            # Somebody may have waited behind it.
            self._serve()
        return nbytes

    def grow(self, holding: Holding, nbytes: int) -> None:
        """See ``Holding.grow``."""
        with self._lock:
            if holding.is_closed:
                raise DeadlineExceededError("nobody waits for this any more")
            if self._take(holding, nbytes):
                return
            self._refused += 1
        message = f"no memory is free for masks and a reply of {nbytes:,} bytes"
        if nbytes > self._most:
            raise InvalidPromptError(
                f"{message}; one request may have {self._most:,}: ask for fewer masks at once, for mask_format png, or"
                " without include"
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
        """Hold so many bytes if they are free. To be called with the lock held."""
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
        """Let those go on whose bytes are free; nobody passes a key that waits and holds less."""
        with self._lock:
            most_held: float = float("inf")
            for owner in sorted(self._lines, key=self._shares.held_by):
                held = self._shares.held_by(owner)
                if held > most_held:
                    return
                if not self._serve_line(owner):
                    most_held = min(most_held, held)

    def _serve_line(self, owner: str) -> bool:
        """Serve one key's requests, the oldest first; False when one does not fit."""
        for holding, nbytes, free in tuple(self._lines[owner]):
            if free.done():
                continue
            if not self._take(holding, nbytes):
                return False
            free.set_result(None)
        return True
