"""Heads without an end, which want no key: bounded in bytes, wherever those stand."""

from collections.abc import Iterable, Iterator
from itertools import repeat

import pytest
from connections import connect, everything_on, open_request, sent_all
from serving import KEY, RunningServer, run_server
from waiting import WAIT_S

PIECE = b"a" * 16 * 1024
# Far more than is allowed; a server without a limit waits for the rest.
PIECES = 64
GREETING = b"GET /health HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that waits long, so that only a limit of bytes ends a connection."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none", "OSAMD_HEAD_S": "300", "OSAMD_RECEIVE_IDLE_S": "300"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env, wait_for="/health") as running:
        yield running


def answer_to(running: RunningServer, pieces: Iterable[bytes]) -> bytes:
    """What a client reads that sends until nobody takes it."""
    with connect(running) as connection:
        connection.settimeout(WAIT_S)
        for piece in pieces:
            if not sent_all(connection, piece):
                break
        return everything_on(connection)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET / HTTP/1.1\r\nX-Long: ", *[PIECE] * PIECES],
        [b"GET / HTTP/1.1\r\n", *[PIECE] * PIECES],
        [b"GET /", *[PIECE] * PIECES],
        [b"GET / HTTP/1.1\r\n", *[b"X-Many: a\r\n" * 1000] * PIECES],
        [b"GET / HTTP/1.1\r\n", *[b"a:\r\n" * 4000] * PIECES],
    ],
    ids=["a header's value", "a header's name", "a URL", "headers", "empty headers"],
)
def test_a_head_without_an_end_is_answered_431(reading: RunningServer, pieces: list[bytes]) -> None:
    """Whatever has no end, the connection has one, and the client is told why."""
    assert answer_to(reading, pieces).startswith(b"HTTP/1.1 431 ")


def test_a_whole_head_over_the_limit_reaches_no_route(reading: RunningServer) -> None:
    """One that comes in a piece is refused as well; one that is nearly as large is not."""
    fitting = GREETING + b"X-Long: " + b"a" * 60_000 + b"\r\nConnection: close\r\n\r\n"
    over = GREETING + b"X-Long: " + b"a" * 66_000 + b"\r\nConnection: close\r\n\r\n"

    assert answer_to(reading, [fitting]).startswith(b"HTTP/1.1 200 ")
    assert answer_to(reading, [over]).startswith(b"HTTP/1.1 431 ")


def test_trailers_count_too(reading: RunningServer) -> None:
    """What comes behind a chunked body is no way around the limit."""
    with open_request(reading, "Transfer-Encoding: chunked") as connection:
        connection.settimeout(WAIT_S)
        connection.sendall(b"1\r\nx\r\n0\r\n")
        for piece in repeat(b"X-Many: a\r\n" * 1000, PIECES):
            if not sent_all(connection, piece):
                break
        answer = everything_on(connection)

    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_body_is_no_head(reading: RunningServer) -> None:
    """Bodies are larger than heads may be, and in chunks of a byte they have more framing than bytes."""
    with open_request(reading, "Transfer-Encoding: chunked", "Connection: close") as connection:
        connection.sendall(b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        chunked = everything_on(connection)
    with open_request(reading, "Content-Length: 1000000", "Connection: close") as connection:
        connection.sendall(b"x" * 1_000_000)
        whole = everything_on(connection)

    assert chunked.startswith(b"HTTP/1.1 422 ")
    assert whole.startswith(b"HTTP/1.1 422 ")


def test_pipelined_requests_are_limited(reading: RunningServer) -> None:
    """Many tiny requests sent at once are not all queued; twenty are answered."""
    one = GREETING + b"\r\n"
    last = GREETING + b"Connection: close\r\n\r\n"

    assert 21 == answer_to(reading, [one * 20 + last]).count(b"HTTP/1.1 200 ")
    assert 64 >= answer_to(reading, [one * 5000 + last]).count(b"HTTP/1.1 200 ")


def test_a_connection_is_never_used_up(reading: RunningServer) -> None:
    """Heads that were answered count for nothing, however many there were."""
    with connect(reading) as connection:
        for _ in range(5):
            connection.sendall(GREETING + b"X-Long: " + b"a" * 40_000 + b"\r\n\r\n")
            answer = connection.recv(65536)
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_refused_heads_are_counted(reading: RunningServer) -> None:
    """The operator sees them among the refusals."""
    answer_to(reading, [b"GET /" + b"a" * 70_000])
    with reading.client() as client:
        counted = client.get("/metrics").text

    assert 'osamd_refusals_total{code="head_too_large"}' in counted
