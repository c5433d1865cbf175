"""``async with client_watched(request)``: cancels work when the client disconnects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from osamd.errors import ClientGoneError


@asynccontextmanager
async def client_watched(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client disconnects. Enter it once the body has been read.

    Raises:
        ClientGoneError: the client has disconnected.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a request is answered in a task")
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if is_gone and task.uncancel() == 0:
            raise ClientGoneError("the client disconnected before its answer was ready") from None
        raise
    finally:
        watcher.cancel()
