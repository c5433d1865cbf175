"""The outermost middleware: security headers and CORS."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osamd.server.guard.origins import Origins

# API answers are not pages: they load nothing, run nothing and are not framed. Actual pages set their own policy.
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
SECURITY_HEADERS = {
    "Content-Security-Policy": NOTHING,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
CALLERS_HEADERS = ("Authorization", "Content-Type", "X-API-Key", "X-Osamd-Image", "X-Request-Id")
READABLE_HEADERS = (
    "Retry-After",
    "Server-Timing",
    "X-Osamd-Cache",
    "X-Osamd-Conversion",
    "X-Osamd-Device",
    "X-Osamd-License",
    "X-Request-Id",
)
METHODS = ("GET", "POST", "DELETE")
PREFLIGHT_LASTS_S = 600


class SecurityHeadersMiddleware:
    """Adds ``SECURITY_HEADERS`` that an answer does not set itself, and keeps private answers out of caches.

    Answers of routes that need a key are private, including refusals.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add headers to the answer of an HTTP request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                state = scope.get("state", {})
                if "key_name" in state or "code" in state:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, completed)


class OriginsMiddleware:
    """CORS for the listed origins. Other origins get no permission, and their preflights need a key.

    Args:
        app: the app behind it.
        origins: the listed ones.
    """

    def __init__(self, app: ASGIApp, *, origins: Origins) -> None:
        self._app = app
        self._origins = origins
        self._permitting = CORSMiddleware(
            app,
            allow_origin_regex=origins.pattern,
            allow_methods=METHODS,
            allow_headers=CALLERS_HEADERS,
            expose_headers=READABLE_HEADERS,
            max_age=PREFLIGHT_LASTS_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, with CORS headers if its origin is listed."""
        is_listed = scope["type"] == "http" and Headers(scope=scope).get("origin") in self._origins
        await (self._permitting if is_listed else self._app)(scope, receive, send)
