"""While a queue is full, images are refused again as a moment ago, without the app."""

import asyncio
import contextlib
import itertools
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from asking import GENERATE
from engines import FullStore, picture
from fake_model import FakeModel
from serving import KEY
from waiting import WAIT_S

from osamd.engine import Engine
from osamd.errors import OverloadedError
from osamd.events import Event, RequestDone
from osamd.library.catalog import load_catalog
from osamd.library.library import Library
from osamd.server.app import create_app
from osamd.server.guard import connections, limits, repeated_refusals
from osamd.server.guard.connections import PatientConnection
from osamd.server.guard.repeated_refusals import MOST_HEADER_BYTES, MOST_REMEMBERED, RepeatedRefusals
from osamd.settings import Settings, load_settings

ALICE, BOB = "alice-secret-Zk41", "bob-secret-9Lpd-c2"
LINE = f"POST {GENERATE} HTTP/1.1"
SIZE = 20_000
BODY = picture().ljust(SIZE, b"\0")
NEVER_S = 1e9
VARYING = re.compile(rb"(?m)^date: .*\r\n|[0-9a-f]{32}", re.IGNORECASE)


class FullEngine(Engine):
    """An engine whose queue of images has no room.

    Attributes:
        reason: why.
        is_full: whether it still has none.
    """

    reason = "the encode queue is full: 4 requests waiting"
    is_full = True

    def check_room(self, owner: str) -> None:
        """Refuse everybody."""
        del owner
        if self.is_full:
            raise OverloadedError(self.reason)


class Server:
    """A real server on a loop of the test's own.

    Attributes:
        engine: its engine.
        asked: how many requests the app has seen.
        events: the requests that were reported as done.
        connections: those that are open.
        port: where it listens.
    """

    def __init__(self, settings: Settings) -> None:
        self.asked = 0
        self.events: list[RequestDone] = []
        self.connections: set[Any] = set()
        library = Library(settings, catalog=load_catalog(), store=FullStore(Path("nowhere")), sinks=())
        self.engine = FullEngine(settings, library=library, load=lambda _: FakeModel())
        self._app = create_app(settings, self.engine, sinks=(self._note,))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def _note(self, event: Event) -> None:
        if isinstance(event, RequestDone):
            self.events.append(event)

    async def _count(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += scope["type"] == "http"
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        """Serve within the block."""
        server = uvicorn.Server(
            uvicorn.Config(
                self._count,
                interface="asgi3",
                http=PatientConnection,
                ws="none",
                log_config=None,
                proxy_headers=False,
            )
        )
        self.connections = server.server_state.connections
        task = asyncio.create_task(server.serve([self._socket]))
        try:
            yield self
        finally:
            server.should_exit = True
            await task

    async def connect(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection from an address."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))

    async def refuse(
        self, *headers: str, key: str = ALICE, line: str = LINE, body: bytes = BODY, address: str = "127.0.0.1"
    ) -> bytes:
        """The whole answer to an image on a connection of its own."""
        reader, writer = await self.connect(address)
        writer.write(head(*headers, key=key, line=line, size=len(body)) + body)
        answer = await reader.read()
        writer.close()
        return answer


def head(*headers: str, key: str = ALICE, line: str = LINE, size: int = SIZE) -> bytes:
    """The head of a request with an image."""
    lines = (line, "Host: a", f"X-API-Key: {key}", f"Content-Length: {size}", *headers)
    return "\r\n".join((*lines, "Connection: close", "", "")).encode()


def status(answer: bytes) -> int:
    """An answer's status."""
    return int(answer[9:12])


def unvaried(answer: bytes) -> bytes:
    """An answer without what differs each time."""
    return VARYING.sub(b"", answer)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Server], Awaitable[None]]], None]:
    """Runs a coroutine with a server that has read one image although its queue is full, and reads no more."""
    (tmp_path / "keys").write_text(f"alice user {ALICE}\nbob user {BOB}\n")
    monkeypatch.setattr(limits, "LOOK_EVERY_S", NEVER_S)
    monkeypatch.setattr(repeated_refusals, "REPEAT_S", NEVER_S)
    settings = load_settings(api_key=KEY, api_key_file=tmp_path / "keys", cache=tmp_path, doors=("roboflow",))

    async def whole(test: Callable[[Server], Awaitable[None]]) -> None:
        async with Server(settings).running() as server:
            assert status(await server.refuse(key=KEY)) == 200
            await test(server)

    return lambda test: asyncio.run(asyncio.wait_for(whole(test), WAIT_S))


