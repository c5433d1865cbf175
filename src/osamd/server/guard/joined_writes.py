"""Answers in fewer packets: each costs system calls here and wakes the client, which counts under overload."""

import asyncio
import contextlib
import socket
from typing import Final

# Longer pieces are not copied.
MOST_JOINED_BYTES: Final = 64 * 1024
# Idle connections keep their last answer.
MOST_KEPT_BYTES: Final = 4 * 1024


class JoinedHead:
    """What uvicorn writes an answer to, instead of the transport.

    uvicorn writes the head on its own. Here it waits for the next write, but no longer than until the event loop has
    run what is ready.

    Args:
        transport: of the connection.
        loop: its event loop.

    Attributes:
        whole: all that was written, if it was written together and is short; else empty.
    """

    __slots__ = ("_has_begun", "_head", "_loop", "_transport", "whole")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._has_begun = False
        self.whole = b""

    def write(self, data: bytes) -> None:
        """Write a piece; the first one is the head."""
        if not self._has_begun:
            self._has_begun = True
            self._head = data
            self._loop.call_soon(self._flush)
            return
        if self._head and len(data) <= MOST_JOINED_BYTES:
            data, self._head = self._head + data, b""
            self.whole = data if len(data) <= MOST_KEPT_BYTES else b""
        elif data:
            self.whole = b""
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closing or closed."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


def write_and_close(transport: asyncio.Transport, data: bytes) -> None:
    """Write the last data on a connection and close it; over plain TCP on Linux its end is in the same packet."""
    # Not with TLS, which waits for an answer before it closes the socket.
    if transport.can_write_eof():
        connection = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_CORK") and connection is not None:
            # Not a TCP connection, or gone.
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        transport.write(data)
        # Sends what is held back, which would be lost if the client had sent more than was read.
        transport.write_eof()
    else:
        transport.write(data)
    transport.close()
