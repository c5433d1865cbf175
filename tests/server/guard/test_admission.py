"""How much one key, and all together, may have at once; and what becomes of work nobody waits for."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from asking import GENERATE, click, refusal
from connections import answer_on, connect, everything_on, open_request
from engines import picture
from serving import KEY, RunningServer, gated_command, run_server, wait_until_reached
from waiting import WAIT_S

ALICE, BOB = "alice-secret-Zk41", "bob-secret-9Lpd-c2"
LARGE = 100_000


@contextlib.contextmanager
def limited(folder: Path, gate: Path | None = None, **settings: float) -> Iterator[RunningServer]:
    """A server with two users' keys and these limits, whose encodes wait for the gate."""
    (folder / "keys").write_text(f"alice user {ALICE}\nbob user {BOB}\n")
    env = {"API_KEY": KEY, "API_KEY_FILE": str(folder / "keys")}
    env |= {f"OSAMD_{name.upper()}": str(value) for name, value in settings.items()}
    # Without a gate nothing waits.
    gate = gate or folder
    with run_server(cache=folder, env=env, command=gated_command("encode", gate)) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server where two requests of a key and three images are enough."""
    folder = tmp_path_factory.mktemp("narrow")
    with limited(folder, concurrent_requests=2, uploads=3, upload_bytes=3 * LARGE, max_body_bytes=150_000) as running:
        yield running


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server where a key has ten requests and two encodes a minute."""
    with limited(tmp_path_factory.mktemp("metered"), requests_per_minute=10, encodes_per_minute=2) as running:
        yield running


def image(number: int) -> bytes:
    """A picture that is large enough to be told apart from a click by its head; each number is another."""
    return picture(number).ljust(LARGE, b"\0")


class Sender:
    """A request under way in a thread; its encode waits for the gate."""

    def __init__(self, running: RunningServer, data: bytes) -> None:
        self._running, self._data = running, data
        self._answer: httpx2.Response | None = None
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        # What is answered later was seen later.
        with running.client(headers={}) as client:
            assert [200] * 5 == [client.get("/health").status_code for _ in range(5)]
        self._thread.join(0.2)
        assert self._thread.is_alive()

    def _send(self) -> None:
        with self._running.client() as client:
            self._answer = client.post(GENERATE, content=self._data)

    def status(self) -> int:
        """The status of the answer, waited for."""
        self._thread.join(WAIT_S)
        assert self._answer is not None
        return self._answer.status_code


def encode(running: RunningServer, gate: Path, data: bytes) -> Sender:
    """A request whose image is being encoded, and not only decoded so that another could come first."""
    sender = Sender(running, data)
    wait_until_reached(gate)
    return sender


