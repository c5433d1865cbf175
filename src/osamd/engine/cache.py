"""``OwnedCache``, a byte-budgeted cache with owners and expiry, and ``SingleFlight``.

Both belong to one event loop and need no locks.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    nbytes: int
    owner: str
    expires: float


class OwnedCache(Generic[Value]):
    """LRU cache with a byte budget. A value is only returned to the owner who stored it.

    To make room, the owner who holds most loses their least recently used value, so an owner with many values cannot
    evict those of an owner with few.

    Args:
        capacity_bytes: the budget; a value larger than this is not stored.
        ttl_s: seconds after which an unused value expires.
        clock: seconds that never run backwards.
    """

    def __init__(self, *, capacity_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity_bytes = capacity_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[Value]] = OrderedDict()
        self._nbytes = 0
        # By owner: bytes and values; an owner without any is in neither.
        self._held: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, *, owner: str) -> Value | None:
        """The value, marked as most recently used; None if it is unknown, expired, or another owner's."""
        entry = self._entries.get(key)
        if entry is None or entry.owner != owner:
            return None
        now = self._clock()
        if entry.expires <= now:
            self._drop(key)
            return None
        entry.expires = now + self._ttl_s
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: str, value: Value, *, nbytes: int, owner: str) -> None:
        """Store a value, dropping expired ones and then others until it fits."""
        self._drop(key)
        now = self._clock()
        # All have the same TTL, so the least recently used expire first.
        while self._entries and next(iter(self._entries.values())).expires <= now:
            self._drop(next(iter(self._entries)))
        if nbytes > self._capacity_bytes:
            return
        # Count the new value first, so that its owner is evicted from when they hold the most.
        if nbytes:
            self._held[owner] += nbytes
        self._nbytes += nbytes
        while self._nbytes > self._capacity_bytes:
            self._drop(self._next_to_go())
        self._entries[key] = _Entry(value, nbytes, owner, now + self._ttl_s)
        self._counts[owner] += 1

    def delete(self, key: str, *, owner: str) -> bool:
        """Delete a value; False if this owner has none."""
        if self.get(key, owner=owner) is None:
            return False
        self._drop(key)
        return True

    def drop_if(self, predicate: Callable[[Value], bool]) -> None:
        """Delete all values for which the predicate holds."""
        for key in [name for name, entry in self._entries.items() if predicate(entry.value)]:
            self._drop(key)

    def clear(self) -> None:
        """Delete everything."""
        self._entries.clear()
        self._held.clear()
        self._counts.clear()
        self._nbytes = 0

    def _next_to_go(self) -> str:
        # An owner whose only value is the one being stored has nothing to evict.
        most = max(self._held[owner] for owner in self._counts)
        return next(key for key, entry in self._entries.items() if self._held[entry.owner] == most)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._nbytes -= entry.nbytes
        self._held[entry.owner] -= entry.nbytes
        self._counts[entry.owner] -= 1
        if not self._counts[entry.owner]:
            del self._counts[entry.owner]
        if not self._held[entry.owner]:
            del self._held[entry.owner]


@dataclass(slots=True)
class _Flight(Generic[Value]):
    task: "asyncio.Task[Value]"
    waiters: int


class SingleFlight(Generic[Value]):
    """Runs concurrent requests for the same work once; all callers get its result or error.

    The work is cancelled only when all callers have gone.
    """

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[Value]] = {}

    async def do(self, key: str, work: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Join the work in progress for ``key``, or start it."""
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.ensure_future(work()), 0)
            self._flights[key] = flight
            flight.task.add_done_callback(lambda task: self._land(key, task))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._flights.pop(key, None)
                flight.task.cancel()

    def _land(self, key: str, task: "asyncio.Task[Value]") -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            # Mark the error as retrieved, in case the last caller has just left.
            task.exception()
