"""The outermost middleware: a request id in and out, ``Server-Timing``, and an event when the answer is complete."""

import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osamd.events import RequestDone, Sink, Timings

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class ObserveMiddleware:
    """Gives every request an id and a stopwatch.

    Args:
        app: the app behind it.
        sinks: told when a request is done.
    """

    def __init__(self, app: ASGIApp, *, sinks: Sequence[Sink]) -> None:
        self._app = app
        self._sinks = tuple(sinks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Observe an HTTP request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        # A caller's id goes into logs and headers, so only a harmless one is taken over.
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        timings = Timings()
        scope.setdefault("state", {}).update(request_id=request_id, timings=timings)
        status = 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if timings.seconds():
                    headers["Server-Timing"] = timings.server_timing()
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            event = RequestDone(scope["method"], scope["path"], status, time.perf_counter() - start, request_id)
            for sink in self._sinks:
                sink(event)
