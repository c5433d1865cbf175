"""``PiecewiseResponse``: sends a large reply no faster than its client reads it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# A client that takes longer than OSAMD_SEND_IDLE_S to read this much is cut off.
SEND_BYTES: Final = 1024 * 1024


class PiecewiseResponse(Response):
    """Sends its body in pieces, each after the previous one was accepted by the transport.

    Sent in one piece, the connection would buffer all of it and the request would end while the client still reads, so
    that the memory would no longer be accounted for.

    Other requests get their turn between two pieces. A transport makes its sender wait only once its buffer is full,
    which never happens while the client reads as fast as it is sent to: a large reply would occupy the event loop to
    its end.

    Args:
        pieces: the body.
        media_type: its media type.
        headers: additional headers.
    """

    def __init__(self, pieces: Sequence[bytes], *, media_type: str, headers: Mapping[str, str]) -> None:
        self._pieces = pieces
        length = sum(map(len, pieces))
        super().__init__(media_type=media_type, headers={**headers, "Content-Length": str(length)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = b""
        for part in _parts(self._pieces):
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.sleep(0)
            body = part
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _parts(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Regroup the bytes into parts of about ``SEND_BYTES``."""
    small: list[bytes] = []
    waiting = 0
    for piece in pieces:
        for start in range(0, len(piece), SEND_BYTES):
            part = piece[start : start + SEND_BYTES]
            if waiting + len(part) > SEND_BYTES:
                yield b"".join(small)
                small, waiting = [], 0
            small.append(part)
            waiting += len(part)
    yield b"".join(small)
