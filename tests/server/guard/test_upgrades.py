"""Requests that offer another protocol, or ask for a tunnel: one request, one answer, and no byte run twice."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from asking import CLICK, GENERATE, click
from connections import connect, everything_on
from pictures import base64_of
from serving import KEY, RunningServer
from waiting import WAIT_S

# As Java's HttpClient and curl --http2 send it, and its kind.
OFFERS = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "lower case, keep-alive": "connection: keep-alive, upgrade\r\nupgrade: h2c\r\n",
    "two Connection headers": "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    "two offers": "Upgrade: h2c\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
    "WebSocket": (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    ),
    "Upgrade alone": "Upgrade: h2c\r\n",
    "Connection alone": "Connection: Upgrade\r\n",
    "empty": "Connection: Upgrade\r\nUpgrade:\r\n",
}
# What would be answered, were it run as a request.
INNER = b"GET /health HTTP/1.1\r\nHost: inner\r\n\r\n"
SECRET_PATH = b"GET /api/tags HTTP/1.1\r\nHost: a\r\nX-API-Key: " + KEY.encode() + b"\r\n\r\n"


def head(offer: str, *more: str, line: str = f"POST {GENERATE} HTTP/1.1", host: str = "a") -> bytes:
    """The head of a request with the key."""
    fields = "".join(f"{field}\r\n" for field in more)
    return f"{line}\r\nHost: {host}\r\nX-API-Key: {KEY}\r\n{offer}{fields}\r\n".encode()


def exchange(running: RunningServer, *pieces: bytes, until: bytes = b"") -> bytes:
    """Send pieces with a pause between them, then a request that has the server close; everything that comes back."""
    with connect(running) as connection:
        for number, piece in enumerate(pieces):
            if number:
                # Long enough for the server to act on the piece before, were it to take that for all.
                time.sleep(0.05)
            connection.sendall(piece)
        if until:
            connection.sendall(until)
        return everything_on(connection)


def answers(received: bytes) -> list[int]:
    """The statuses of the answers in what a connection brought."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


LAST = b"GET /nothing HTTP/1.1\r\nHost: a\r\nX-API-Key: " + KEY.encode() + b"\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def body(photo: bytes) -> bytes:
    """A click on the photo as JSON."""
    return json.dumps({"image": base64_of(photo), "prompt": click(CLICK)}).encode()


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("comes", ["with the head", "late"])
def test_upgrade_offers_are_ignored_and_the_body_read(
    server: RunningServer, body: bytes, offer: str, comes: str
) -> None:
    """Whether the body comes with the head or after it; the connection then serves the next request."""
    asked = head(offer, f"Content-Length: {len(body)}")
    pieces = [asked, body] if comes == "late" else [asked + body]

    assert [200, 404] == answers(exchange(server, *pieces, until=LAST))


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_a_late_body_is_never_run_as_requests(server: RunningServer, offer: str) -> None:
    """Request smuggling: what a proxy took for a body stays one."""
    received = exchange(server, head(offer, f"Content-Length: {len(SECRET_PATH)}"), SECRET_PATH, until=LAST)

    assert [422, 404] == answers(received)


def test_a_chunked_body_of_an_offer_is_read_to_its_end(server: RunningServer, body: bytes) -> None:
    """In chunks, with a trailer, and with a head that comes in bytes."""
    asked = head(OFFERS["h2c"], "Transfer-Encoding: chunked")
    with connect(server) as connection:
        for byte in asked:
            connection.sendall(bytes([byte]))
        connection.sendall(b"%x\r\n" % len(body) + body + b"\r\n0\r\nUpgrade: h2c\r\n\r\n" + LAST)
        received = everything_on(connection)

    assert [200, 404] == answers(received)


def test_offers_one_behind_another_are_answered_in_order(server: RunningServer, body: bytes) -> None:
    """Pipelined requests keep their bounds."""
    one = head(OFFERS["h2c"], f"Content-Length: {len(body)}") + body
    two = head(OFFERS["WebSocket"], line="GET /health HTTP/1.1")

    assert [200, 200, 200, 404] == answers(exchange(server, one + two + one + LAST))


def test_a_body_of_an_offer_is_expected_with_100(server: RunningServer, body: bytes) -> None:
    """``Expect: 100-continue`` holds beside an offer."""
    asked = head(OFFERS["h2c"], f"Content-Length: {len(body)}", "Expect: 100-continue")
    with connect(server) as connection:
        connection.sendall(asked)
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body + LAST)
        assert [200, 404] == answers(everything_on(connection))


def test_an_offer_does_not_lift_the_limit_of_a_head(server: RunningServer) -> None:
    """Nor is it counted twice."""
    fitting = head(OFFERS["h2c"] + "X-Long: " + "a" * 60_000 + "\r\n", line="GET /health HTTP/1.1")
    over = head("Upgrade: " + "a" * 66_000 + "\r\nConnection: Upgrade\r\n", line="GET /health HTTP/1.1")

    assert [200, 404] == answers(exchange(server, fitting + LAST))
    assert [431] == answers(exchange(server, over))


def test_frames_of_a_websocket_are_not_http(server: RunningServer) -> None:
    """A client that does not wait for the answer has its frames refused, and the connection ends."""
    frame = bytes.fromhex("818537fa213d7f9f4d5158")
    received = exchange(server, head(OFFERS["WebSocket"], line="GET /health HTTP/1.1") + frame * 100)

    assert 400 == answers(received)[-1]


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("target", ["a:80", "/health"])
def test_connect_is_refused(server: RunningServer, target: str, version: str) -> None:
    """CONNECT is refused, and nothing sent after it is executed."""
    received = exchange(server, head("", line=f"CONNECT {target} {version}") + INNER, INNER)

    assert [501] == answers(received)


def test_http2_without_asking_is_refused(server: RunningServer) -> None:
    """The preface of HTTP/2, which llhttp knows."""
    assert [400] == answers(exchange(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER))


JAVA = r"""
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;

public class Ask {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int time = 0; time < 3; time++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("X-API-Key", arguments[1])
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[2])))
                .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java here: its HttpClient, which offers h2c, is not tried")
def test_javas_client_is_answered(server: RunningServer, body: bytes, tmp_path: Path) -> None:
    """Java's own client offers HTTP/2 by default, as Spring's does."""
    (tmp_path / "Ask.java").write_text(JAVA)
    (tmp_path / "body.json").write_bytes(body)
    command = ["java", "Ask.java", server.url + GENERATE, KEY, "body.json"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=True)

    assert ["200"] * 3 == ended.stdout.split()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here: its option --http2 is not tried")
def test_curl_is_answered(server: RunningServer, body: bytes, tmp_path: Path) -> None:
    """``curl --http2`` offers h2c."""
    (tmp_path / "body.json").write_bytes(body)
    command = ["curl", "-sS", "--http2", "--noproxy", "*", "-H", f"X-API-Key: {KEY}", "--data-binary", "@body.json"]
    command += ["-o", "answer", "-w", "%{http_code}", server.url + GENERATE]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=True)

    assert "200" == ended.stdout
