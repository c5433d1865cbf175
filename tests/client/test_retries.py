"""When the client tries again, and when it does not."""

import asyncio
import contextlib
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import httpx2
import pytest
from puppet import GOOD, Told, problem, puppet

from osamd import errors
from osamd.client import AsyncClient, Client
from osamd.client.retries import FIRST_PAUSE_S, Attempts
from osamd.errors import (
    AccessError,
    DeadlineExceededError,
    EmbeddingExpiredError,
    InvalidRequestError,
    ModelUnavailableError,
    OsamdError,
    RateLimitedError,
    UnreachableError,
    WrongKeysError,
)

HTML = {"Content-Type": "text/html"}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the clients would have waited, in seconds; they do not."""
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    # Their own modules, so that the server of the test waits as ever.
    monkeypatch.setattr("osamd.client.clients.time", SimpleNamespace(**vars(time) | {"sleep": waited.append}))
    monkeypatch.setattr("osamd.client.clients.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": pause}))
    return waited


@pytest.mark.parametrize(
    "first",
    [
        problem("overloaded", 503, Retry_After="0"),
        problem("shutting_down", 503),
        problem("rate_limited", 429, Retry_After="0"),
        Told(429, "slow down", {"Retry-After": "0"}),
        Told(500, "<html>no instance is available</html>", HTML),
        Told(502, "<html>bad gateway</html>", HTML),
        Told(503, "the machine is starting", {"Content-Type": "text/plain"}),
        Told(504, "<html>gateway timeout</html>", HTML),
        Told(500, "Internal Server Error", {"Content-Type": "text/plain"}),
        Told(500, {"kind": "Status", "status": "Failure", "code": 500, "message": "no endpoints"}),
        Told(503, {"code": "ServiceUnavailable", "message": "upstream is gone"}),
        Told(500, {"detail": "Internal Server Error"}),
    ],
    ids=[
        *("overloaded", "draining", "rate limit", "proxy's 429"),
        *(f"proxy's {code}" for code in (500, 502, 503, 504)),
        *("dead edge", "Kubernetes", "gateway's JSON", "framework's JSON"),
    ],
)
def test_cold_start_is_retried(pauses: list[float], first: Told) -> None:
    """What a waking or busy server answers is tried again until it works, by both clients, with pauses between."""

    async def segment(url: str) -> int:
        async with AsyncClient(url) as client:
            return (await client.segment(b"x")).width

    with puppet(first, first, Told(200, GOOD)) as server, Client(server.url) as client:
        assert client.segment(b"x").width == 4
        assert len(server.asked) == 3
    with puppet(first, Told(200, GOOD)) as server:
        assert asyncio.run(segment(server.url)) == 4
        assert len(server.asked) == 2
    # Of the one client, which waited longer the second time, and of the other.
    first_pause, second, other = pauses
    assert (FIRST_PAUSE_S <= first_pause <= second, other) == (True, first_pause)


def test_a_long_wait_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Such as that of a batch run for a server that restarts; a short one is not."""
    clock = SimpleNamespace(monotonic=iter((0.0, 1.0, 9.0, 12.0, 30.0)).__next__)
    monkeypatch.setattr("osamd.client.retries.time", clock)
    attempts = Attempts("http://osamd.example", None, 600.0)
    for _ in range(4):
        assert isinstance(attempts.settle(httpx2.ConnectError("connection refused")), float)
    assert ["cannot reach http://osamd.example: connection refused; trying again for up to 588 s"] == caplog.messages


