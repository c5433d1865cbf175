"""``JoinedHead``: sends an answer's head and the beginning of its body together."""

import asyncio
from typing import Final

# Longer pieces are not copied.
MOST_JOINED_BYTES: Final = 64 * 1024


class JoinedHead:
    """What uvicorn writes an answer to, instead of the transport.

    uvicorn writes the head on its own, which costs a system call and a packet, and wakes the client twice; that counts
    when many requests a second are refused. The head waits for the next write, but no longer than until the event loop
    has run what is ready.

    Args:
        transport: of the connection.
        loop: its event loop.
    """

    __slots__ = ("_has_begun", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._has_begun = False

    def write(self, data: bytes) -> None:
        """Write a piece; the first one is the head."""
        if not self._has_begun:
            self._has_begun = True
            self._head = data
            self._loop.call_soon(self._flush)
            return
        if self._head and len(data) <= MOST_JOINED_BYTES:
            data, self._head = self._head + data, b""
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
