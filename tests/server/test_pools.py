import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from waiting import WAIT_S

from osamd.server.pools import REPLY_WORKERS, Pools
from osamd.settings import load_settings
from osamd.timings import Timings


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

    def wait() -> Generator[None, None, bool]:
        yield
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
    """Writing ends at the next step when its client has gone."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    written: list[int] = []

    def write() -> Generator[None, None, None]:
        try:
            for number in range(3):
                written.append(number)
                begun.set()
                go_on.wait(WAIT_S)
                yield
        finally:
            ended.set()

    async def main(pools: Pools) -> None:
        task = asyncio.create_task(pools.write(write, Timings(), owner="me"))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go_on.set()
        assert await asyncio.to_thread(ended.wait, WAIT_S)
        assert [0] == written

    run(main)
