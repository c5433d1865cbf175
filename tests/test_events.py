import logging
import threading

import pytest

from osamd.events import ConnectionCut, ModelLoaded, RequestDone, log_event, shown_path
from osamd.timings import STAGES, Timings


def test_stages_add_up_and_come_in_the_order_of_a_request() -> None:
    """A stage that runs twice is the sum of both; a stage that did not run is not there."""
    timings = Timings()
    timings.add("mask", 0.25)
    timings.add("receive", 1.0)
    timings.add("mask", 0.5)

    assert [("receive", 1.0), ("mask", 0.75)] == list(timings.seconds().items())


def test_the_header_is_server_timing_in_milliseconds() -> None:
    """A browser's developer tools read it (W3C Server Timing)."""
    timings = Timings()
    timings.add("encode", 0.123456)
    timings.add("queue", 0.0)

    *stages, total = timings.server_timing().split(", ")

    assert ["queue;dur=0.00", "encode;dur=123.46"] == stages
    assert "total" == total.partition(";dur=")[0]
    assert 0 < float(total.partition(";dur=")[2]) <= timings.total() * 1e3
    assert "" == Timings().server_timing()


def test_a_block_is_timed_when_it_fails_too() -> None:
    """The time until an error is time spent."""
    timings = Timings()

    with pytest.raises(ValueError, match="in the block"), timings.stage("decode"):
        raise ValueError("in the block")

    assert ["decode"] == list(timings.seconds())
    assert timings.seconds()["decode"] >= 0


def test_many_threads_may_add() -> None:
    """No second is lost between worker threads."""
    timings = Timings()

    def add() -> None:
        for _ in range(2000):
            timings.add("decode", 1.0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8000.0 == timings.seconds()["decode"]


def test_stages_are_those_of_the_wire() -> None:
    """The names are part of the API."""
    expected = ("receive", "parse", "queue", "decode_image", "encode", "decode", "mask", "reply")

    assert expected == STAGES


def test_a_request_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Method, path, status, time and request id."""
    caplog.set_level(logging.DEBUG, "osamd")

    log_event(RequestDone("POST", "/api/generate", 200, 0.0512, "id-7"))
    log_event(ModelLoaded("sam2:tiny", "cpu", 1.5))

    assert ["POST /api/generate 200 51 ms id-7", "loaded sam2:tiny on cpu in 1500 ms"] == caplog.messages


def test_a_request_names_who_asked_and_what_was_refused(caplog: pytest.LogCaptureFixture) -> None:
    """The key's name, the address and the code, where there are any; nothing of them can begin a new line."""
    caplog.set_level(logging.INFO, "osamd")

    log_event(RequestDone("GET", "/", 403, 0.001, "id", code="admin_only", key_name="alice", client="::1\n"))

    assert ["GET / 403 1 ms id key=alice from=::1\\n code=admin_only"] == caplog.messages


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_do_not_fill_the_log(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """They come every few seconds: only the debug level shows them."""
    caplog.set_level(logging.INFO, "osamd")

    log_event(RequestDone("GET", path, 200, 0.001, "id"))

    assert [] == caplog.messages


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/generate", "/api/generate"),
        ("/x\n2026-11-23 INFO forged", "/x\\n2026-11-23 INFO forged"),
        ("/\x1b[31m", "/\\x1b[31m"),
        ("/caf\u00e9", "/caf\\xe9"),
        ("/" + "a" * 500, "/" + "a" * 199 + "..."),
    ],
    ids=["plain", "line break", "escape", "accent", "endless"],
)
def test_a_path_cannot_write_log_lines(path: str, shown: str) -> None:
    """Whoever calls chooses the path: it stays on one line, printable and short."""
    assert shown == shown_path(path)


def test_bare_connection_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Closed connections are only logged at debug level, because anyone can cause many."""
    caplog.set_level(logging.INFO, "osamd")
    log_event(ConnectionCut("head_timeout", "203.0.113.9"))
    quiet = list(caplog.messages)
    caplog.set_level(logging.DEBUG, "osamd")
    log_event(ConnectionCut("head_timeout", "203.0.113.9"))

    assert [] == quiet
    assert ["closed a connection from=203.0.113.9 code=head_timeout"] == caplog.messages
