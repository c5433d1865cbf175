"""An answer is written before its event is told: telling it takes time."""

import asyncio
from typing import Any

from osamd.events import Event, RequestDone
from osamd.server.telemetry.observe import ObserveMiddleware


def test_an_answer_is_written_before_its_line() -> None:
    """By a transport that writes when the event loop gets its turn, as uvloop's does."""
    seen: list[str] = []

    def told(event: Event) -> None:
        assert isinstance(event, RequestDone)
        seen.append("told")

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await send({"type": "http.response.body", "body": b"2"})

    async def receive() -> Any:
        raise AssertionError("nothing is received here")

    async def send(message: Any) -> None:
        asyncio.get_running_loop().call_soon(seen.append, message.get("body", b"head").decode())

    scope: Any = {"type": "http", "method": "GET", "path": "/health", "headers": []}
    asyncio.run(ObserveMiddleware(app, sinks=(told,))(scope, receive, send))
    assert ["head", "1", "2", "told"] == seen
