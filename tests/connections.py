"""Plain sockets to a running server, for clients that misbehave."""

import contextlib
import socket

from asking import GENERATE
from serving import KEY, RunningServer
from waiting import WAIT_S


def connect(running: RunningServer) -> socket.socket:
    """A connection on which nothing was sent."""
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def open_request(running: RunningServer, *headers: str, key: str = KEY) -> socket.socket:
    """A connection on which the head of a request was sent."""
    connection = connect(running)
    lines = [f"POST {GENERATE} HTTP/1.1", "Host: 127.0.0.1", f"X-API-Key: {key}", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def answer_on(connection: socket.socket) -> bytes:
    """What comes back until the body of the answer is there."""
    received = b""
    while b"\r\n\r\n" not in received or b"}" not in received.partition(b"\r\n\r\n")[2]:
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    return received


def everything_on(connection: socket.socket) -> bytes:
    """What comes until the server closes, however it does."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def sent_all(connection: socket.socket, data: bytes) -> bool:
    """Send; whether the server let us."""
    try:
        connection.sendall(data)
    except ConnectionError:
        return False
    return True
