"""A real web server on the loopback that misbehaves as a script says, and remembers what it was asked."""

import contextlib
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from waiting import WAIT_S

PIECE = 16_384


@dataclass(frozen=True)
class Answer:
    """How a request is answered.

    Attributes:
        status: anything but 200 is answered with that and no content.
        headers: more headers.
        body: other content than the file's.
        send: bytes of the answer that are sent before the connection is cut; None means all.
        length: whether the answer says how long it is.
        ranges: whether a Range is honoured.
        if_range: whether an If-Range is honoured.
        etag: another ETag than the file's.
        hold: awaited after ``send`` bytes instead of cutting the connection; then the rest is sent.
        part_at: where the content of a 206 really begins, if not where it was asked for.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    send: int | None = None
    length: bool = True
    ranges: bool = True
    if_range: bool = True
    etag: str | None = None
    hold: threading.Event | None = None
    part_at: int | None = None


@dataclass
class Served:
    """A path: its content, its ETag, the answers to the next requests, and to all after those."""

    content: bytes
    etag: str = '"one"'
    script: list[Answer] = field(default_factory=list)
    then: Answer = Answer()


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    headers: Mapping[str, str]

    @property
    def start(self) -> int:
        """The first byte that was asked for."""
        return int(re.sub(r"\D", "", self.headers.get("range", "0")))


class BlobServer:
    """Files by path, or by whole URL for a proxy; everything else is 404."""

    def __init__(self, port: int, *, scheme: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.sending = threading.Event()

    def put(self, path: str, content: bytes, *script: Answer, then: Answer | None = None, etag: str = '"one"') -> str:
        """Serve a file; returns its URL."""
        self.files[path] = Served(content, etag, list(script), then or Answer())
        return path if "://" in path else self.url + path


@contextlib.contextmanager
def serve_blobs(*, certificate: Path | None = None) -> Iterator[BlobServer]:
    """Serve until the block ends; with a certificate (and its key in the same file), over TLS."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    # Threads that hold an answer back must not hold up the end of a test.
    httpd.daemon_threads = True
    httpd.block_on_close = False
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    blobs = BlobServer(httpd.server_address[1], scheme="https" if certificate else "http")
    httpd.blobs = blobs  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield blobs
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        blobs: BlobServer = self.server.blobs  # type: ignore[attr-defined]
        blobs.asked.append(Asked(self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.close_connection = True
        served = blobs.files.get(self.path)
        if served is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        answer = served.script.pop(0) if served.script else served.then
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer(served, answer, blobs)

    def _answer(self, served: Served, answer: Answer, blobs: BlobServer) -> None:
        content = served.content if answer.body is None else answer.body
        etag = served.etag if answer.etag is None else answer.etag
        status, headers = answer.status, dict(answer.headers)
        body = content
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if answer.ranges else None
        if answer.if_range and self.headers.get("If-Range", etag) != etag:
            match = None
        if status != 200:
            body = b""
        elif match:
            start = int(match[1]) if answer.part_at is None else answer.part_at
            status, body = 206, content[start:]
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if start >= len(content):
                status, body, headers["Content-Range"] = 416, b"", f"bytes */{len(content)}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if etag:
            self.send_header("ETag", etag)
        if answer.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self._send(body[: answer.send])
        blobs.sending.set()
        if answer.hold is not None:
            answer.hold.wait(WAIT_S)
            self._send(body[answer.send :])

    def _send(self, body: bytes) -> None:
        for at in range(0, len(body), PIECE):
            self.wfile.write(body[at : at + PIECE])
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Say nothing: what was asked is in ``asked``."""
