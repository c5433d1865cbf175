"""``Patience``: a number of seconds that several waits share."""

import time


class Patience:
    """Runs from its making.

    Args:
        seconds: how long all waits together may take; None lets them take as long as they need.
    """

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds

    def left(self, *, most: float | None = None) -> float | None:
        """Seconds that are left, never below 0, as timeouts are given; None for no end.

        Args:
            most: the longest answer; None does not shorten it.
        """
        if self._until is None:
            return most
        left = max(0.0, self._until - time.monotonic())
        return left if most is None else min(most, left)