def wait_until_queued(running: RunningServer) -> None:
    """Return when an image waits for the encoder."""
    until = time.monotonic() + WAIT_S
    with running.client() as client:
        while 'osamd_lane_waiting{lane="encode"} 1.0' not in client.get("/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.01)


@contextlib.contextmanager
def half_sent(running: RunningServer, *keys: str) -> Iterator[list[socket.socket]]:
    """Requests whose heads the server has seen, and whose bodies it waits for."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(open_request(running, f"Content-Length: {LARGE}", key=key)) for key in keys]
        with running.client(headers={}) as client:
            assert [200] * 5 == [client.get("/health").status_code for _ in range(5)]
        yield connections


def post(running: RunningServer, key: str, data: bytes) -> httpx2.Response:
    """What an image is answered."""
    with running.client(headers={"X-API-Key": key}) as client:
        return client.post(GENERATE, content=data)


def status(running: RunningServer, key: str, **body: object) -> int:
    """What a JSON request is answered."""
    with running.client(headers={"X-API-Key": key}) as client:
        return client.post(GENERATE, json=body).status_code


def test_concurrent_requests_are_limited_per_key(narrow: RunningServer) -> None:
    """One more gets 429 and Retry-After, while another key is served; once one is done, the next is admitted."""
    with half_sent(narrow, ALICE, ALICE) as (first, _):
        refused = post(narrow, ALICE, picture(1))
        others = post(narrow, BOB, picture(1)).status_code
        first.sendall(image(2))
        answer = answer_on(first)
        after = post(narrow, ALICE, picture(1)).status_code
    problem = refusal(refused)

    assert (429, "rate_limited") == (problem["status"], problem["code"])
    assert "2 concurrent requests" in problem["detail"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert (200, 200) == (others, after)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_pipelined_request_is_not_refused_for_the_one_before(narrow: RunningServer) -> None:
    """Each is admitted once the one before it has been answered."""
    message = f"GET /api/tags HTTP/1.1\r\nHost: a\r\nX-API-Key: {ALICE}\r\n\r\n"
    last = message.replace("Host", "Connection: close\r\nHost")
    with half_sent(narrow, ALICE), connect(narrow) as connection:
        connection.sendall((message * 3 + last).encode())
        answers = everything_on(connection)

    assert [b"200"] * 4 == re.findall(rb"HTTP/1.1 (\d+) ", answers)


def test_concurrent_uploads_are_limited(narrow: RunningServer) -> None:
    """One more is refused on its head, whichever key sends it; clicks on cached images still pass."""
    with narrow.client() as client:
        known = client.post("/api/embed", content=image(0)).json()["image_id"]
    with half_sent(narrow, ALICE, ALICE, BOB) as (first, *_):
        refused = refusal(post(narrow, KEY, image(3)))
        with open_request(narrow, "Content-Length: 9000") as connection:
            unsent = answer_on(connection)
        clicked = status(narrow, KEY, image_id=known, prompt=click([5, 5]))
        first.sendall(image(1))
        answer = answer_on(first)
        after = post(narrow, KEY, image(3)).status_code

    assert (503, "overloaded") == (refused["status"], refused["code"])
    assert unsent.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in unsent.lower()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (200, 200) == (clicked, after)


def test_bodies_share_a_budget_of_bytes(narrow: RunningServer) -> None:
    """What others have declared is not there for the next; a body of undeclared length counts as the largest."""
    with half_sent(narrow, ALICE, BOB) as (first, _):
        with open_request(narrow, "Content-Length: 120000") as second:
            over = answer_on(second)
        with open_request(narrow, "Transfer-Encoding: chunked") as third:
            undeclared = answer_on(third)
        with open_request(narrow, "Content-Length: 90000") as fourth:
            fourth.sendall(picture(2).ljust(90_000, b"\0"))
            fits = answer_on(fourth)
        first.sendall(bytes(LARGE))
        assert answer_on(first).startswith(b"HTTP/1.1 422 ")
    with open_request(narrow, "Content-Length: 120000") as fifth:
        fifth.sendall(picture(3).ljust(120_000, b"\0"))
        after = answer_on(fifth)

    for answer in (over, undeclared):
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"limit of 300,000 bytes of concurrent uploads reached" in answer
    assert fits.startswith(b"HTTP/1.1 200 ")
    assert after.startswith(b"HTTP/1.1 200 ")


def test_one_key_leaves_places_for_another(tmp_path: Path) -> None:
    """It may have three of four: the next is refused, while another key's image is encoded."""
    with limited(tmp_path, uploads=4) as running, half_sent(running, ALICE, ALICE, ALICE):
        refused = refusal(post(running, ALICE, image(1)))
        others = post(running, BOB, image(2)).status_code

    assert (503, "overloaded") == (refused["status"], refused["code"])
    assert "this key holds 3 of them" in refused["detail"]
    assert 200 == others


def test_requests_a_minute_are_counted_by_key(metered: RunningServer) -> None:
    """The eleventh of ten gets 429 and when the next is allowed; another key, and public paths, are not counted."""
    with metered.client(headers={"X-API-Key": BOB}) as client:
        answers = [client.get("/api/version") for _ in range(10)]
        # On a slow machine some have grown back meanwhile.
        later = (client.get("/api/version") for _ in range(1000))
        refused = next(answer for answer in later if answer.status_code != 200)
        probe = client.get("/health").status_code
    with metered.client() as client:
        others = client.get("/api/version").status_code

    assert [200] * 10 == [answer.status_code for answer in answers]
    assert (429, "rate_limited") == (refused.status_code, refusal(refused)["code"])
    assert "10 requests per minute" in refusal(refused)["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 6
    assert (200, 200) == (probe, others)
    assert metered.log_line("code=rate_limited", "key=bob")


def test_encodes_a_minute_are_counted_by_key(metered: RunningServer) -> None:
    """Clicks on known images, and the same image again, cost no encode, so they pass when new images do not."""
    with metered.client(headers={"X-API-Key": ALICE}) as client:
        new = [client.post("/api/embed", content=picture(number)) for number in range(2)]
        # On a slow machine one has grown back meanwhile.
        later = (client.post("/api/embed", content=picture(number)) for number in range(2, 100))
        refused = next(answer for answer in later if answer.status_code != 200)
        again = client.post(GENERATE, content=picture(1))
        by_handle = client.post(GENERATE, json={"image_id": new[0].json()["image_id"]})
    with metered.client() as client:
        others = client.post("/api/embed", content=picture(2)).status_code

    assert [200, 200] == [answer.status_code for answer in new]
    assert (429, "rate_limited") == (refused.status_code, refusal(refused)["code"])
    assert "2 images to encode per minute" in refusal(refused)["detail"]
    assert [200, 200, 200] == [again.status_code, by_handle.status_code, others]


def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    """With one image being encoded and one waiting the queue is full; when the one that waits leaves, the next may."""
    gate = tmp_path / "gate"
    with limited(tmp_path, gate, encode_queue=1) as running:
        encoding = encode(running, gate, image(0))
        with half_sent(running, ALICE) as (waiting,):
            waiting.sendall(image(1))
            # Bob's image may not come before hers.
            wait_until_queued(running)
            refused = post(running, BOB, image(2))
        line = running.log_line("POST /api/generate 499")
        next_one = Sender(running, image(3))
        gate.touch()
        answered = [encoding.status(), next_one.status()]

    assert "the encode queue is full" in refusal(refused)["detail"]
    assert "key=alice from=127.0.0.1 code=client_gone" in line
    assert [200, 200] == answered


def test_waiting_too_long_for_a_turn_is_refused(tmp_path: Path) -> None:
    """What waits longer than the operator allows gets 503, while what runs is answered."""
    gate = tmp_path / "gate"
    with limited(tmp_path, gate, queue_wait_s=0.5) as running:
        encoding = encode(running, gate, image(0))
        problem = refusal(post(running, KEY, image(1)))
        gate.touch()
        answered = encoding.status()

    assert (503, "overloaded") == (problem["status"], problem["code"])
    assert "waiting 0.5 s in the encode queue" in problem["detail"]
    assert 200 == answered


def test_the_deadline_counts_from_the_head(tmp_path: Path) -> None:
    """The body's time is the request's time: one that is still coming in at the deadline gets 504."""
    with limited(tmp_path, deadline_s=0.5) as running, open_request(running, "Content-Length: 50000") as connection:
        connection.sendall(bytes(1000))
        answer = answer_on(connection)

    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b'"code": "deadline_exceeded"' in answer


@pytest.mark.parametrize("key", ["wrong", ALICE], ids=["wrong key", "declared too large"])
def test_a_client_that_sends_on_reads_why_it_was_refused(narrow: RunningServer, key: str) -> None:
    """Most clients write a whole body before they read: the connection is not reset under them."""
    data = bytes(4_000_000)
    with open_request(narrow, f"Content-Length: {len(data)}", key=key) as connection:
        connection.sendall(data)
        answer = everything_on(connection)

    assert answer.startswith(b"HTTP/1.1 403 " if key == "wrong" else b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b'"code"' in answer


def test_refusals_leave_nothing_behind(narrow: RunningServer) -> None:
    """After refusals of every kind, and clients that left, the limits are where they were."""
    for _ in range(3):
        assert 422 == status(narrow, ALICE, image="rubbish" + "A" * LARGE)
        assert 413 == post(narrow, ALICE, bytes(200_000)).status_code
        with half_sent(narrow, ALICE, ALICE, KEY):
            assert 429 == status(narrow, ALICE, image_id="img_0")
            assert 503 == post(narrow, BOB, image(1)).status_code
        until = time.monotonic() + WAIT_S
        # That they have left is seen a moment later.
        while status(narrow, ALICE, image_id="img_0") == 429:
            assert time.monotonic() < until
        while (answer := post(narrow, BOB, image(1))).status_code == 503:
            assert time.monotonic() < until
    assert 200 == answer.status_code
