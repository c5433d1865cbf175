"""The key in front of an ASGI app. Imports nothing else of osamd, so it can guard any ASGI app.

::

from osam._server import app as osam_app
from osamd.server.guard.auth import ApiKeyMiddleware

app = ApiKeyMiddleware(osam_app)
"""

import hmac
import ipaddress
import json
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

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
ADMIN: Final = "admin"
USER: Final = "user"
POLICY_VIOLATION: Final = 1008
WRONG_KEYS_PER_MINUTE: Final = 20
MINUTE_S: Final = 60.0
# Addresses whose wrong keys are counted; the oldest is forgotten first.
MOST_ADDRESSES: Final = 10_000
# What one customer of a provider has; counting single addresses would give him 2^64 tries.
IPV6_PREFIX: Final = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a key belongs to.

    Attributes:
        name: the key's name.
        role: ``admin`` or ``user``.
    """

    name: str
    role: str


class Keys(Protocol):
    """Where keys are looked up."""

    def find(self, secret: bytes) -> Caller | None:
        """Whose secret this is; None when it is nobody's."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    code: str
    detail: str
    retry_after_s: float | None = None


class ApiKeyMiddleware:
    """Lets a request through only with the right key, in ``X-API-Key`` or as ``Authorization: Bearer``.

    Where both are sent, ``X-API-Key`` counts; a header that comes twice is no key, so that a request is one guess.

    A missing or wrong key is answered 403, too many wrong ones from one address 429; a right key always passes. Without
    a key configured every request is answered 500, naming the variable to set, except in development, where the check
    is off, a warning is logged, and only requests that no foreign web page can have made are let in.

    The name of the key a request came with is left in ``scope["state"]["key_name"]``, its role in ``key_role``, and the
    code of a refusal in ``code``.

    Args:
        app: the app to guard.
        api_key: the secret of an admin; None reads the environment variable ``API_KEY``.
        app_env: ``development`` relaxes a missing key; None reads the environment variable ``APP_ENV``.
        keys: more keys.
        public_paths: exact paths anyone may read with GET or HEAD.
        public_prefixes: the same for everything below these, each ending in a slash.
        admin_paths: exact paths that are for admins, whatever the method.
        allowed_origins: web pages, such as ``https://example.com``, that may call a server without a key.
        wrong_keys_per_minute: how many wrong keys an address may try in a minute.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None = None,
        app_env: str | None = None,
        keys: Keys | None = None,
        public_paths: Collection[str] = (),
        public_prefixes: Iterable[str] = (),
        admin_paths: Collection[str] = (),
        allowed_origins: Collection[str] = (),
        wrong_keys_per_minute: int = WRONG_KEYS_PER_MINUTE,
    ) -> None:
        key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        env = os.environ.get(ENVIRONMENT_VARIABLE, "") if app_env is None else app_env
        self._app = app
        # A header's value has no white space around it, so a key with a line's end behind it could never be sent.
        self._key = key.strip().encode() or None
        self._keys = keys
        self._is_open = self._key is None and keys is None and env.strip().lower() == DEVELOPMENT
        self._public_paths = frozenset(public_paths)
        self._public_prefixes = tuple(public_prefixes)
        self._admin_paths = frozenset(admin_paths)
        self._allowed_origins = frozenset(allowed_origins)
        self._wrong_keys = _WrongKeys(wrong_keys_per_minute)
        if self._is_open:
            logger.warning(
                "%s is not set: development mode, every request is let in. Never run like this in production.",
                KEY_VARIABLE,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard HTTP and WebSocket; everything else, such as lifespan, passes."""
        if scope["type"] not in {"http", "websocket"} or self._is_public(scope):
            await self._app(scope, receive, send)
            return
        judged = self._judge(scope)
        if isinstance(judged, _Refusal):
            await _refuse(scope, receive, send, judged)
            return
        scope.setdefault("state", {}).update(key_name=judged.name, key_role=judged.role)
        await self._app(scope, receive, send)

    def _judge(self, scope: Scope) -> Caller | _Refusal:
        if self._is_open:
            if _is_of_a_foreign_page(scope, self._allowed_origins):
                detail = "another site's page may not use this server while it has no key: set API_KEY, or call it by"
                return _Refusal(403, "foreign_origin", f"{detail} its address or as localhost")
            return Caller(ANONYMOUS, ADMIN)
        if self._key is None and self._keys is None:
            detail = f"the server has no key: set the environment variable {KEY_VARIABLE}"
            return _Refusal(500, "not_configured", detail)
        secrets = _secrets(scope)
        # Of several none is tried, so that a request is one guess and counts as one.
        caller = self._caller(secrets[0]) if len(secrets) == 1 else None
        if caller is None:
            return self._reject(scope, is_guess=bool(secrets))
        if caller.role != ADMIN and _own_path(scope) in self._admin_paths:
            return _Refusal(403, "admin_only", "this is for keys with the role admin")
        return caller

    def _caller(self, secret: bytes) -> Caller | None:
        # Constant time, so that the answer's time tells nothing about the key.
        if self._key is not None and hmac.compare_digest(secret, self._key):
            return Caller(KEY_NAME, ADMIN)
        return None if self._keys is None else self._keys.find(secret)

    def _reject(self, scope: Scope, *, is_guess: bool) -> _Refusal:
        # No key at all is no guess: probes and browsers come without one.
        wait_s = self._wrong_keys.count(_address(scope)) if is_guess else None
        if wait_s is not None:
            return _Refusal(429, "too_many_wrong_keys", "too many wrong keys from this address", wait_s)
        return _Refusal(403, "access_denied", "the header X-API-Key is missing or wrong")

    def _is_public(self, scope: Scope) -> bool:
        path = _own_path(scope)
        is_reading = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        return is_reading and (path in self._public_paths or path.startswith(self._public_prefixes or ("\0",)))


