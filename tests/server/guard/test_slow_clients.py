"""Clients that trickle, that never ask, and that never read: none of them holds the server for ever."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from connections import answer_on, connect, everything_on, open_request, sent_all
from serving import KEY, RunningServer, run_server
from waiting import WAIT_S

ROOT = Path(__file__).resolve().parents[3]
IMPATIENT = {
    "API_KEY": KEY,
    "OSAMD_PRELOAD": "none",
    "OSAMD_HEAD_S": "0.6",
    "OSAMD_RECEIVE_S": "1.5",
    "OSAMD_RECEIVE_IDLE_S": "0.6",
    "OSAMD_SEND_IDLE_S": "0.6",
}
UVICORN = (
    *(sys.executable, "-m", "uvicorn", "main:app", "--port", "{port}", "--app-dir", str(ROOT)),
    *("--http", "osamd.server.guard.connections:PatientConnection"),
)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that waits for nobody."""
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=IMPATIENT, wait_for="/health") as running:
        yield running


def test_uvicorns_own_command_takes_the_connection_too(tmp_path: Path) -> None:
    """With one option more, ``uvicorn main:app`` has the operator's patience, not its own."""
    with run_server(cache=tmp_path, env=IMPATIENT, wait_for="/health", command=UVICORN) as running:
        with connect(running) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            head = everything_on(connection)
        with open_request(running, "Content-Length: 5000") as connection:
            connection.sendall(b"x" * 100)
            body = answer_on(connection)

    assert head.startswith(b"HTTP/1.1 408 ")
    assert body.startswith(b"HTTP/1.1 408 ")


def trickle(connection: socket.socket, data: bytes, pause_s: float = 0.2) -> threading.Thread:
    """Send a byte at a time until all is sent or nobody takes it."""
    stop = threading.Event()

    def send() -> None:
        for byte in data:
            with contextlib.suppress(OSError):
                connection.send(bytes([byte]))
            if stop.wait(pause_s):
                return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_a_connection_without_a_request_is_closed(impatient: RunningServer) -> None:
    """Whoever connects and says nothing is let go without a word."""
    with connect(impatient) as connection:
        assert b"" == everything_on(connection)


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "], ids=["a byte", "half a head"])
def test_a_head_that_stops_is_answered_408(impatient: RunningServer, sent: bytes) -> None:
    """What has begun and does not go on is told so."""
    with connect(impatient) as connection:
        connection.sendall(sent)
        answer = everything_on(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_head_that_trickles_is_cut_off(impatient: RunningServer) -> None:
    """Every byte is early enough, all together are not."""
    with connect(impatient) as connection:
        trickle(connection, b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 200)
        answer = everything_on(connection)

    assert b"HTTP/1.1 200" not in answer


def test_the_second_head_on_a_connection_is_waited_for_no_longer(impatient: RunningServer) -> None:
    """A connection that was good once has no more patience than a new one; a lone line's end counts as nothing."""
    for begun in (b"GET /", b"\r\n"):
        with connect(impatient) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"ok" in answer_on(connection)
            connection.sendall(begun)
            assert b"HTTP/1.1 200" not in everything_on(connection)


def test_a_body_that_stops_is_answered_408(impatient: RunningServer) -> None:
    """A pause that is too long ends the request, in the shape of every error."""
    with open_request(impatient, "Content-Length: 5000") as connection:
        connection.sendall(b"x" * 100)
        answer = everything_on(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "body_timeout"' in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("header", ["Content-Length: 500", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_is_answered_408(impatient: RunningServer, header: str) -> None:
    """No pause is too long, but the whole is."""
    with open_request(impatient, header) as connection:
        trickle(connection, b"1\r\nx\r\n" * 80)
        answer = answer_on(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_refused_body_is_not_read_for_ever(impatient: RunningServer) -> None:
    """A client that was refused by its head may finish what it sends, but not take its time."""
    with open_request(impatient, "Content-Length: 5000", key="wrong") as connection:
        trickle(connection, b"x" * 100)
        answer = everything_on(connection)

    assert answer.startswith(b"HTTP/1.1 403 ")


ESTABLISHED = "01"


def is_held(running: RunningServer, connection: socket.socket) -> bool:
    """Whether the server's end of a connection is open, as the kernel tells."""
    port, own = int(running.url.rpartition(":")[2]), connection.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if (local[-4:], remote[-4:]) == (f"{port:04X}", f"{own:04X}"):
            return state == ESTABLISHED
    return False


def test_a_client_that_does_not_read_is_cut_off(impatient: RunningServer) -> None:
    """Its answer is not kept for ever, and its place is given back."""
    path = "/docs/swagger-ui-bundle.js"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = impatient.url.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        # More than the buffers of both ends hold.
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: unread\r\n\r\n".encode() * 20)
        until = time.monotonic() + WAIT_S
        while is_held(impatient, connection):
            assert time.monotonic() < until
            time.sleep(0.05)
    with impatient.client() as client:
        whole = client.get(path)

    assert "200" in impatient.log_line(f"GET {path}", "unread")
    assert 200 == whole.status_code


def test_what_is_cut_off_is_counted(impatient: RunningServer) -> None:
    """The metrics have a number for each reason, also where no request was ever made."""
    with connect(impatient) as connection:
        connection.sendall(b"GET / HT")
        everything_on(connection)
    with connect(impatient) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert everything_on(connection).startswith(b"HTTP/1.1 400 ")
    with impatient.client() as client:
        counted = client.get("/metrics").text

    for code in ("head_timeout", "not_http"):
        assert f'osamd_refusals_total{{code="{code}"}}' in counted


def test_honest_clients_are_served_meanwhile(impatient: RunningServer) -> None:
    """A hundred connections that trickle leave the server free for others."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(connect(impatient))
            sent_all(connection, b"GET / HTTP/1.1\r\nX-Slow: ")
        with impatient.client() as client:
            assert 200 == client.get("/").status_code


def test_connections_are_counted(tmp_path: Path) -> None:
    """One more than allowed is told to come back, and is let in when another has gone."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none", "OSAMD_MAX_CONNECTIONS": "3"}
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(running)) for _ in range(3)]
        while not (answer := refused_connection(running)):
            pass
        held[0].close()
        with running.client() as client:
            retried = 503
            while retried == 503:
                retried = client.get("/").status_code

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After" in answer
    assert 200 == retried


def refused_connection(running: RunningServer) -> bytes:
    """What a new connection is told without asking; nothing when it was let in."""
    with connect(running) as connection:
        connection.settimeout(1)
        with contextlib.suppress(TimeoutError):
            return everything_on(connection)
        return b""
