"""Connections that are held: without a key only so many of an address, idle ones until their room is needed."""

import contextlib
import http.client
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from connections import answer_on, connect, everything_on
from serving import KEY, RunningServer, run_server
from waiting import WAIT_S

KEYLESS = 5
MOST = 12
BUNDLE = "swagger-ui-bundle.js"


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with room for few connections, which waits long."""
    env = {
        "API_KEY": KEY,
        "OSAMD_PRELOAD": "none",
        "OSAMD_KEYLESS_CONNECTIONS": str(KEYLESS),
        "OSAMD_MAX_CONNECTIONS": str(MOST),
        "OSAMD_HEAD_S": "300",
        "OSAMD_WRONG_KEYS_PER_MINUTE": "1000",
        "OSAMD_SEND_IDLE_S": "300",
    }
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env, wait_for="/health") as running:
        yield running


def asked(running: RunningServer, path: str, *headers: str) -> socket.socket:
    """A connection on which a request was sent."""
    connection = connect(running)
    connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode())
    return connection


def closed_of(connections: list[socket.socket], count: int) -> list[socket.socket]:
    """The connections on which the server has something to say or which it closed, once there are so many."""
    until = time.monotonic() + WAIT_S
    readable: list[socket.socket] = []
    while len(readable) < count:
        readable, _, _ = select.select(connections, [], [], 0.05)
        assert time.monotonic() < until, len(readable)
    return readable


def test_connections_without_a_key_are_few(held: RunningServer) -> None:
    """What is over the limit is told so and closed; those with a key stay and are served."""
    with contextlib.ExitStack() as stack:
        keyed = [stack.enter_context(asked(held, "/nothing", f"X-API-Key: {KEY}")) for _ in range(3)]
        assert all(answer_on(connection).startswith(b"HTTP/1.1 404 ") for connection in keyed)
        keyless = [stack.enter_context(connect(held)) for _ in range(KEYLESS + 3)]
        refused = closed_of([*keyed, *keyless], 3)
        told = [everything_on(connection) for connection in refused]
        rest = [connection for connection in keyless if connection not in refused]
        for connection in [*keyed, *rest]:
            connection.sendall(f"GET /nothing HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        served = [answer_on(connection) for connection in [*keyed, *rest]]

    assert 3 == len(refused)
    assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in told)
    assert KEYLESS == len(rest)
    assert all(answer.startswith(b"HTTP/1.1 404 ") for answer in served)


def read_answer(connection: socket.socket) -> int:
    """The status of the next answer, which is read to its end."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/docs", (), 200), ("/health", (f"X-API-Key: {KEY}",), 200), ("/nothing", ("X-API-Key: wrong",), 403)],
)
def test_connections_without_a_valid_key_count_as_keyless(
    held: RunningServer, path: str, headers: tuple[str, ...], status: int
) -> None:
    """Connections that only got public answers or sent wrong keys count as connections without a key."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(asked(held, path, *headers)) for _ in range(KEYLESS + 2)]
        assert {status} == {read_answer(connection) for connection in opened}
        refused = closed_of(opened, 2)

    assert 2 == len(refused)


def test_a_wrong_key_undoes_a_right_one(held: RunningServer) -> None:
    """Else one key would hold all connections for a guesser."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(asked(held, "/nothing", f"X-API-Key: {KEY}")) for _ in range(KEYLESS)]
        assert {404} == {read_answer(connection) for connection in opened}
        for connection in opened:
            connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: a\r\nX-API-Key: wrong\r\n\r\n")
        assert {403} == {read_answer(connection) for connection in opened}
        refused = closed_of([*opened, stack.enter_context(connect(held))], 1)

    assert 1 == len(refused)


def test_slow_readers_of_the_docs_hold_no_open_files(held: RunningServer) -> None:
    """A client that requests the largest file and does not read it holds only a connection."""
    with contextlib.ExitStack() as stack:
        for _ in range(KEYLESS):
            connection = stack.enter_context(asked(held, f"/docs/{BUNDLE}"))
            assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
        opened = []
        for entry in Path(f"/proc/{held.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                opened.append(str(entry.readlink()))

    assert any(name.startswith("socket:") for name in opened)
    assert not any(BUNDLE in name for name in opened)


def test_idle_connections_make_room(held: RunningServer) -> None:
    """At the limit of all connections the one that is idle longest is closed for a new one."""
    with contextlib.ExitStack() as stack:
        idle = []
        for _ in range(MOST):
            connection = stack.enter_context(asked(held, "/nothing", f"X-API-Key: {KEY}"))
            assert answer_on(connection).startswith(b"HTTP/1.1 404 ")
            idle.append(connection)
        new = stack.enter_context(asked(held, "/nothing", f"X-API-Key: {KEY}"))
        answer = answer_on(new)
        (closed,) = closed_of(idle, 1)

        assert answer.startswith(b"HTTP/1.1 404 ")
        assert closed is idle[0]
        assert b"" == everything_on(closed)


def test_an_idle_connection_is_closed_after_its_time(tmp_path: Path) -> None:
    """Without a word, as clients and proxies expect; a new request begins the time anew."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none", "OSAMD_IDLE_S": "1"}
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running, connect(running) as connection:
        for _ in range(2):
            connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer_on(connection).startswith(b"HTTP/1.1 403 ")
        begun = time.monotonic()
        rest = everything_on(connection)
        waited_s = time.monotonic() - begun

    assert b"" == rest
    assert waited_s > 0.9
