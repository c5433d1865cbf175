"""``Patience``: a time limit shared by several waits."""

import time


class Patience:
    """A time limit that starts when it is created.

    Args:
        seconds: limit of all waits together; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds

    def left(self, *, most: float | None = None) -> float | None:
        """Remaining seconds, at least 0, for use as a timeout; None for no limit.

        Args:
            most: upper bound of the result; None for no bound.
        """
        if self._until is None:
            return most
        left = max(0.0, self._until - time.monotonic())
        return left if most is None else min(most, left)