def test_an_image_is_refused_again_as_the_app_did(run: Any) -> None:
    """But for the id of the request, which is also that of the event; the app is not asked."""

    async def test(server: Server) -> None:
        first = await server.refuse()
        asked = server.asked
        again = await server.refuse("Traceparent: another", "Fly-Request-Id: another")

        assert (503, asked) == (status(first), server.asked)
        assert unvaried(first) == unvaried(again)
        told, repeated = server.events[-2:]
        problem = json.loads(again.partition(b"\r\n\r\n")[2])
        assert problem["request_id"] == repeated.request_id != told.request_id
        assert f"x-request-id: {repeated.request_id}".encode() in again.lower()
        assert ("alice", "overloaded", 503, "another") == (
            *(repeated.key_name, repeated.code, repeated.status, repeated.traceparent),
        )
        assert repeated.begun >= told.begun

    run(test)


@pytest.mark.parametrize(
    "change",
    [
        {"key": BOB},
        {"key": "not a key, but long enough"},
        {"line": "POST /api/embed HTTP/1.1"},
        {"line": f"POST {GENERATE}&a=b HTTP/1.1"},
        {"line": f"POST {GENERATE} HTTP/1.0"},
        {"address": "127.0.0.2"},
        {"body": b'{"image_id": "a"}'},
        {"headers": ("X-Request-Id: mine",)},
        {"headers": ("Origin: http://b",)},
    ],
)
def test_another_request_is_the_apps(run: Any, change: dict[str, Any]) -> None:
    """Another key, path, version, header or client, a click, or an id that the answer would have to repeat."""

    async def test(server: Server) -> None:
        await server.refuse()
        asked = server.asked
        await server.refuse(*change.pop("headers", ()), **change)

        assert server.asked == asked + 1

    run(test)


def test_a_key_in_the_body_is_always_checked(run: Any) -> None:
    """Two requests with the same head may have different keys there."""

    async def test(server: Server) -> None:
        target = "/roboflow/sam/segment_image"
        right, wrong = (json.dumps({"api_key": key}).encode().ljust(SIZE) for key in (ALICE, "wrong-key-of-length"))
        lines = (f"POST {target} HTTP/1.1", "Host: a", f"Content-Length: {SIZE}", "Connection: close", "", "")
        found = []
        for body in (right, right, wrong):
            reader, writer = await server.connect()
            writer.write("\r\n".join(lines).encode() + body)
            found.append(status(await reader.read()))
            writer.close()

        assert [503, 503, 401] == found

    run(test)


def test_the_app_is_asked_again_when_the_queue_changes(run: Any) -> None:
    """There is room, or the reason is another, or the refusal is too old."""

    async def test(server: Server) -> None:
        await server.refuse()
        server.engine.reason = "the prepare queue is full"
        assert b"the prepare queue is full" in await server.refuse()
        server.engine.is_full = False
        assert status(await server.refuse()) == 200

    run(test)


