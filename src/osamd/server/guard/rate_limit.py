"""Per-key rate limit (token bucket)."""

import time
from collections.abc import Callable
from typing import Final

from osamd.errors import RateLimitedError

MINUTE_S: Final = 60.0


class RateLimit:
    """One token bucket per name, which holds a minute's worth and refills evenly. Belongs to one event loop.

    Args:
        what: what is counted, for messages.
        per_minute: the bucket's size, and how many tokens it gains in a minute.
        clock: seconds that never run backwards.
    """

    def __init__(self, what: str, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._per_minute = per_minute
        self._clock = clock
        # By name: tokens left, and when. These are names of keys, so there are few.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Use one token.

        Raises:
            RateLimitedError: none is left; has the time until the next one.
        """
        now = self._clock()
        left, since = self._left.get(name, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - since) * self._per_minute / MINUTE_S)
        if left < 1.0:
            wait_s = (1.0 - left) * MINUTE_S / self._per_minute
            raise RateLimitedError(
                f"limit of {self._per_minute:,} {self._what} per minute per key reached", retry_after_s=wait_s
            )
        self._left[name] = (left - 1.0, now)

    def give_back(self, name: str) -> None:
        """Return a token that was not needed."""
        left, since = self._left.get(name, (float(self._per_minute), self._clock()))
        self._left[name] = (min(float(self._per_minute), left + 1.0), since)
