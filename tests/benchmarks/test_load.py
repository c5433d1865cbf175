import http.server
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from benchmarks.connection import Connection, click_body, stages
from benchmarks.load import dealt
from benchmarks.photos import click, photo
from benchmarks.workbench import turned


class Answers(http.server.BaseHTTPRequestHandler):
    """Tells stages, and counts connections."""

    protocol_version = "HTTP/1.1"
    connections: ClassVar[list[object]] = []

    def setup(self) -> None:
        """Once a connection."""
        self.connections.append(self.client_address)
        super().setup()

    def do_GET(self) -> None:
        """Any path is fine but one."""
        self.send_response(503 if self.path == "/full" else 200)
        self.send_header("Server-Timing", "decode;dur=50.25, reply;dur=1, total;dur=52")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """A server's."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    Answers.connections.clear()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_connection_is_kept_and_tells_the_servers_own_time(url: str) -> None:
    """Two requests, one connection; stages in seconds."""
    with Connection(url) as connection:
        connection.get("/health")
        reply = connection.get("/health")

    assert (b"{}", {"decode": 0.05025, "reply": 0.001}) == (reply.body, reply.stages_s)
    assert 0.052 == pytest.approx(reply.server_s)
    assert 0.00075 == pytest.approx(reply.untold_s)
    assert 1 == len(Answers.connections)


def test_an_answer_that_is_no_success_ends_the_measurement(url: str) -> None:
    """An overloaded server must not look like a fast one."""
    with Connection(url) as connection, pytest.raises(RuntimeError, match="GET /full answered 503"):
        connection.get("/full")


def test_missing_header_has_no_stages() -> None:
    """The peer sends none."""
    assert {} == stages("")


def test_every_number_is_a_photo_of_its_own_and_the_same_one_again() -> None:
    """Servers that remember images must not know a new one; another run must send the same."""
    photo.cache_clear()
    first, second = photo(1, width=64, height=40), photo(2, width=64, height=40)
    photo.cache_clear()

    assert first != second
    assert first == photo(1, width=64, height=40)


def test_clicks_differ_and_stay_inside() -> None:
    """A click on the border would find little."""
    clicks = {click(number, width=100, height=50) for number in range(20)}

    assert 20 == len(clicks)
    assert all(20 <= x <= 80 and 10 <= y <= 40 for x, y in clicks)


def test_a_click_is_written_as_osams_clients_do() -> None:
    """Both servers get the same bytes."""
    expected = b'{"model": "sam:100m", "prompt": {"points": [[3, 4]], "point_labels": [1]}, "image": "aGk="}'

    assert expected == click_body("sam:100m", (3, 4), image="aGk=")


def test_work_is_dealt_to_clients_and_every_side_is_first_once() -> None:
    """Nobody is always measured right after the same other one."""
    assert [[b"a", b"c"], [b"b"]] == [list(hand) for hand in dealt([b"a", b"b", b"c"], 2)]
    assert ["abc", "bca", "cab", "abc"] == ["".join(turned("abc", number)) for number in range(4)]
