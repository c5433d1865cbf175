"""Limits checked before a request reaches its route: concurrency per key, concurrent uploads, slow and large bodies."""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osamd.errors import BodyTimeoutError, BodyTooLargeError, CapacityError, OverloadedError, RateLimitedError
from osamd.server.guard.key_channels import SEARCHED_STATE
from osamd.server.guard.memory_budget import MemoryBudget
from osamd.server.guard.rate_limit import RateLimit
from osamd.server.guard.shares import Shares
from osamd.server.problems import answer_error
from osamd.settings import Settings

# Larger bodies contain an image; smaller ones are clicks on a known image, never refused because of others' uploads.
SMALL_BODY_BYTES = 8 * 1024
# Of a declared length; zeros in front may make it longer than Python converts.
MOST_DIGITS: Final = 20
# How long a refused client may keep sending. Closing immediately would reset the connection, and it would never read
# why it was refused.
LINGER_S = 2.0


# While the queue of images is full, one request with an image in this time is read all the same: known images need not
# wait in it. Reading and refusing all of them would take CPU time from those that were accepted.
LOOK_EVERY_S: Final = 0.1
# Where a refused request's state has a function that tells whether the queue would refuse another one with the same
# head in the same words now. Absent if the answer may depend on more.
STILL_DUE_STATE: Final = "is_refusal_still_due"


class AdmissionMiddleware:
    """Refuses requests, on their head, that exceed the limits of their key or of the server.

    Comes after authentication; requests of public routes pass.

    Args:
        app: the app behind it.
        settings: the limits.
        memory: provides a holding for each request, which is released when its reply is sent.
        check_room: called with a key's name; raises ``OverloadedError`` if its next image could not be encoded.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, memory: MemoryBudget, check_room: Callable[[str], None]
    ) -> None:
        self._app = app
        self._settings = settings
        self._memory = memory
        self._check_room = check_room
        self._look_at = 0.0
        self._rate = RateLimit("requests", settings.requests_per_minute)
        self._running: Counter[str] = Counter()
        self._uploads = Shares(settings.uploads)
        self._upload_bytes = Shares(settings.upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse an HTTP request."""
        name = scope.get("state", {}).get("key_name")
        if scope["type"] != "http" or name is None:
            await self._app(scope, receive, send)
            return
        size = _body_bytes(scope, self._settings.max_body_bytes)
        try:
            self._check(name, size)
        except (CapacityError, BodyTooLargeError) as error:
            is_still_due = functools.partial(self._is_refused_by_queue, name, str(error))
            if SEARCHED_STATE not in scope["state"] and is_still_due():
                scope["state"][STILL_DUE_STATE] = is_still_due
            await answer_error(Request(scope), error)(scope, receive, send)
            return
        is_upload = size > SMALL_BODY_BYTES
        self._running[name] += 1
        self._uploads.add(name, int(is_upload))
        self._upload_bytes.add(name, size)
        holding = self._memory.open(name)
        scope["state"]["holding"] = holding
        try:
            await self._app(scope, receive, send)
        finally:
            holding.close()
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
            self._uploads.add(name, -int(is_upload))
            self._upload_bytes.add(name, -size)

    def _check(self, name: str, size: int) -> None:
        settings = self._settings
        if size > settings.max_body_bytes:
            raise _too_large(settings.max_body_bytes)
        if self._running[name] >= settings.concurrent_requests:
            message = f"limit of {settings.concurrent_requests:,} concurrent requests per key reached"
            raise RateLimitedError(message)
        if size > SMALL_BODY_BYTES:
            if self._uploads.total and not self._uploads.has_room(name, 1):
                raise OverloadedError(_limit_reached(f"{settings.uploads:,} concurrent uploads", self._uploads, name))
            if self._uploads.total and not self._upload_bytes.has_room(name, size):
                limit = f"{settings.upload_bytes:,} bytes of concurrent uploads"
                raise OverloadedError(_limit_reached(limit, self._upload_bytes, name))
            self._check_queue(name)
        self._rate.take(name)

    def _check_queue(self, name: str) -> None:
        """Refuse an image that would be refused after it was received, except a few that may be known already."""
        try:
            self._check_room(name)
        except OverloadedError:
            now = time.monotonic()
            if now < self._look_at:
                raise
            self._look_at = now + LOOK_EVERY_S

    def _is_refused_by_queue(self, name: str, reason: str) -> bool:
        """Whether the queue would refuse an image now, and for this reason."""
        if time.monotonic() >= self._look_at or self._running[name] >= self._settings.concurrent_requests:
            return False
        try:
            self._check_room(name)
        except OverloadedError as error:
            return str(error) == reason
        return False


@dataclass(slots=True)
class _Body:
    """Progress of receiving a request's body.

    Attributes:
        received: bytes so far.
        is_complete: whether all of it was received.
    """

    is_complete: bool
    received: int = 0


class BodyMiddleware:
    """Limits the size and duration of bodies; a client that is answered early may finish sending.

    Args:
        app: the app behind it; it answers the errors raised by reading.
        settings: the limits.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Limit an HTTP body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(is_complete=_body_bytes(scope, 1) == 0)
        until = asyncio.get_running_loop().time() + self._settings.receive_s
        is_early = False

        async def bounded() -> Message:
            return await receive() if body.is_complete else await self._next(body, receive, until)

        async def kept_open(message: Message) -> None:
            nonlocal is_early
            if message["type"] == "http.response.start" and not body.is_complete:
                is_early = True
                MutableHeaders(scope=message)["Connection"] = "close"
            # The whole answer has been sent; the server would close the connection if it knew.
            await send({**message, "more_body": True} if is_early and "body" in message else message)

        await self._app(scope, bounded, kept_open)
        if is_early:
            await _linger(receive)
            await send({"type": "http.response.body", "body": b""})

    async def _next(self, body: _Body, receive: Receive, until: float) -> Message:
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(self._settings.receive_idle_s, until - now)):
                message = await receive()
        except TimeoutError:
            raise BodyTimeoutError(
                f"the body arrived too slowly: the limits are {self._settings.receive_s:g} s in total and"
                f" {self._settings.receive_idle_s:g} s without data"
            ) from None
        if message["type"] == "http.request":
            body.received += len(message.get("body", b""))
            if body.received > self._settings.max_body_bytes:
                raise _too_large(self._settings.max_body_bytes)
        body.is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def _limit_reached(limit: str, shares: Shares, name: str) -> str:
    most = f"; this key holds {shares.held_by(name):,} of them, the rest is reserved for other keys"
    return f"limit of {limit} reached{most if shares.held_by(name) else ''}"


async def _linger(receive: Receive) -> None:
    """Read and discard what a client still sends."""
    try:
        async with asyncio.timeout(LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    except TimeoutError:
        return


def _body_bytes(scope: Scope, unknown: int) -> int:
    """Declared length of the body in bytes; ``unknown`` if there is a body without one."""
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers:
        return unknown
    length = declared_bytes(headers.get("content-length", "0").encode("latin-1"))
    return unknown if length is None else length


def declared_bytes(length: bytes) -> int | None:
    """The value of ``Content-Length``; None if it is not a number that Python converts."""
    return int(length) if length.isdigit() and len(length) <= MOST_DIGITS else None


def _too_large(most: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body exceeds the limit of {most:,} bytes")
