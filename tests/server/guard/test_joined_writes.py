"""An answer's head does not travel alone if its body is there."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx2
import pytest

from osamd.server.guard.joined_writes import MOST_JOINED_BYTES, JoinedHead, write_and_close


class Sent(asyncio.Transport):
    """Notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_over = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Note it; nothing may be written after the end."""
        assert not self.is_over
        self.writes.append(bytes(data))

    def close(self) -> None:
        """The end."""
        self.is_over = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_over


def _alone(joined: JoinedHead) -> None:
    joined.write(b"head")


def _with_body(joined: JoinedHead) -> None:
    joined.write(b"head")
    joined.write(b"body")
    joined.write(b"more")


def _of_two_pieces(joined: JoinedHead) -> None:
    joined.write(b"head")
    joined.write(b"body")
    joined.write(b"")


def _with_large_body(joined: JoinedHead) -> None:
    joined.write(b"head")
    joined.write(bytes(MOST_JOINED_BYTES + 1))


def _closed(joined: JoinedHead) -> None:
    joined.write(b"head")
    joined.close()
    assert joined.is_closing()


def _without_content(joined: JoinedHead) -> None:
    joined.write(b"head")
    joined.write(b"")
    joined.close()


@pytest.mark.parametrize(
    ("answer", "writes"),
    [
        (_alone, [b"head"]),
        (_with_body, [b"headbody", b"more"]),
        (_with_large_body, [b"head", bytes(MOST_JOINED_BYTES + 1)]),
        (_closed, [b"head"]),
        (_without_content, [b"head"]),
    ],
)
def test_a_head_waits_for_its_body_only(answer: Callable[[JoinedHead], None], writes: list[bytes]) -> None:
    """It is written with what follows at once, or else when the event loop has run what is ready."""
    transport = Sent()

    async def run() -> None:
        answer(JoinedHead(transport, asyncio.get_running_loop()))
        await asyncio.sleep(0)

    asyncio.run(run())

    assert writes == transport.writes


@pytest.mark.parametrize(
    ("answer", "whole"), [(_alone, b""), (_with_body, b""), (_closed, b""), (_of_two_pieces, b"headbody")]
)
def test_an_answer_is_whole_if_nothing_follows(answer: Callable[[JoinedHead], None], whole: bytes) -> None:
    """Only then may it be sent again."""

    async def run() -> bytes:
        joined = JoinedHead(Sent(), asyncio.get_running_loop())
        answer(joined)
        return joined.whole

    assert asyncio.run(run()) == whole


def test_small_answers_arrive_in_one_piece(client: httpx2.Client) -> None:
    """On a real connection, also one that is used again."""
    place = urlsplit(str(client.base_url))
    with socket.create_connection((place.hostname, place.port)) as connection:
        for _ in range(50):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert body


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_the_last_data_comes_with_the_end(family: socket.AddressFamily) -> None:
    """Over TCP, where both are one packet, and elsewhere; also if the client has sent more."""
    mine, other = socket.socketpair(family) if family == socket.AF_UNIX else connected()

    async def run() -> None:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, mine)
        transport.pause_reading()
        write_and_close(transport, b"answer")
        await asyncio.sleep(0)

    with other:
        other.sendall(b"what the server does not read")
        asyncio.run(run())
        assert other.recv(100) == b"answer"
        # A reset where a socket was closed with something unread.
        with contextlib.suppress(ConnectionResetError):
            assert other.recv(100) == b""


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        other = socket.create_connection(listening.getsockname())
        return listening.accept()[0], other
