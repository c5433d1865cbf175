import asyncio

import pytest

from osamd.errors import DeadlineExceededError
from osamd.server.deadline import deadline


def test_a_block_that_takes_too_long_gets_504() -> None:
    """It is cancelled, and the error says how long it had."""

    async def main() -> None:
        with pytest.raises(DeadlineExceededError, match=r"not finished within 0\.01 s") as caught:
            async with deadline(0.01):
                await asyncio.Event().wait()
        assert 504 == caught.value.status

    asyncio.run(main())


def test_a_timeout_of_the_block_itself_is_not_the_deadline() -> None:
    """What the block raises is passed on."""

    async def main() -> None:
        with pytest.raises(TimeoutError, match="mine"):
            async with deadline(60):
                raise TimeoutError("mine")

    asyncio.run(main())
