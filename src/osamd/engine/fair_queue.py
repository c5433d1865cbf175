"""A fair queue: the owner who has received the least service goes next. Knows no threads and no locks."""

from collections import Counter, deque
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

# Minimum cost of an item, so that owners of many tiny items still alternate.
LEAST_COST_S: Final = 0.001


class FairQueue(Generic[Item]):
    """Items wait in one line per owner; the owner with the fewest running items goes next, then the least served.

    Service is counted in seconds (start-time fair queuing, Goyal et al. 1996): a new or returning owner starts at the
    current virtual time and cannot save up turns. Each line is first come, first served. Owners are names of keys, so
    there are few, and their service is never forgotten.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[Item]] = {}
        self._running: Counter[str] = Counter()
        # The sum of the above: every job asks for it several times.
        self._running_in_all = 0
        self._served_s: dict[str, float] = {}
        # Virtual time: the service that the owner of the last item taken had received.
        self._present_s = 0.0

    def __len__(self) -> int:
        """How many items wait."""
        return sum(len(line) for line in self._lines.values())

    @property
    def running(self) -> int:
        """How many items were taken and have not finished."""
        return self._running_in_all

    @property
    def owners_running(self) -> int:
        """How many owners have something running."""
        return len(self._running)

    def running_of(self, owner: str) -> int:
        """How many of this owner's items are running."""
        return self._running[owner]

    def held_by(self, owner: str) -> int:
        """How many of this owner's items wait or run."""
        return len(self._lines.get(owner, ())) + self._running[owner]

    def lines(self) -> dict[str, tuple[Item, ...]]:
        """The waiting items by owner, oldest first."""
        return {owner: tuple(line) for owner, line in self._lines.items()}

    def add(self, item: Item, owner: str) -> None:
        """Put an item at the end of its owner's line."""
        if not self.held_by(owner):
            self._served_s[owner] = max(self._served_s.get(owner, 0.0), self._present_s)
        self._lines.setdefault(owner, deque()).append(item)

    def next_owner(self) -> str | None:
        """The owner whose item ``take`` would return; None if nothing is waiting."""
        return min(self._lines, key=lambda owner: (self._running[owner], self._served_s[owner]), default=None)

    def take(self) -> Item:
        """Remove the next item; it runs until ``done``.

        Raises:
            IndexError: the queue is empty.
        """
        owner = self.next_owner()
        if owner is None:
            raise IndexError("the queue is empty")
        item = self._lines[owner].popleft()
        self._drop_if_empty(owner)
        self._running[owner] += 1
        self._running_in_all += 1
        self._present_s = max(self._present_s, self._served_s[owner])
        return item

    def done(self, owner: str, seconds: float) -> None:
        """Mark one of an owner's items as finished after ``seconds``."""
        self._served_s[owner] += max(seconds, LEAST_COST_S)
        self._running[owner] -= 1
        self._running_in_all -= 1
        if not self._running[owner]:
            del self._running[owner]

    def remove(self, item: Item, owner: str) -> bool:
        """Remove a waiting item; False if it is not waiting."""
        line = self._lines.get(owner)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._drop_if_empty(owner)
        return True

    def _drop_if_empty(self, owner: str) -> None:
        if not self._lines[owner]:
            del self._lines[owner]
