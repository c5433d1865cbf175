import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from osamd.server.pools import REPLY_WORKERS, Pools
from osamd.settings import load_settings
from osamd.timings import Timings

WAIT_S = 20.0


def run(main: Callable[[Pools], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine with pools that are closed at the end."""

    async def whole() -> None:
        pools = Pools(load_settings(), emit=lambda _: None)
        try:
            await asyncio.wait_for(main(pools), WAIT_S)
        finally:
            assert await pools.close()

    asyncio.run(whole())


def test_bodies_are_parsed_while_replies_are_written() -> None:
    """While more large replies are written than there are threads for, a body is parsed."""
    go_on = threading.Event()

    def wait(_: threading.Event) -> bool:
        return go_on.wait(WAIT_S)

    async def main(pools: Pools) -> None:
        writing = [asyncio.create_task(pools.write(wait, Timings(), owner="me")) for _ in range(4 * REPLY_WORKERS)]
        try:
            assert "parsed" == await pools.parse(lambda: "parsed", Timings(), owner="me")
        finally:
            go_on.set()
        assert all(await asyncio.gather(*writing))

    run(main)


def test_a_reply_nobody_waits_for_is_not_written_to_its_end() -> None:
    """Whoever writes it is told when its client has gone."""
    begun, told = threading.Event(), threading.Event()

    def write(abandoned: threading.Event) -> None:
        begun.set()
        if abandoned.wait(WAIT_S):
            told.set()

    async def main(pools: Pools) -> None:
        task = asyncio.create_task(pools.write(write, Timings(), owner="me"))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        task.cancel()
        assert await asyncio.to_thread(told.wait, WAIT_S / 2)

    run(main)
