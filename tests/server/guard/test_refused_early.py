"""Images that would have to wait in a full queue are refused before they are read."""

import asyncio
import time
from typing import Any

import pytest

from osamd.errors import OverloadedError
from osamd.server.guard import limits
from osamd.server.guard.key_channels import SEARCHED_STATE
from osamd.server.guard.limits import AdmissionMiddleware
from osamd.server.guard.memory_budget import MemoryBudget
from osamd.settings import load_settings

LARGE, SMALL = 100_000, 500
NEVER_S = 1e9


class App:
    """An app that reads its requests' bodies, behind a queue of images.

    Attributes:
        is_full: whether the queue has room for nobody but Bob.
        read: how many bodies it has read.
    """

    def __init__(self) -> None:
        self.is_full = True
        self.read = 0
        self.state: dict[str, Any] = {}
        memory = MemoryBudget(1 << 20, wait_s=1.0)
        self._guard = AdmissionMiddleware(
            self._serve, settings=load_settings(), memory=memory, check_room=self._check_room
        )

    def ask(self, size: int = LARGE, key: str = "alice") -> int:
        """The status of the answer to a body."""
        return asyncio.run(self._ask(size, key))

    async def _ask(self, size: int, key: str) -> int:
        answers: list[Any] = []
        headers = [(b"content-length", str(size).encode())]
        self.state = {"key_name": key} | ({SEARCHED_STATE: True} if key == "searched" else {})
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "state": self.state}

        async def receive() -> dict[str, Any]:
            self.read += 1
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        async def send(message: Any) -> None:
            answers.append(message)

        await self._guard(scope, receive, send)
        status: int = answers[0]["status"]
        return status

    async def _serve(self, _: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _check_room(self, name: str) -> None:
        if self.is_full and name != "bob":
            raise OverloadedError("the queue is full")


def test_images_are_refused_unread_while_the_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks are read, and images of a key that would get a place; once there is room, all are."""
    monkeypatch.setattr(limits, "LOOK_EVERY_S", NEVER_S)
    app = App()
    app.ask()
    app.read = 0

    assert [503, 503] == [app.ask(), app.ask()]
    assert 0 == app.read
    assert [200, 200] == [app.ask(SMALL), app.ask(key="bob")]
    app.is_full = False
    assert 200 == app.ask()


def test_a_refusal_is_due_until_an_image_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or until there is room; and not if the key has too many requests, which is another refusal."""
    monkeypatch.setattr(limits, "LOOK_EVERY_S", 100.0)
    app = App()
    app.ask()
    app.ask()
    is_still_due = app.state[limits.STILL_DUE_STATE]

    assert is_still_due()
    app.is_full = False
    assert not is_still_due()
    app.is_full = True
    later = time.monotonic() + 200
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not is_still_due()


def test_a_refusal_that_depends_on_the_body_is_not_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a tool's key may be there."""
    monkeypatch.setattr(limits, "LOOK_EVERY_S", NEVER_S)
    app = App()
    app.ask()

    assert app.ask(key="searched") == 503
    assert limits.STILL_DUE_STATE not in app.state
    app.ask()
    assert limits.STILL_DUE_STATE in app.state


def test_now_and_then_an_image_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be known already, so that it need not wait."""
    app = App()

    assert 200 == app.ask()
    monkeypatch.setattr(limits, "LOOK_EVERY_S", NEVER_S)
    while app.ask() == 503:
        pass
    assert [503, 503] == [app.ask(), app.ask()]
