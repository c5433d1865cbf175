"""Files of the package as answers: read once, and sent from memory.

A file that is sent from the disk is open for as long as its reader takes, and readers that take their time would hold
all descriptors that the process may have. Pages are public, so anybody could.
"""

import hashlib
import mimetypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from osamd.errors import NotFoundError

# What is handed to a connection at once; the next piece waits until the reader has taken enough of it.
PIECE_BYTES: Final = 64 * 1024
NOT_MODIFIED: Final = 304


class PiecewiseResponse(Response):
    """A response in memory that is sent in pieces, so that a slow reader's connection copies little of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        for offset in range(0, max(1, len(body)), PIECE_BYTES):
            piece = bytes(body[offset : offset + PIECE_BYTES])
            is_last = offset + PIECE_BYTES >= len(body)
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})


def packaged_file(folder: Path, name: str, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """The answer with a file of a folder of a package, or 304 where the client has it.

    Raises:
        NotFoundError: there is no such file in the folder or below.
    """
    if name not in _names(folder):
        raise NotFoundError("no such file")
    content, tag = _read(folder / name)
    headers = {"ETag": tag, **(headers or {})}
    known = [known.strip().removeprefix("W/") for known in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=NOT_MODIFIED, headers=headers)
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return PiecewiseResponse(content, media_type=media_type, headers=headers)


@cache
def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@cache
def _read(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
