"""A lean client: one kept-alive connection, http.client, nothing parsed that is not needed.

What the client itself costs is in every number, so it is kept as small as Python allows.
"""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

TIMEOUT_S = 300.0
# uvicorn closes a connection that was idle for 5 s.
LONGEST_IDLE_S = 2.0
OK = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, complete.

    Attributes:
        body: as it came.
        seconds: from the first byte sent to the last byte read.
        stages_s: seconds by stage, from ``Server-Timing``; empty where the server sends none.
        server_s: the server's own seconds until it began to answer, from the same header; 0 where it sends none.
    """

    body: bytes
    seconds: float
    stages_s: Mapping[str, float]
    server_s: float

    @property
    def untold_s(self) -> float:
        """The server's own seconds that no stage has."""
        return self.server_s - sum(self.stages_s.values())

    def json(self) -> Any:
        """The body, parsed; not part of ``seconds``."""
        return json.loads(self.body)


class Connection:
    """Asks one server, one request after another."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        self._headers = {"Content-Type": "application/json"} | dict(headers or {})
        self._used_at = 0.0

    def __enter__(self) -> Self:
        """Use as a context manager to close the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str) -> Reply:
        """GET; raises ``RuntimeError`` unless the answer is 200."""
        return self._ask("GET", path, None, {})

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """POST of JSON, with further headers; raises ``RuntimeError`` unless the answer is 200."""
        return self._ask("POST", path, body, headers or {})

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        if time.perf_counter() - self._used_at > LONGEST_IDLE_S:
            self._http.close()
            self._http.connect()
        start = time.perf_counter()
        self._http.request(method, path, body, {**self._headers, **headers})
        response = self._http.getresponse()
        data = response.read()
        self._used_at = time.perf_counter()
        seconds = self._used_at - start
        if response.status != OK:
            raise RuntimeError(f"{method} {path} answered {response.status}: {data[:300]!r}")
        durations = stages(response.getheader("Server-Timing", ""))
        total = durations.pop("total", 0.0)
        return Reply(data, seconds, durations, total)


def stages(header: str) -> dict[str, float]:
    """Seconds by stage of a ``Server-Timing`` header, and the ``total``."""
    found = {}
    for part in header.split(","):
        name, _, milliseconds = part.strip().partition(";dur=")
        if milliseconds:
            found[name] = float(milliseconds) / 1e3
    return found


def click_body(model: str, point: tuple[int, int], **image: Any) -> bytes:
    """A request as osam's clients write it: one foreground click, and ``image`` or ``image_id``."""
    prompt = {"points": [list(point)], "point_labels": [1]}
    return json.dumps({"model": model, "prompt": prompt} | image).encode()
