"""A scripted loopback server, for tests of the client."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from threaded import serving
from waiting import WAIT_S

GOOD = {
    "model": "builtin:latest",
    "image_id": "img_1",
    "width": 4,
    "height": 3,
    "expires_at": "2030-01-01T00:00:00Z",
    "annotations": [],
}


@dataclass(frozen=True)
class Told:
    """One answer."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


def problem(code: str, status: int, **headers: str) -> Told:
    """An answer as osamd gives it for an error."""
    body = {"title": code, "status": status, "detail": f"told {code}", "code": code, "request_id": "id-1"}
    return Told(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class Puppet(ThreadingHTTPServer):
    """Gives scripted answers, repeating the last one, and records requests."""

    daemon_threads = True

    def __init__(self, answers: list[Told], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), PuppetHandler)
        self.answers = answers
        self.asked: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.came = threading.Event()
        self.silent = threading.Event()

    def document(self, number: int) -> dict[str, Any]:
        """The JSON of a request's body, by the number of the request."""
        document: dict[str, Any] = json.loads(self.bodies[number])
        return document

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class PuppetHandler(BaseHTTPRequestHandler):
    """Answers every request with the next answer."""

    server: Puppet

    def do_POST(self) -> None:
        """Read the body, give the answer."""
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        self.server.paths.append(self.path)
        self.server.asked.append(dict(self.headers))
        self.server.came.set()
        if not self.server.answers:
            self.server.silent.wait(WAIT_S)
            return
        told = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        content = told.body.encode() if isinstance(told.body, str) else json.dumps(told.body).encode()
        self.send_response(told.status)
        for name, value in told.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_DELETE = do_POST  # noqa: N815 - the names http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name http.server gives it
        """Say nothing."""


@contextlib.contextmanager
def puppet(*answers: Told, port: int = 0) -> Iterator[Puppet]:
    """A puppet at work."""
    server = Puppet(list(answers), port)
    with serving(server):
        try:
            yield server
        finally:
            server.silent.set()
