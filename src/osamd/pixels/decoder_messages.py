"""The messages between a ``Decoder`` and its processes. Imports nothing heavy, because it is imported at server start.

::

    decoder: a request and the image
    process: {"size": [height, width]}, unless refused before     decoder: rows and columns needed
    process: {"picture": {...}, "shape": [rows, columns, 3]} or {"error": ..., "message": ...}

The pixels are in an anonymous memory file that both have open.
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

# The pixel limit, and the length of the image in bytes.
REQUEST: Final = struct.Struct("!QQ")
# Rows and columns.
SIZE: Final = struct.Struct("!QQ")
# How much of the pixel file is reused; what a larger image needs is freed after it.
KEPT_BYTES: Final = 16 * 1024 * 1024
# The code of an error other than ``OsamdError``.
MEMORY_RAN_OUT: Final = "memory"

_LENGTH: Final = struct.Struct("!I")
_MOST_BYTES: Final = 65_536


class NonsenseError(Exception):
    """A process sent an invalid message."""


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message."""
    body = json.dumps(message).encode()
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive(channel: socket.socket) -> dict[str, Any]:
    """Receive a message.

    Raises:
        EOFError: the other side has closed its socket.
        NonsenseError: the message is invalid.
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
