"""Reads the bodies of requests: bytes are collected on the event loop and parsed on a thread."""

from pathlib import Path
from typing import Final

from starlette.requests import ClientDisconnect, Request

from osamd.errors import BodyTooLargeError, ClientGoneError, InvalidRequestError
from osamd.server.services import caller_of, services_of
from osamd.settings import Settings
from osamd.timings import Timings
from osamd.types import ImageSource
from osamd.wire.parsing import Body, Fields, ParsedBody, from_json, parse_body

LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
# What a request about models may have.
SMALL_BODY_BYTES = 64 * 1024


async def read_body(request: Request, schema: type[Body], settings: Settings, timings: Timings) -> ParsedBody[Body]:
    """Read and parse a body of any of the accepted kinds.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
        BodyTooLargeError: it is too large.
    """
    chunks = await _receive(request)
    timings.add("receive", timings.total())
    local_files = _image_root(request, settings)
    content_type = request.headers.get("content-type", "")
    query = request.url.query

    def parse() -> ParsedBody[Body]:
        with timings.stage("parse"):
            return parse_body(b"".join(chunks), content_type, query, schema, local_files, settings.max_body_bytes)

    return await services_of(request).engine.aside(parse, timings, owner=caller_of(request).name)


async def image_of(request: Request, parsed: ParsedBody[Body], timings: Timings) -> ImageSource:
    """Where a request's pixels are; what is behind a URL is fetched, for a model that there is.

    Raises:
        RequestError: it may not, or cannot, be fetched, or there is no such model for this caller.
        OverloadedError: too many are being fetched.
    """
    if parsed.image is not None:
        return parsed.image
    services_of(request).library.check_usable(parsed.fields.model, may_pull=caller_of(request).is_admin)
    with timings.stage("receive"):
        return ImageSource(data=await services_of(request).remote_images.fetch(parsed.fields.image_url or ""))


async def read_json(request: Request, schema: type[Fields]) -> Fields:
    """Read and parse a small JSON body, whatever its Content-Type says: curl's default is that of a form.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
        BodyTooLargeError: it is too large.
    """
    raw = b"".join(await _receive(request, most=SMALL_BODY_BYTES))
    if not raw.strip():
        raise InvalidRequestError("the body is empty: JSON is wanted")
    return from_json(raw, schema)


async def _receive(request: Request, *, most: int | None = None) -> list[bytes]:
    chunks = []
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if most is not None and received > most:
                raise BodyTooLargeError(f"the body is larger than the {most:,} bytes that are allowed here")
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGoneError("the client went away before the body was complete") from None
    return chunks


def _image_root(request: Request, settings: Settings) -> Path | None:
    if settings.image_root is not None:
        return settings.image_root
    client = request.client.host if request.client is not None else ""
    # Behind a proxy on this machine everybody seems to be local.
    is_direct = "x-forwarded-for" not in request.headers and "forwarded" not in request.headers
    is_local = settings.app_env == "development" and settings.host in LOOPBACK and client in LOOPBACK and is_direct
    return Path.cwd() if is_local else None
