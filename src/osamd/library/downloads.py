"""Download one file, resuming an interrupted download; only a complete, verified file is kept."""

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from osamd import __version__
from osamd.errors import (
    BlobDigestError,
    InsufficientStorageError,
    OsamdError,
    PullError,
    SettingsError,
    ShuttingDownError,
)
from osamd.events import PullStatus
from osamd.library.partials import Partial
from osamd.library.rows import shown_url
from osamd.library.sources import (
    NoRoomError,
    RefusedError,
    SourceError,
    TooSlowError,
    WrongContentError,
    retry_after_s,
)

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger("osamd")

# How often free disk space is checked.
ROOM_S = 0.2
WATCH_S = 0.1
MAX_REDIRECTS = 10
# Interruptions of one file after which even a server that makes some progress each time is given up.
MAX_CUTS = 200
TRY_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
CONNECTED = {"connection.connect_tcp.complete", "connection.start_tls.complete", "proxy.start_tls.complete"}

Report = Callable[[PullStatus, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """Timeouts and retries of a download.

    Attributes:
        connect_s: seconds for a connection to open.
        read_s: seconds without data before a read fails.
        rounds: how often all sources are tried without notable progress before giving up.
        backoff_s: pause after the first round, doubled after each later one.
        retry_after_s: the longest ``Retry-After`` that is followed.
        slow_s: seconds over which speed is measured.
        slow_bytes_per_s: below this speed, the next source is tried.
    """

    connect_s: float = 15.0
    read_s: float = 30.0
    rounds: int = 5
    backoff_s: float = 1.0
    retry_after_s: float = 120.0
    slow_s: float = 60.0
    slow_bytes_per_s: float = 1024.0


class Download:
    """The download of one file.

    Args:
        sources: URLs of the same content, tried in this order.
        sha256: digest of the content, hexadecimal.
        partial: the file to fill; a partial download in it is resumed.
        report: called with status, completed and total bytes for each chunk.
        stop: set it to stop the download and keep the partial file; None if it is never stopped.
        patience: timeouts and retries.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        sha256: str,
        partial: Partial,
        report: Report,
        stop: threading.Event | None,
        patience: Patience,
    ) -> None:
        self._sources = list(dict.fromkeys(sources))
        self._sha256 = sha256
        self._partial = partial
        self._known_total = partial.total
        self._report_to = report
        self._stop = stop
        self._patience = patience
        self._best = 0
        self._cuts = 0
        self._forgiven: set[str] = set()
        self._rangeless: set[str] = set()
        self._reasons: dict[str, SourceError] = {}
        self._socket: socket.socket | None = None
        self._clients = contextlib.ExitStack()
        self._opened: dict[tuple[object, str], httpx2.Client] = {}
        self._via = ""

    def run(self) -> None:
        """Fill the file; return once its digest matches and it is synced to disk.

        Raises:
            PullError: no source delivered it.
            BlobDigestError: a source delivered other content, and no other source had the file.
            StorageError: the file cannot be written.
            ShuttingDownError: it was stopped.
        """
        with self._partial.opened():
            for _ in self._partial.take_up():
                self._check_stopped()
                self._report("verifying")
            self._best = self._partial.size
            if self._partial.sha256 != self._sha256:
                with contextlib.ExitStack() as self._clients, self._watch_for_stop():
                    self._download()
            for _ in self._partial.check_whole():
                self._check_stopped()
                self._report("verifying")
            self._partial.sync()

    def _download(self) -> None:
        """Try all sources in rounds, with growing pauses, until one delivers the file."""
        failures = 0
        while True:
            best, since = self._best, time.monotonic()
            if self._try_all():
                return
            left = [self._reasons[source] for source in self._sources]
            worth = (time.monotonic() - since) * self._patience.slow_bytes_per_s
            failures = 1 if self._best - best > worth else failures + 1
            if not left or failures >= self._patience.rounds:
                raise self._failure()
            asked_s = min(reason.retry_after_s for reason in left)
            if asked_s > self._patience.retry_after_s:
                raise self._failure(retry_after_s=asked_s)
            self._pause(max(asked_s, self._patience.backoff_s * 2.0 ** (failures - 1)))

    def _try_all(self) -> bool:
        """One round: try each source for as long as it makes progress."""
        for source in list(self._sources):
            try:
                self._drain(source)
            except SourceError as error:
                self._check_stopped()
                logger.warning("could not download sha256-%s from %s: %s", self._sha256, shown_url(source), error)
                self._reasons[source] = error
                if isinstance(error, RefusedError):
                    self._sources.remove(source)
            else:
                return True
        return False

    def _drain(self, source: str) -> None:
        """Keep resuming from a source for as long as it makes progress."""
        while True:
            best = self._best
            try:
                self._request(source)
            except (RefusedError, TooSlowError):
                raise
            except SourceError as error:
                self._cuts += 1
                if self._best <= best or self._cuts > MAX_CUTS or error.retry_after_s:
                    raise
                self._check_stopped()
                logger.info("%s, after %d bytes; resuming", error, self._partial.size)
                self._pause(self._patience.backoff_s)
            else:
                return

    def _request(self, source: str) -> None:
        import httpx2

        self._check_stopped()
        if source in self._rangeless:
            self._partial.start_over()
        start, etag = self._partial.size, self._partial.etag_at(source)
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and etag.startswith('"'):
            # If-Range does not allow weak ETags; those are compared with the response's instead.
            headers["If-Range"] = etag
        try:
            with self._answer(source, headers) as response:
                # Range not satisfiable: the file is already complete, or it is not a prefix of the content.
                if not (start and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                    self._accept(response, source, etag)
                    start = self._partial.size
                    self._partial.write_note(source=source, etag=response.headers.get("etag", ""))
                    self._check_room()
                    self._receive(response.iter_raw())
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise RefusedError(f"{error}") from error
        except httpx2.TimeoutException as error:
            raise TooSlowError((f"{error}" or "no more data arrived") + self._via) from error
        except httpx2.HTTPError as error:
            text = (f"{error}" or type(error).__name__) + self._via
            is_untrusted = "CERTIFICATE_VERIFY_FAILED" in text
            raise (RefusedError if is_untrusted else SourceError)(text) from error
        self._settle(source, start)

    def _accept(self, response: "httpx2.Response", source: str, etag: str) -> None:
        """Align the partial file with the start of the response, and learn the total size."""
        status, partial = response.status_code, self._partial
        if status in TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise SourceError(f"HTTP status {status}", retry_after_s=retry_after_s(response.headers))
        if status == HTTPStatus.PARTIAL_CONTENT and partial.size:
            match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if match is None or int(match[1]) != partial.size:
                self._rangeless.add(source)
                raise SourceError("the response has a different range than requested")
            if etag and response.headers.get("etag", etag) != etag:
                partial.start_over()
                raise SourceError("the file has changed since the last attempt")
            length = match[2]
        elif status == HTTPStatus.OK:
            length = response.headers.get("content-length", "")
        else:
            raise RefusedError(f"HTTP status {status}")
        known = self._known_total
        total = int(length) if length.isdecimal() else known
        if known is not None and total != known:
            raise WrongContentError(f"the file has {total} bytes; expected {known}")
        partial.total = total
        if status == HTTPStatus.OK:
            # The whole file, whatever range was requested.
            partial.start_over()

    def _check_room(self) -> None:
        try:
            self._partial.check_room()
        except InsufficientStorageError as error:
            if self._known_total is not None:
                raise
            # Only this source claims this size.
            raise NoRoomError(f"{error}") from error

    def _receive(self, chunks: Iterator[bytes]) -> None:
        partial, patience = self._partial, self._patience
        since, size = time.monotonic(), partial.size
        looked = since
        for chunk in chunks:
            partial.append(chunk)
            self._best = max(self._best, partial.size)
            self._check_stopped()
            if partial.total is not None and partial.size > partial.total:
                return
            self._report("downloading")
            if time.monotonic() - looked >= ROOM_S:
                looked = time.monotonic()
                partial.check_room()
            seconds = time.monotonic() - since
            if seconds >= patience.slow_s:
                if partial.size - size < seconds * patience.slow_bytes_per_s:
                    raise TooSlowError(f"too slow: {partial.size - size} bytes in {seconds:.0f} s")
                since, size = time.monotonic(), partial.size
        if partial.total is not None and partial.size < partial.total:
            raise SourceError("the connection closed early")

    def _settle(self, source: str, start: int) -> None:
        """The file is complete: verify it, or discard it."""
        partial = self._partial
        if partial.sha256 == self._sha256:
            return
        partial.start_over()
        message = f"the content is not sha256-{self._sha256}"
        # An earlier part, from another source or an undetected interruption, may be at fault: retry from zero.
        if (start or partial.total is None) and source not in self._forgiven:
            self._forgiven.add(source)
            raise SourceError(message)
        raise WrongContentError(message)

    def _failure(self, *, retry_after_s: float | None = None) -> OsamdError:
        reasons = "; ".join(f"{shown_url(source)}: {reason}" for source, reason in self._reasons.items())
        kind: type[OsamdError] = PullError
        if any(isinstance(reason, WrongContentError) for reason in self._reasons.values()):
            kind = BlobDigestError
        elif all(isinstance(reason, NoRoomError) for reason in self._reasons.values()):
            kind = InsufficientStorageError
        return kind(f"sha256-{self._sha256} could not be downloaded: {reasons}", retry_after_s=retry_after_s)

    def _report(self, status: PullStatus) -> None:
        self._report_to(status, self._partial.size, self._partial.total)

    @contextlib.contextmanager
    def _answer(self, source: str, headers: Mapping[str, str]) -> Iterator["httpx2.Response"]:
        """Request a source and follow its redirects, each through the proxy that the environment sets for it."""
        import httpx2

        url = httpx2.URL(source)
        for _ in range(MAX_REDIRECTS + 1):
            client = self._client(url)
            with client.stream("GET", url, headers=dict(headers), extensions={"trace": self._trace}) as response:
                if response.next_request is None:
                    yield response
                    return
                url = response.next_request.url
        raise RefusedError(f"more than {MAX_REDIRECTS} redirects")

    def _client(self, url: "httpx2.URL") -> "httpx2.Client":
        import httpx2

        from osamd.proxies import proxy_for, tls_context

        try:
            proxy = proxy_for(url)
            self._via = f" (through {proxy})" if proxy is not None else ""
            key = (proxy, url.scheme)
            if key not in self._opened:
                client = httpx2.Client(
                    # Ranges count uncompressed bytes.
                    headers={"User-Agent": f"osamd/{__version__}", "Accept-Encoding": "identity"},
                    timeout=httpx2.Timeout(self._patience.read_s, connect=self._patience.connect_s),
                    proxy=proxy.url if proxy is not None else None,
                    verify=tls_context(url.scheme, proxy.url.scheme if proxy is not None else ""),
                    trust_env=False,
                )
                self._opened[key] = self._clients.enter_context(client)
        except SettingsError as error:
            raise RefusedError(f"{error}") from error
        return self._opened[key]

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the socket, which httpx2 does not expose before the response begins."""
        if event in CONNECTED:
            self._socket = info["return_value"].get_extra_info("socket")

    @contextlib.contextmanager
    def _watch_for_stop(self) -> Iterator[None]:
        """Wake up a blocked read when the download is stopped."""
        stop = self._stop
        if stop is None:
            yield
            return
        ended = threading.Event()

        def watch() -> None:
            while not ended.is_set():
                if stop.wait(WATCH_S):
                    with contextlib.suppress(OSError, TypeError):
                        # Not SSLSocket.shutdown, which would change its state during a read.
                        socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # type: ignore[arg-type]
                    ended.wait(WATCH_S)

        thread = threading.Thread(target=watch, name="osamd-download-stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _pause(self, seconds: float) -> None:
        if self._stop is None:
            time.sleep(seconds)
        else:
            self._stop.wait(seconds)
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise ShuttingDownError("the download was stopped; the next one resumes it")
