"""``async with deadline(seconds)``: ``asyncio.timeout`` that raises ``DeadlineExceededError``."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from osamd.errors import DeadlineExceededError


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Cancel the block when it takes longer.

    Raises:
        DeadlineExceededError: it took longer.
    """
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineExceededError(f"not finished within {seconds:g} s") from None
