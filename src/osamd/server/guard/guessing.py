"""Wrong keys: counted by address, and where there were too many, answers to unproven keys come late.

Imports nothing else of osamd, since the guard must not.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("osamd")

MINUTE_S: Final = 60.0
# Addresses, and keys proven at them, that are remembered; the least recently seen are forgotten first.
MOST_ADDRESSES: Final = 10_000
MOST_PROVEN: Final = 10_000
# How long a key that was right stays proven at the address it came from, since its last use.
PROVEN_S: Final = 3600.0
# What an unproven key waits at a throttled address before it is compared. How many of one address wait at once is
# bounded by its connections without a key, 128 by default, so it has 64 guesses a second; and by this where nobody
# counts those. Fewer would let a guesser take all places, and lock out a right key that is new at this address.
DELAY_S: Final = 2.0
MOST_DELAYED: Final = 256


class Guesses:
    """What is known of the keys that addresses have sent. Belongs to one event loop.

    An address with more than ``per_minute`` wrong keys in a minute is throttled until that minute ends. Keys from there
    wait ``DELAY_S`` before they are compared, right and wrong ones alike, so that guessing is slow and an answer's time
    tells nothing. A key that was right at this address before does not wait: its owner, who may share the address with
    the guesser, is not slowed down.

    Args:
        per_minute: wrong keys of an address that are answered at once.
        clock: seconds; replaced in tests.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._minutes: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._proven: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._delayed: Counter[str] = Counter()

    def add_wrong(self, address: str, *, is_forwarded: bool = False) -> float | None:
        """Count a wrong key; the log says so when the address becomes throttled.

        Args:
            address: where it came from.
            is_forwarded: whether a proxy that is not trusted passed it on, so that the address is many clients'.

        Returns:
            Seconds until the address is no longer throttled; None when it is not.
        """
        now = self._clock()
        begun, count = self._minutes.get(address, (now, 0))
        if now - begun >= MINUTE_S:
            begun, count = now, 0
            self._minutes.pop(address, None)
        self._minutes[address] = (begun, count + 1)
        if len(self._minutes) > MOST_ADDRESSES:
            self._minutes.popitem(last=False)
        if count == self._per_minute:
            hint = "; it forwards for others: list it in OSAMD_TRUSTED_PROXIES if it is a proxy" if is_forwarded else ""
            logger.warning("too many wrong keys from %s: new keys from there are answered late%s", address, hint)
        return begun + MINUTE_S - now if count >= self._per_minute else None

    def add_right(self, address: str, digest: bytes) -> None:
        """Remember that a key was right at an address, by its digest."""
        self._proven[address, digest] = self._clock()
        self._proven.move_to_end((address, digest))
        if len(self._proven) > MOST_PROVEN:
            self._proven.popitem(last=False)

    def is_slowed(self, address: str, digest: bytes | None) -> bool:
        """Whether a key from this address has to wait before it is compared."""
        begun, count = self._minutes.get(address, (0.0, 0))
        now = self._clock()
        if count < self._per_minute or now - begun >= MINUTE_S:
            return False
        return digest is None or now - self._proven.get((address, digest), -PROVEN_S) >= PROVEN_S

    async def wait(self, address: str) -> bool:
        """Wait for what a key from a throttled address has to; False, at once, where too many wait already."""
        if self._delayed[address] >= MOST_DELAYED:
            return False
        self._delayed[address] += 1
        try:
            await asyncio.sleep(DELAY_S)
        finally:
            self._delayed[address] -= 1
            if not self._delayed[address]:
                del self._delayed[address]
        return True
