"""``Shares``: divides a limited resource so that no key can use all of it."""

from typing import Final

# A key that already has a share may hold at most this many times what then remains free: a single key, three quarters.
FACTOR: Final = 3


class Shares:
    """How much of a non-preemptible resource each owner holds (dynamic thresholds, Choudhury and Hahne 1998).

    Args:
        whole: places or bytes, for all owners together.
    """

    def __init__(self, whole: int) -> None:
        self.whole = whole
        self.total = 0
        self._held: dict[str, int] = {}

    def held_by(self, owner: str) -> int:
        """How much this owner holds."""
        return self._held.get(owner, 0)

    def has_room(self, owner: str, more: int) -> bool:
        """Whether this owner may get ``more``; an owner without any may get all that remains."""
        left = self.whole - self.total - more
        held = self.held_by(owner)
        return left >= 0 and (not held or held + more <= FACTOR * left)

    def add(self, owner: str, more: int) -> None:
        """Add to an owner's share, or subtract if negative."""
        self.total += more
        held = self.held_by(owner) + more
        if held:
            self._held[owner] = held
        else:
            self._held.pop(owner, None)
