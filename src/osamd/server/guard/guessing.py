"""Brute-force protection: wrong keys are counted per address, and throttled addresses get their answers late.

Imports nothing else of osamd, like ``auth``.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("osamd")

MINUTE_S: Final = 60.0
# Limit on remembered addresses, and on keys proven there; the least recently seen are forgotten first.
MOST_ADDRESSES: Final = 10_000
MOST_PROVEN: Final = 10_000
# How long a valid key stays proven at an address after its last use there.
PROVEN_S: Final = 3600.0
# How long an unproven key from a throttled address waits before it is checked. Concurrent waits per address are limited
# by its connections without a key, 128 by default, which allows 64 guesses per second, and by this limit where
# connections are not counted. A lower limit would let an attacker take all places and lock out a valid key that is new
# at this address.
DELAY_S: Final = 2.0
MOST_DELAYED: Final = 256


class Guesses:
    """Counts wrong keys and remembers valid ones, per address. Belongs to one event loop.

    An address with more than ``per_minute`` wrong keys in a minute is throttled until that minute ends. Keys from there
    wait ``DELAY_S`` before they are checked, valid or not, so that guessing is slow and timing reveals nothing. A key
    that was valid at this address before does not wait: its owner, who may share the address with the attacker, is not
    slowed down.

    Args:
        per_minute: wrong keys per address and minute that are answered without delay.
        clock: seconds; replaced in tests.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._minutes: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._proven: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._delayed: Counter[str] = Counter()

    def add_wrong(self, address: str, *, is_forwarded: bool = False) -> float | None:
        """Count a wrong key; logs when the address becomes throttled.

        Args:
            address: the client's address.
            is_forwarded: whether an untrusted proxy forwarded it, so that many clients share the address.

        Returns:
            Seconds until the address is no longer throttled; None if it is not.
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
            hint = (
                "; it forwards other clients: if it is your proxy, list it in OSAMD_TRUSTED_PROXIES"
                if is_forwarded
                else ""
            )
            logger.warning("too many wrong keys from %s: throttling new keys from this address%s", address, hint)
        return begun + MINUTE_S - now if count >= self._per_minute else None

    def add_right(self, address: str, digest: bytes) -> None:
        """Remember, by its digest, that a key was valid at an address."""
        self._proven[address, digest] = self._clock()
        self._proven.move_to_end((address, digest))
        if len(self._proven) > MOST_PROVEN:
            self._proven.popitem(last=False)

    def is_slowed(self, address: str, digest: bytes | None) -> bool:
        """Whether a key from this address has to wait before it is checked."""
        begun, count = self._minutes.get(address, (0.0, 0))
        now = self._clock()
        if count < self._per_minute or now - begun >= MINUTE_S:
            return False
        return digest is None or now - self._proven.get((address, digest), -PROVEN_S) >= PROVEN_S

    async def wait(self, address: str) -> bool:
        """Wait as a key from a throttled address must; returns False immediately if too many are waiting."""
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
