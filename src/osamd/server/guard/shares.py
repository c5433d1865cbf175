"""``Shares``: something countable of which no key may have so much that nothing is left for another."""

from typing import Final

# A key that has some may go on to have at most so many times what is then left: alone it has three quarters.
FACTOR: Final = 3


class Shares:
    """How much each owner has of a whole that cannot be taken back (dynamic thresholds, Choudhury and Hahne 1998).

    Args:
        whole: places or bytes, of all owners together.
    """

    def __init__(self, whole: int) -> None:
        self.whole = whole
        self.total = 0
        self._held: dict[str, int] = {}

    def held_by(self, owner: str) -> int:
        """How much this owner has."""
        return self._held.get(owner, 0)

    def has_room(self, owner: str, more: int) -> bool:
        """Whether this owner may have so much more; who has nothing may have all that is left."""
        left = self.whole - self.total - more
        held = self.held_by(owner)
        return left >= 0 and (not held or held + more <= FACTOR * left)

    def add(self, owner: str, more: int) -> None:
        """Give an owner so much more, or less where it is negative."""
        self.total += more
        held = self.held_by(owner) + more
        if held:
            self._held[owner] = held
        else:
            self._held.pop(owner, None)