class _WrongKeys:
    """Counts wrong keys by address, in minutes that begin with the first one."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._minutes: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str) -> float | None:
        """Count one; the seconds to wait when there were too many, else None."""
        now = time.monotonic()
        begun, count = self._minutes.get(address, (now, 0))
        if now - begun >= MINUTE_S:
            begun, count = now, 0
            self._minutes.pop(address, None)
        self._minutes[address] = (begun, count + 1)
        if len(self._minutes) > MOST_ADDRESSES:
            self._minutes.popitem(last=False)
        return begun + MINUTE_S - now if count >= self._per_minute else None


def _own_path(scope: Scope) -> str:
    """The path without the prefix that a proxy put in front of it."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


def _secrets(scope: Scope) -> list[bytes]:
    """The keys a request carries: in ``X-API-Key``, and only where there is none, in ``Authorization``."""
    own, bearer = [], []
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            own.append(value.strip())
        elif name == b"authorization":
            scheme, _, given = value.partition(b" ")
            if scheme.lower() == b"bearer":
                bearer.append(given.strip())
    return own or bearer


def _address(scope: Scope) -> str:
    """Whom a wrong key is counted for: an IPv4 address, or an IPv6 network of the size one customer has."""
    host = str((scope.get("client") or ("unknown",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address.packed, IPV6_PREFIX), strict=False))
    return host


def _is_of_a_foreign_page(scope: Scope, allowed_origins: Collection[str]) -> bool:
    """Whether a web page of another site may have made this request.

    A page that had its own name resolved to this machine (DNS rebinding) shows that name in ``Host``; a page that calls
    this machine shows itself in ``Origin``, or in ``Sec-Fetch-Site`` where a browser leaves that out.
    """
    headers: dict[bytes, str] = {name: value.decode("latin-1").strip() for name, value in scope["headers"]}
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    if origin is not None and origin in allowed_origins:
        return False
    if host and not _is_local_name(host):
        return True
    if origin is not None:
        return urlsplit(origin).netloc.lower() != host.lower()
    return headers.get(b"sec-fetch-site") == "cross-site" and headers.get(b"sec-fetch-mode") != "navigate"


def _is_local_name(host: str) -> bool:
    """Whether a ``Host`` can only be this machine's: an address, or a name that no public DNS has."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return True
    name = host.rpartition(":")[0] or host
    # Names without a dot are those of containers and of local networks.
    return "." not in name or name.lower().endswith(".localhost")


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: _Refusal) -> None:
    scope.setdefault("state", {})["code"] = refusal.code
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.code})
        return
    problem: dict[str, Any] = {"type": "about:blank", "title": refusal.code, "status": refusal.status}
    problem |= {"detail": refusal.detail, "code": refusal.code}
    request_id = scope["state"].get("request_id")
    if request_id is not None:
        problem["request_id"] = request_id
    body = json.dumps(problem).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(refusal.retry_after_s)).encode()))
    if scope["method"] not in {"GET", "HEAD"}:
        # The body was not read, and will not be.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
