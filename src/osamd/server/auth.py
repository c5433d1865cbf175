"""The key in front of an ASGI app. Imports nothing else of osamd, so it can guard any ASGI app.

::

from osam._server import app as osam_app
from osamd.server.auth import ApiKeyMiddleware

app = ApiKeyMiddleware(osam_app)
"""

import hmac
import json
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("osamd")

KEY_VARIABLE: Final = "API_KEY"
ENVIRONMENT_VARIABLE: Final = "APP_ENV"
DEVELOPMENT: Final = "development"
KEY_NAME: Final = "API_KEY"
ANONYMOUS: Final = "anonymous"
POLICY_VIOLATION: Final = 1008


class ApiKeyMiddleware:
    """Lets a request through only with the right key, in ``X-API-Key`` or as ``Authorization: Bearer``.

    A missing or wrong key is answered 403. Without a key configured every request is answered 500, naming the variable
    to set, except in development, where the check is off and a warning is logged.

    The name of the key a request came with is left in ``scope["state"]["key_name"]``.

    Args:
        app: the app to guard.
        api_key: the secret; None reads the environment variable ``API_KEY``.
        app_env: ``development`` relaxes a missing key; None reads the environment variable ``APP_ENV``.
        public_paths: exact paths anyone may read with GET or HEAD.
        public_prefixes: the same for everything below these, each ending in a slash.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None = None,
        app_env: str | None = None,
        public_paths: Collection[str] = (),
        public_prefixes: Iterable[str] = (),
    ) -> None:
        key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        env = os.environ.get(ENVIRONMENT_VARIABLE, "") if app_env is None else app_env
        self._app = app
        # A header's value has no white space around it, so a key with a line's end behind it could never be sent.
        self._key = key.strip().encode() or None
        self._development = env.strip().lower() == DEVELOPMENT
        self._public_paths = frozenset(public_paths)
        self._public_prefixes = tuple(public_prefixes)
        if self._key is None and self._development:
            logger.warning(
                "%s is not set: development mode, every request is let in. Never run like this in production.",
                KEY_VARIABLE,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard HTTP and WebSocket; everything else, such as lifespan, passes."""
        if scope["type"] not in {"http", "websocket"} or self._is_public(scope):
            await self._app(scope, receive, send)
        elif self._key is None and not self._development:
            detail = f"the server has no key: set the environment variable {KEY_VARIABLE}"
            await _refuse(scope, receive, send, 500, "not_configured", detail)
        elif self._key is not None and not self._carries_key(scope):
            detail = "the header X-API-Key is missing or wrong"
            await _refuse(scope, receive, send, 403, "access_denied", detail)
        else:
            scope.setdefault("state", {})["key_name"] = KEY_NAME if self._key is not None else ANONYMOUS
            await self._app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        # A path is compared without the prefix a proxy put in front of it.
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        is_reading = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        return is_reading and (path in self._public_paths or path.startswith(self._public_prefixes or ("\0",)))

    def _carries_key(self, scope: Scope) -> bool:
        key = self._key
        if key is None:
            return False
        matches = False
        for name, value in scope["headers"]:
            given = value
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                if scheme.lower() != b"bearer":
                    continue
            elif name != b"x-api-key":
                continue
            # Constant time, and no early exit, so that the answer's time tells nothing about the key.
            matches |= hmac.compare_digest(given.strip(), key)
        return matches


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, code: str, detail: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": code})
        return
    problem: dict[str, Any] = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}
    request_id = scope.get("state", {}).get("request_id")
    if request_id is not None:
        problem["request_id"] = request_id
    body = json.dumps(problem).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    if scope["method"] not in {"GET", "HEAD"}:
        # The body was not read, and will not be.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