def test_a_refusal_is_not_repeated_for_long(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and settings may have changed."""
    monkeypatch.setattr(repeated_refusals, "REPEAT_S", 0.0)

    async def test(server: Server) -> None:
        await server.refuse()
        asked = server.asked
        await server.refuse()

        assert server.asked == asked + 1

    run(test)


def test_the_answer_does_not_wait_for_the_body(run: Any) -> None:
    """The client may send the rest of it, and the connection is closed then; what follows is not answered."""

    async def test(server: Server) -> None:
        await server.refuse()
        asked = server.asked
        reader, writer = await server.connect()
        writer.write(head() + BODY[:100])
        answer = await reader.readuntil(b"}")
        writer.write(BODY[100:] + head() + BODY)
        rest = await reader.read()
        writer.close()

        assert (503, b"", asked) == (status(answer), rest, server.asked)

    run(test)


def test_a_refused_client_may_finish_sending_while_the_server_stops(run: Any) -> None:
    """It would lose the answer otherwise: unread bytes reset a connection that is closed."""

    async def test(server: Server) -> None:
        await server.refuse()
        while server.connections:
            await asyncio.sleep(0)
        reader, writer = await server.connect()
        writer.write(head() + BODY[:100])
        answer = await reader.readuntil(b"}")
        [connection] = server.connections
        connection.shutdown()
        is_closing = connection.transport.is_closing()
        writer.write(BODY[100:])
        rest = await reader.read()
        writer.close()

        assert (503, b"", False) == (status(answer), rest, is_closing)

    run(test)


def test_what_follows_a_refused_image_is_not_answered(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it logged as something that is not HTTP; the answer arrives although not all of it is read."""

    async def test(server: Server) -> None:
        kept = head().replace(b"Connection: close", b"Connection: keep-alive") + BODY
        for _ in range(2):
            reader, writer = await server.connect()
            writer.write(kept)
            await reader.read()
            writer.close()
        asked = server.asked
        reader, writer = await server.connect()
        writer.write(kept * 50)
        answer = await reader.readuntil(b"}")
        writer.close()

        assert (503, asked) == (status(answer), server.asked)

    run(test)

    assert not [record for record in caplog.records if record.name == "uvicorn.error" and record.levelname == "WARNING"]


def test_an_answer_that_others_change_is_not_repeated() -> None:
    """Middleware around the app may send it in pieces, or code the id."""
    event = RequestDone("POST", "/", 503, 0.1, "1234")
    refusals = RepeatedRefusals(least_bytes=0, most_bytes=1)
    for answer in (b"", b"x-request-id: 1234\r\n\r\ncoded"):
        refusals.remember(b"request", answer, event, lambda: True)

    assert refusals.find(b"request") is None


def test_a_body_that_never_comes_is_not_waited_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not longer than by the app."""
    monkeypatch.setattr(connections, "LINGER_S", 0.05)

    async def test(server: Server) -> None:
        await server.refuse()
        reader, writer = await server.connect()
        writer.write(head())
        answer = await reader.read()
        writer.close()

        assert status(answer) == 503

    run(test)


def test_a_kept_connection_is_refused_again_too(run: Any) -> None:
    """One that has been answered before."""

    async def test(server: Server) -> None:
        await server.refuse()
        reader, writer = await server.connect()
        writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        healthy = await reader.readuntil(b"}")
        asked = server.asked
        writer.write(head() + BODY)
        answer = await reader.read()
        writer.close()

        assert (200, 503, asked) == (status(healthy), status(answer), server.asked)

    run(test)


def test_a_pipelined_image_is_the_apps(run: Any) -> None:
    """Its answer must not overtake that of the request before."""

    async def test(server: Server) -> None:
        await server.refuse()
        asked = server.asked
        reader, writer = await server.connect()
        writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" + head() + BODY)
        answers = await reader.read()
        writer.close()

        assert server.asked == asked + 2
        assert [b"200", b"503"] == re.findall(rb"HTTP/1.1 (\d+)", answers)

    run(test)


def headers(**more: str) -> list[tuple[bytes, bytes]]:
    """Headers of an image."""
    named = {"host": "a", "x_api_key": ALICE, "content_length": str(SIZE)} | more
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]


@pytest.mark.parametrize(
    "more",
    [
        {"content_length": "8192"},
        {"content_length": "100001"},
        {"content_length": "1e5"},
        {"transfer_encoding": "chunked"},
        {"expect": "100-continue"},
        {"upgrade": "h2c"},
        {"cookie": "c" * MOST_HEADER_BYTES},
    ],
)
def test_what_is_never_repeated(more: dict[str, str]) -> None:
    """Clicks, bodies that are too large or of unknown size, long heads, and what is more than a request."""
    refusals = RepeatedRefusals(least_bytes=8192, most_bytes=100_000)

    assert refusals.request_of(("POST",), headers()) is not None
    assert refusals.request_of(("POST",), headers(**more)) is None


def test_what_identifies_a_request() -> None:
    """Everything but the body's length and the ids of proxies; no key can be read from it."""
    refusals = RepeatedRefusals(least_bytes=8192, most_bytes=100_000)
    plain = refusals.request_of((b"POST", b"/"), headers())
    same = [headers(content_length="30000"), headers(cf_ray="1"), headers(x_amzn_trace_id="1")]
    others = [headers(host="b"), headers(x_api_key=BOB), headers(accept="image/png"), headers()[::-1]]

    assert plain is not None
    assert ALICE.encode() not in plain
    assert {plain} == {refusals.request_of((b"POST", b"/"), some) for some in same}
    found = {refusals.request_of((b"POST", b"/"), some) for some in others}
    found |= {refusals.request_of((b"PUT", b"/"), headers()), refusals.request_of((b"POST", b"/a"), headers())}
    assert len(found | {plain}) == 7


def test_only_so_many_are_remembered() -> None:
    """The oldest are forgotten."""
    refusals = RepeatedRefusals(least_bytes=0, most_bytes=1)
    event = RequestDone("POST", "/", 503, 0.1, "id")
    numbers = [number.to_bytes(4, "big") for number in range(MOST_REMEMBERED + 1)]
    for number in itertools.chain(numbers[:2], numbers[:1], numbers[2:]):
        refusals.remember(number, b"id: answer id", event, lambda: True)

    assert refusals.find(numbers[1]) is None
    assert all(refusals.find(number) for number in numbers if number != numbers[1])
