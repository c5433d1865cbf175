"""The limits of a search for everything: masks, seconds and memory."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from osamd.engine.inference import LOGITS_BYTES, MOST_CANDIDATES
from osamd.errors import OverloadedError
from osamd.pixels.everything import Everything, Proposal, Stopped
from osamd.types import Embedding

# Clicks of one job. Other jobs wait for one click at most, since each is a step; more only saves overhead.
CLICKS_PER_JOB: Final = 8
# A job ends early when the boxes of its new masks have more pixels together, one byte each.
JOB_MASK_PIXELS: Final = 32_000_000


class Limits:
    """The limits of a search: masks, seconds and memory."""

    def __init__(
        self, asked: Everything, embedding: Embedding, reserve: Callable[[int], Awaitable[int]], *, are_kept: bool
    ) -> None:
        pixels = embedding.height * embedding.width
        self.until = time.monotonic() + asked.max_seconds
        self._masks = asked.max_masks
        self._canvases = asked.max_masks if asked.max_canvas_pixels is None else asked.max_canvas_pixels // pixels
        self._reserve = reserve
        self._are_kept = are_kept
        # A job ends with the mask with which it exceeds its pixels. The built-in model has more candidates, since some
        # are refined, but their logits take a sixth of ``LOGITS_BYTES``.
        self._job_bytes = JOB_MASK_PIXELS + pixels + MOST_CANDIDATES * CLICKS_PER_JOB * LOGITS_BYTES
        self._nbytes: dict[int, int] = {}

    @property
    def room(self) -> int:
        """How many more masks there may be."""
        return min(self._masks, max(1, self._canvases)) - len(self._nbytes)

    def count(self, found: Iterable[Proposal], dropped: Iterable[int]) -> None:
        """Account for new masks, and for those they replaced."""
        for number in dropped:
            self._nbytes.pop(number, None)
        for item in found:
            self._nbytes[item.number] = LOGITS_BYTES + (0 if item.mask is None else item.mask.inside.size)

    async def reached(self) -> Stopped | None:
        """The limit that ends the search now, or None if its next job may run."""
        if self.room <= 0:
            return "max_masks" if self._masks <= self._canvases else "mask_limit"
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            return "max_seconds"
        needed = self._job_bytes + (sum(self._nbytes.values()) if self._are_kept else 0)
        if not self._nbytes:
            # Nothing to answer with yet, so the request is refused if there is no memory for it.
            await self._reserve(min(needed, self._job_bytes))
            return None
        try:
            # Not for longer: two searches that hold memory might wait for each other.
            async with asyncio.timeout(left_s):
                return None if await self._reserve(needed) >= needed else "mask_limit"
        except (OverloadedError, TimeoutError):
            return "mask_limit"
