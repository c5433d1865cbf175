"""What a ``Decoder`` and its processes say to each other. Imports nothing heavy: the server waits for it at its start.

::

    decoder: a request and the image
    process: {"size": [height, width]}, unless it is refused before     decoder: how many rows and columns do
    process: {"picture": {...}, "shape": [rows, columns, 3]} or {"error": ..., "message": ...}

The pixels are in a file without a name, in memory, which both have open.
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

# The most pixels, and the image's length in bytes.
REQUEST: Final = struct.Struct("!QQ")
# Rows and columns.
SIZE: Final = struct.Struct("!QQ")
# Of the file in which pixels are found, so much is used again; what a larger image needs is freed after it.
KEPT_BYTES: Final = 16 * 1024 * 1024
# The code of an error that is no ``OsamdError``.
MEMORY_RAN_OUT: Final = "memory"

_LENGTH: Final = struct.Struct("!I")
_MOST_BYTES: Final = 65_536


class NonsenseError(Exception):
    """A process says what no process of ours does."""


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message."""
    body = json.dumps(message).encode()
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive(channel: socket.socket) -> dict[str, Any]:
    """A message.

    Raises:
        EOFError: the other side has gone.
        NonsenseError: it sends something else.
    """
    length = _LENGTH.unpack(_exactly(channel, _LENGTH.size))[0]
    try:
        message = json.loads(_exactly(channel, min(_MOST_BYTES, length)))
    except (ValueError, RecursionError):
        raise NonsenseError from None
    if not isinstance(message, dict):
        raise NonsenseError
    return message


def _exactly(channel: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = channel.recv(count - len(received))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)
