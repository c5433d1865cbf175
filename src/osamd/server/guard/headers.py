"""The outermost middlewares: headers that keep browsers careful, and which web pages may call."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osamd.server.guard.origins import Origins

# An answer of an API is never a page, so it may load nothing, run nothing, and stand in no frame. The pages there are
# bring a policy of their own.
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
SECURITY_HEADERS = {
    "Content-Security-Policy": NOTHING,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
CALLERS_HEADERS = ("Authorization", "Content-Type", "X-API-Key", "X-Request-Id")
READABLE_HEADERS = (
    "Retry-After",
    "Server-Timing",
    "X-Osamd-Cache",
    "X-Osamd-Image",
    "X-Osamd-Device",
    "X-Osamd-License",
    "X-Request-Id",
)
METHODS = ("GET", "POST", "DELETE")
PREFLIGHT_LASTS_S = 600


class SecurityHeadersMiddleware:
    """Adds ``SECURITY_HEADERS`` to every answer that has none of its own, and keeps private ones out of caches.

    Private is whatever wanted a key, refusals too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an HTTP request and complete the headers of its answer."""
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
    """Lets pages of the listed origins call (CORS). Others get no permission, and their preflights need the key.

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
        """Pass on a request, with permission for its page where that is listed."""
        is_listed = scope["type"] == "http" and Headers(scope=scope).get("origin") in self._origins
        await (self._permitting if is_listed else self._app)(scope, receive, send)