def test_refused_connections_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not up yet is tried until it is."""
    with contextlib.ExitStack() as stack:
        # Bound, and so nobody else's, but not listening.
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        pauses: list[float] = []

        def start_server(pause_s: float) -> None:
            pauses.append(pause_s)
            stack.enter_context(puppet(Told(200, GOOD), port=port))

        monkeypatch.setattr("osamd.client.clients.time.sleep", start_server)
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.segment(b"x").width == 4
    assert [FIRST_PAUSE_S] == pauses


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem("access_denied", 403), AccessError),
        (problem("rate_limited", 429, Retry_After="600"), RateLimitedError),
        (problem("too_many_wrong_keys", 429, Retry_After="1"), WrongKeysError),
        (problem("inference_failed", 500), errors.InferenceError),
        (Told(429, "slow down"), UnreachableError),
        (problem("model_unavailable", 503, Retry_After="60"), ModelUnavailableError),
        (problem("disk_full", 503), errors.InsufficientStorageError),
        (problem("storage_failed", 503), errors.StorageError),
        (problem("blob_digest_mismatch", 503), errors.BlobDigestError),
        (problem("deadline_exceeded", 504), DeadlineExceededError),
        (Told(413, "<html>Payload too large</html>"), errors.BodyTooLargeError),
        (problem("not_configured", 500), errors.ServerConfigurationError),
        (Told(404, "<html>no such app</html>"), UnreachableError),
        (Told(200, "<html>a login page</html>"), UnreachableError),
        (Told(200, [1]), UnreachableError),
        (Told(200, {"hello": "world"}), UnreachableError),
        (Told(200, GOOD | {"annotations": [{"bounding_box": None}]}), UnreachableError),
    ],
)
def test_permanent_failures_are_raised_at_once(answer: Told, kind: type[OsamdError]) -> None:
    """Other errors are not retried."""
    with puppet(answer) as server, Client(server.url) as client:
        with pytest.raises(kind) as caught:
            client.segment(b"x")
        assert len(server.asked) == 1

    assert type(caught.value) is kind
    if "Retry-After" in answer.headers:
        assert caught.value.retry_after_s == float(answer.headers["Retry-After"])


def test_rate_limit_is_waited_for_as_long_as_it_says(pauses: list[float]) -> None:
    """``Retry-After`` of a 429 is neither shortened nor outwaited: one request before it, one after it."""
    answers = problem("rate_limited", 429, Retry_After="7"), Told(200, GOOD)
    with puppet(*answers) as server, Client(server.url) as client:
        assert client.segment(b"x").width == 4
        assert len(server.asked) == 2
    assert [7.0] == pauses


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("value", ["Wed, 21 Oct 2015 07:28:00 GMT", "0", "soon", "-1", ""])
def test_retry_after_may_be_a_date_or_nonsense(value: str) -> None:
    """A date in the past means now; what cannot be read is as good as no header."""
    answers = problem("overloaded", 503, Retry_After=value), Told(200, GOOD)
    with puppet(*answers) as server, Client(server.url) as client:
        assert client.segment(b"x").width == 4


def test_retry_after_in_the_future_is_in_the_error() -> None:
    """A date becomes seconds from now."""
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    with (
        puppet(problem("rate_limited", 429, Retry_After=later)) as server,
        Client(server.url) as client,
        pytest.raises(RateLimitedError) as caught,
    ):
        client.segment(b"x")
    assert 3500 < (caught.value.retry_after_s or 0) <= 3600


@pytest.mark.parametrize(
    "url",
    ["", "  ", "localhost", "localhost:11368", "127.0.0.1:11368", "ftp://localhost", "http://", "http:/localhost",
     "//localhost", "file:///tmp/x", "http://local host", "http://localhost:port", "http://localhost:99999", "http://[::1"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_invalid_url_is_refused_at_once(kind: type[Client] | type[AsyncClient], url: str) -> None:
    """Before anything is sent, with an example of what is expected."""
    with pytest.raises(InvalidRequestError, match=r"expected a URL such as http://127\.0\.0\.1:11368"):
        kind(url)


def test_password_in_the_url_is_sent_and_not_shown() -> None:
    """Neither in the repr nor in an error."""
    with puppet(Told(200, GOOD)) as server:
        url = server.url.replace("http://", "http://user:secret@")
        with Client(url) as client:
            client.segment(b"x")
        assert server.asked[0]["Authorization"].startswith("Basic ")
    with Client(url, patience_s=0) as client, pytest.raises(UnreachableError) as caught:
        client.segment(b"x")
    assert "secret" not in repr(client) + str(caught.value)


def test_a_deletion_whose_answer_was_lost_has_succeeded() -> None:
    """The second attempt finds nothing to delete; without a first one that may have got through, that is an error."""
    gone = httpx2.Response(410, json={"code": "embedding_expired", "title": "embedding_expired", "detail": "gone"})
    attempts = Attempts("http://osamd.example", None, 600.0)
    assert isinstance(attempts.settle(httpx2.ReadError("reset"), deletes=True), float)
    assert attempts.settle(gone, deletes=True) is gone
    with pytest.raises(EmbeddingExpiredError):
        attempts.settle(gone)
    attempts = Attempts("http://osamd.example", None, 600.0)
    assert isinstance(attempts.settle(httpx2.ConnectError("refused"), deletes=True), float)
    with pytest.raises(EmbeddingExpiredError):
        attempts.settle(gone, deletes=True)
