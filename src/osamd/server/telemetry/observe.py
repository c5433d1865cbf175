"""The outermost middleware: request ids, ``Server-Timing``, and an event when the answer is complete."""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osamd.errors import ShuttingDownError
from osamd.events import RequestDone, Sink, tell
from osamd.server.problems import answer_error, answer_unexpected
from osamd.timings import Timings

# Where a request's state has its event once it is done.
EVENT_STATE: Final = "event"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    """32 hexadecimal digits. They are no secret; the system's own randomness takes three times as long."""
    return f"{random.getrandbits(128):032x}"


class ObserveMiddleware:
    """Gives every request an id and a stopwatch.

    Args:
        app: the app behind it.
        sinks: receive an event when a request is done.
    """

    def __init__(self, app: ASGIApp, *, sinks: Sequence[Sink]) -> None:
        self._app = app
        self._sinks = tuple(sinks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Observe an HTTP request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        timings, begun = Timings(), time.time()
        given = Headers(scope=scope).get("x-request-id", "")
        # A caller's id goes into logs and headers, so only a harmless one is accepted.
        request_id = given if REQUEST_ID.fullmatch(given) else new_request_id()
        scope.setdefault("state", {}).update(request_id=request_id, timings=timings)
        status = 500
        is_begun = False
        answered = Headers()

        async def observed(message: Message) -> None:
            nonlocal status, is_begun, answered
            if message["type"] == "http.response.start":
                is_begun = True
                status = message["status"]
                answered = Headers(raw=message.get("headers", []))
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if timings.seconds():
                    headers["Server-Timing"] = timings.server_timing()
            await send(message)

        seconds: float | None = None
        try:
            await self._app(scope, receive, observed)
            seconds = timings.total()
            # uvloop writes when it gets its turn, which should not be after the event has been logged. Not within
            # ``observed``: a pipelined request begins meanwhile, and this one's place must be free for it.
            await asyncio.sleep(0)
        # The grace period of a stopping server is over; answer its callers instead of cutting them off.
        except asyncio.CancelledError:
            if is_begun:
                raise
            error = ShuttingDownError("the server shut down before it could finish this request")
            await answer_error(Request(scope), error)(scope, receive, observed)
        # Answered here, so that this answer gets its headers too.
        except Exception as error:
            if is_begun:
                raise
            await answer_unexpected(Request(scope), error)(scope, receive, observed)
        finally:
            event = RequestDone(
                scope["method"],
                scope["path"],
                status,
                timings.total() if seconds is None else seconds,
                request_id,
                code=scope["state"].get("code"),
                key_name=scope["state"].get("key_name"),
                client=scope["client"][0] if scope.get("client") else None,
                route=getattr(scope.get("route"), "path", "unmatched"),
                model=timings.model,
                cache=answered.get("x-osamd-cache"),
                device=answered.get("x-osamd-device"),
                stages=timings.seconds(),
                stages_begun=timings.begun(),
                begun=begun,
                traceparent=Headers(scope=scope).get("traceparent"),
                door=scope["state"].get("door"),
            )
            scope["state"][EVENT_STATE] = event
            tell(self._sinks, event)
