"""Limits that hold before a route sees a request."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osamd.errors import BodyTooLargeError


class BodyLimitMiddleware:
    """Refuses bodies over a limit: from ``Content-Length`` before anything is read, else while it streams in.

    Args:
        app: the app behind it; its error handler turns the error into a 413.
        max_body_bytes: bytes of the largest body taken.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of an HTTP body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _content_length(scope)
        received = 0

        async def counted() -> Message:
            nonlocal received
            if declared is not None and declared > self._max_body_bytes:
                raise self._error()
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_body_bytes:
                    raise self._error()
            return message

        await self._app(scope, counted, send)

    def _error(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body is larger than the {self._max_body_bytes:,} bytes that are allowed")


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
