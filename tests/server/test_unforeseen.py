"""What nobody foresaw is logged, and costs only what it is part of."""

import asyncio
import inspect
import logging
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send
from waiting import WAIT_S

from osamd.errors import OsamdError
from osamd.events import Event, RequestDone
from osamd.server.app import create_app
from osamd.server.telemetry.metrics import Metrics
from osamd.server.telemetry.observe import ObserveMiddleware
from osamd.settings import load_settings


def test_a_start_that_fails_in_an_unforeseen_way_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that does not load keeps no metrics from starting, and neither is silent about it."""

    def fail(_: Metrics) -> None:
        raise RuntimeError("odd metrics")

    monkeypatch.setattr(Metrics, "load", fail)
    monkeypatch.setattr("osamd.server.app.METRICS_LATER_S", 0)
    app = create_app(load_settings(cache=tmp_path, preload=()))

    async def main() -> None:
        async def preload() -> None:
            raise RuntimeError("odd model")

        monkeypatch.setattr(app.state.services.answers, "preload", preload)
        async with app.router.lifespan_context(app), asyncio.timeout(WAIT_S):
            while len(caplog.records) < 2:
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.ERROR, logger="osamd"):
        asyncio.run(main())
    assert ["odd model", "odd metrics"] == [str(record.exc_info[1]) for record in caplog.records if record.exc_info]


def test_a_sink_that_fails_changes_no_answer() -> None:
    """The request is answered, nothing is raised, and the next sink is told."""
    heard: list[Event] = []
    sent: list[Message] = []

    def fail(_: Event) -> None:
        raise RuntimeError("a full pipe")

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("fine")(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    asyncio.run(ObserveMiddleware(answer, sinks=(fail, heard.append))(scope, receive, send))
    assert [200] == [message["status"] for message in sent if "status" in message]
    assert [RequestDone] == [type(event) for event in heard]


def test_errors_are_answered_on_the_event_loop(tmp_path: Path) -> None:
    """On threads, refusals would cost more than they have to when a server is overloaded."""
    handlers = create_app(load_settings(cache=tmp_path, preload=())).exception_handlers

    assert {OsamdError, Exception} <= set(handlers)
    assert all(inspect.iscoroutinefunction(handler) for handler in handlers.values())
