"""Hosts of ``image_url`` that trickle, flood and pack: bounded in time, bytes and pieces, and off the server's loop."""

import asyncio
import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from waiting import WAIT_S

from osamd.errors import UrlFailedError
from osamd.server.guard.fetching import FREE_PIECES, OwnLoop, get_image
from osamd.server.guard.remote_images import RemoteImages
from osamd.settings import Settings

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PACKED = gzip.compress(bytes(1_000_000))


class Host:
    """A host that answers each request with some bytes, then with others for as long as anybody takes them.

    Args:
        first: sent once.
        then: sent over and over; nothing when empty.
        pause_s: between these.
    """

    def __init__(self, first: bytes, then: bytes = b"", pause_s: float = 0.0) -> None:
        self._first, self._then, self._pause_s = first, then, pause_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.was_asked, self.was_left = threading.Event(), threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/cat.jpg"

    def close(self) -> None:
        """Stop."""
        self._is_over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            with connection:
                connection.recv(65536)
                self.was_asked.set()
                try:
                    connection.sendall(self._first)
                    while self._then and not self._is_over.is_set():
                        connection.sendall(self._then)
                        time.sleep(self._pause_s)
                    connection.recv(65536)
                finally:
                    self.was_left.set()


@contextlib.contextmanager
def hosting(first: bytes, then: bytes = b"", pause_s: float = 0.0) -> Iterator[Host]:
    """Run a host until the block ends."""
    host = Host(first, then, pause_s)
    try:
        yield host
    finally:
        host.close()


def images(host: Host, **settings: Any) -> RemoteImages:
    """What fetches from this host."""
    name = host.url.split("/")[2]
    return RemoteImages(Settings(url_hosts=(name,), url_schemes=("http",), url_networks=("127.0.0.0/8",), **settings))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (CHUNKED, b"1\r\nx\r\n" * 10_000),
        (CHUNKED, b"64\r\n" + b"x" * 100 + b"\r\n"),
    ],
    ids=["bytes", "hundreds"],
)
def test_a_body_in_too_many_chunks_is_refused(first: bytes, then: bytes) -> None:
    """Each piece costs as much as a thousand times as many bytes."""
    with hosting(first, then) as host, pytest.raises(UrlFailedError, match="too many chunks"):
        asyncio.run(images(host, url_s=WAIT_S).fetch(host.url))


def test_pieces_of_a_usual_size_are_read() -> None:
    """Some servers send chunks of half a kilobyte."""
    body = b"200\r\n" + b"x" * 512 + b"\r\n"
    with hosting(CHUNKED + body * 3 * FREE_PIECES + b"0\r\n\r\n") as host:
        assert 512 * 3 * FREE_PIECES == len(asyncio.run(images(host, url_s=WAIT_S).fetch(host.url)))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (b"", b"H"),
    ],
    ids=["early hints", "a body", "a head", "chunks", "a status line"],
)
def test_slow_responses_hit_the_deadline(first: bytes, then: bytes) -> None:
    """No single pause is too long, but their sum is."""
    with hosting(first, then, pause_s=0.02) as host, pytest.raises(UrlFailedError):
        asyncio.run(images(host, url_s=0.5).fetch(host.url))


@pytest.mark.parametrize(
    "header",
    [
        *("Content-Encoding: gzip", "Content-Encoding: GZIP", "Content-Encoding: identity, gzip"),
        *("Content-Encoding: br", "Content-Encoding: deflate", "Transfer-Encoding: gzip, chunked"),
    ],
)
def test_compressed_bodies_are_refused(header: str) -> None:
    """Nothing is decompressed, so a small body cannot expand: a megabyte of zeros is a kilobyte here."""
    head = f"HTTP/1.1 200 OK\r\n{header}\r\nContent-Length: {len(PACKED)}\r\n\r\n"
    if "Transfer" in header:
        head = f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n"
    with hosting(head.encode() + PACKED) as host, pytest.raises(UrlFailedError):
        asyncio.run(images(host, url_s=5).fetch(host.url))


def test_fetches_run_on_a_separate_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host can keep a thread busy, but not the event loop."""
    threads: list[int] = []

    async def noting(*arguments: Any, **more: Any) -> bytes | str:
        threads.append(threading.get_ident())
        return await get_image(*arguments, **more)

    monkeypatch.setattr("osamd.server.guard.remote_images.get_image", noting)
    with hosting(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx") as host:
        assert b"x" == asyncio.run(images(host).fetch(host.url))
    assert 1 == len(threads)
    assert threading.get_ident() not in threads


def test_a_fetch_that_nobody_waits_for_ends() -> None:
    """A caller who leaves frees the place, the thread and the host."""

    async def leave(host: Host) -> None:
        fetching = asyncio.create_task(images(host, url_s=300).fetch(host.url))
        await asyncio.to_thread(host.was_asked.wait, WAIT_S)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert await asyncio.to_thread(host.was_left.wait, WAIT_S)

    with hosting(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n") as host:
        asyncio.run(leave(host))


def test_what_was_called_off_before_it_began_does_not_begin() -> None:
    """The thread may be busy when its waiter leaves."""
    has_begun = False

    async def begin() -> None:
        nonlocal has_begun
        has_begun = True

    work = OwnLoop(begin)
    work.cancel()

    with pytest.raises(UrlFailedError):
        work()
    assert not has_begun
    work.cancel()
