"""Reads request bodies: bytes are collected on the event loop and parsed elsewhere, mostly on a thread."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import ClientDisconnect, Request

from osamd.errors import BodyTooLargeError, ClientGoneError, InvalidRequestError
from osamd.settings import Settings
from osamd.timings import Timings
from osamd.wire.json_bodies import Fields, from_json
from osamd.wire.parsing import ParsedBody, check_encoding, parse_body
from osamd.wire.plain_fields import Body

LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
LOOPBACK_HOSTS: Final = LOOPBACK | {"localhost"}
# Size limit of request bodies about models.
SMALL_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class RawBody:
    """A request's unparsed body, and what is needed to parse it.

    Attributes:
        chunks: the bytes, in pieces; the parser removes them.
        content_type: the request's header; empty if there is none.
        accept: the request's header; empty if there is none.
        query: the query string.
        image_root: folder that ``image_path`` may read from; None refuses ``image_path``.
    """

    chunks: list[bytes]
    content_type: str
    accept: str
    query: str
    image_root: Path | None


async def receive_body(request: Request, settings: Settings, timings: Timings) -> RawBody:
    """Collect a body; adds the stage ``receive``.

    Raises:
        BodyTooLargeError: it is too large.
        UnsupportedMediaError: it is compressed.
        ClientGoneError: the client disconnected before sending all of it.
    """
    chunks = await _receive(request)
    timings.add("receive", timings.total())
    return RawBody(
        chunks=chunks,
        content_type=request.headers.get("content-type", ""),
        accept=request.headers.get("accept", ""),
        query=request.scope["query_string"].decode(),
        image_root=_image_root(request, settings),
    )


def parse_fields(body: RawBody, schema: type[Body], settings: Settings) -> ParsedBody[Body]:
    """Parse a body of any type that osamd's own routes accept: JSON, multipart, or a bare image.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
        BodyTooLargeError: it names a file that is too large.
        UnsupportedMediaError: it is a form that is too large.
    """
    raw = b"".join(body.chunks)
    # Otherwise the body would be in memory twice while it is parsed.
    body.chunks.clear()
    return parse_body(raw, body.content_type, body.query, schema, body.image_root, settings.max_body_bytes)


async def read_json(request: Request, schema: type[Fields]) -> Fields:
    """Read and parse a small JSON body, whatever its Content-Type: curl's default is that of a form.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
        BodyTooLargeError: it is too large.
        UnsupportedMediaError: it is compressed.
    """
    raw = b"".join(await _receive(request, most=SMALL_BODY_BYTES))
    if not raw.strip():
        raise InvalidRequestError("the body is empty: expected JSON")
    # The worst case within the limits takes a tenth of a second.
    return await asyncio.to_thread(from_json, raw, schema)


async def _receive(request: Request, *, most: int | None = None) -> list[bytes]:
    check_encoding(request.headers.get("content-encoding", ""))
    chunks = []
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if most is not None and received > most:
                raise BodyTooLargeError(f"the body exceeds the limit of {most:,} bytes for this route")
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGoneError("the client disconnected before the body was complete") from None
    return chunks


def _image_root(request: Request, settings: Settings) -> Path | None:
    if settings.image_root is not None:
        return settings.image_root
    client = request.client.host if request.client is not None else ""
    # Behind a proxy on this machine every client seems to be local.
    is_direct = "x-forwarded-for" not in request.headers and "forwarded" not in request.headers
    is_local = (
        settings.app_env == "development" and settings.host in LOOPBACK_HOSTS and client in LOOPBACK and is_direct
    )
    return Path.cwd() if is_local else None
