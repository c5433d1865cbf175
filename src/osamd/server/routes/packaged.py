"""Serves files of the package, read once and sent from memory.

A file sent from disk stays open until its client has read it, so slow clients could exhaust the process's file
descriptors; and since pages are public, anyone could do that.
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

# Bytes per write; the next piece waits until the client has read enough.
PIECE_BYTES: Final = 64 * 1024
NOT_MODIFIED: Final = 304


class PiecewiseResponse(Response):
    """An in-memory response sent in pieces, so that a slow client's connection buffers little of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        for offset in range(0, max(1, len(body)), PIECE_BYTES):
            piece = bytes(body[offset : offset + PIECE_BYTES])
            is_last = offset + PIECE_BYTES >= len(body)
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})


def packaged_file(folder: Path, name: str, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """The response with a file from a package's folder, or 304 if the client has it.

    Raises:
        NotFoundError: there is no such file in or below the folder.
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
