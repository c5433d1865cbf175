"""An answer is written before its event is told: telling it takes time."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from osamd.events import Event, RequestDone
from osamd.server.telemetry.observe import ObserveMiddleware


def observe(send: Callable[[Any], None]) -> tuple[list[str], list[RequestDone]]:
    """Answer a request in two pieces; returns what happened after its answer, and the events.

    Args:
        send: called with each message when the event loop gets its turn, as uvloop's transport writes.
    """
    seen: list[str] = []
    events: list[RequestDone] = []

    def told(event: Event) -> None:
        assert isinstance(event, RequestDone)
        seen.append("told")
        events.append(event)

    async def app(_: Any, __: Any, answer: Any) -> None:
        await answer({"type": "http.response.start", "status": 200, "headers": []})
        await answer({"type": "http.response.body", "body": b"1", "more_body": True})
        await answer({"type": "http.response.body", "body": b"2"})
        seen.append("limits released")

    async def receive() -> Any:
        raise AssertionError("nothing is received here")

    async def write(message: Any) -> None:
        def now() -> None:
            seen.append(message.get("body", b"head").decode())
            send(message)

        asyncio.get_running_loop().call_soon(now)

    scope: Any = {"type": "http", "method": "GET", "path": "/health", "headers": []}
    asyncio.run(ObserveMiddleware(app, sinks=(told,))(scope, receive, write))
    return seen, events


def test_an_answer_is_written_before_its_line() -> None:
    """And what it held is free before others, such as a pipelined request, have their turn."""
    seen, _ = observe(lambda _: None)

    assert ["limits released", "head", "1", "2", "told"] == seen


def test_the_turn_of_others_is_not_part_of_a_request() -> None:
    """How long it took ends with its answer, whatever the event loop does before it is logged."""
    turns: list[float] = []

    def others(_: Any) -> None:
        turns.append(time.perf_counter())
        time.sleep(0.2)

    begun = time.perf_counter()
    _, (event,) = observe(others)

    assert event.seconds <= turns[0] - begun
