"""API key authentication for any ASGI app; depends on nothing else in osamd.

::

from osam._server import app as osam_app
from osamd.server.guard.auth import ApiKeyMiddleware

app = ApiKeyMiddleware(osam_app)
"""

import functools
import hashlib
import hmac
import ipaddress
import json
import logging
import math
import os
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from osamd.server.guard import guessing
from osamd.server.guard.guessing import Guesses

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
ReadSecrets = Callable[[Scope], Sequence[bytes]]

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
# The prefix that providers assign to one customer; counting single addresses would allow 2^64 attempts.
IPV6_PREFIX: Final = 64
LONGEST_ADDRESS: Final = 64
# Shorter secrets are refused outside development.
LEAST_SECRET_CHARS: Final = 16
TOO_SHORT: Final = (
    f"a secret shorter than {LEAST_SECRET_CHARS} characters can be guessed; make one with `osamd keys new NAME`"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a key.

    Attributes:
        name: the key's name.
        role: ``admin`` or ``user``.
    """

    name: str
    role: str


class Keys(Protocol):
    """Looks up keys."""

    def find(self, secret: bytes) -> Caller | None:
        """The owner of a secret; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as it is sent.

    Attributes:
        status: HTTP status.
        body: the whole body.
        media_type: of the body.
        headers: further headers.
    """

    status: int
    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


# Turns a problem (RFC 9457) into a reply.
WriteProblem = Callable[[Scope, Mapping[str, Any]], ErrorReply]


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    code: str
    detail: str
    retry_after_s: float | None = None


TOO_MANY_WRONG_KEYS: Final = "too many wrong keys from this address"
DENIED: Final = _Refusal(403, "access_denied", "the header X-API-Key is missing or wrong")
SEVERAL_KEYS: Final = "the request has more than one API key: send only one"
SEVERAL: Final = _Refusal(403, "access_denied", SEVERAL_KEYS)


class ApiKeyMiddleware:
    """Passes requests with a valid key, in ``X-API-Key`` or as ``Authorization: Bearer``.

    If both are sent, ``X-API-Key`` counts; a repeated header is invalid, so that each request is a single guess.

    A missing or wrong key is answered 403. After too many wrong ones from one address, wrong keys from there are
    answered 429, and keys that have not been valid there before are checked with a delay (``guessing``). Without any
    key configured every request is answered 500, naming the variable to set, except in development, where the check is
    off, a warning is logged, and cross-site requests are refused.

    The name of a request's key is stored in ``scope["state"]["key_name"]``, its role in ``key_role``, and the code of a
    refusal in ``code``.

    Args:
        app: the app to guard.
        api_key: the secret of an admin; None reads the environment variable ``API_KEY``.
        app_env: ``development`` allows a missing key; None reads the environment variable ``APP_ENV``.
        keys: more keys.
        public_paths: exact paths that need no key for GET and HEAD.
        public_prefixes: the same for everything below these prefixes, each ending in a slash.
        admin_paths: exact paths for admins only, whatever the method.
        allowed_origins: web pages, such as ``https://example.com``, that may call a server without a key.
        wrong_keys_per_minute: wrong keys per minute from one address.
        read_secrets: extracts the keys from a request; None reads the two headers.
        write_problem: formats a refusal; None formats it as ``application/problem+json``.
        is_public: whether a request needs no key, whatever its method; None means no others.
        is_keyless: whether a request without a key comes from the user ``anonymous``; None means never.

    Raises:
        ValueError: outside development, the secret is shorter than ``LEAST_SECRET_CHARS``.
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
        allowed_origins: Container[str] = (),
        wrong_keys_per_minute: int = WRONG_KEYS_PER_MINUTE,
        read_secrets: ReadSecrets | None = None,
        write_problem: WriteProblem | None = None,
        is_public: Callable[[Scope], bool] | None = None,
        is_keyless: Callable[[Scope], bool] | None = None,
    ) -> None:
        key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        env = os.environ.get(ENVIRONMENT_VARIABLE, "") if app_env is None else app_env
        self._app = app
        # Header values are stripped, so a key with a trailing newline could never be sent.
        key = key.strip()
        is_development = env.strip().lower() == DEVELOPMENT
        if key and is_guessable(key) and not is_development:
            raise ValueError(f"{KEY_VARIABLE}: {TOO_SHORT}")
        self._key = hashlib.sha256(key.encode()).digest() if key else None
        self._keys = keys
        self._is_open = self._key is None and keys is None and is_development
        self._public_paths = frozenset(public_paths)
        self._public_prefixes = tuple(public_prefixes)
        self._admin_paths = frozenset(admin_paths)
        self._allowed_origins = allowed_origins
        self._read_secrets = read_secrets or header_secrets
        self._write_problem = write_problem or _problem_json
        self._is_more_public = is_public or _never
        self._is_keyless = is_keyless or _never
        self._guesses = Guesses(wrong_keys_per_minute)
        if self._is_open:
            logger.warning(
                "%s is not set: development mode, requests need no key. Never do this in production.",
                KEY_VARIABLE,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard HTTP and WebSocket; pass everything else, such as lifespan."""
        if scope["type"] not in {"http", "websocket"} or self._is_public(scope):
            await self._app(scope, receive, send)
            return
        judged = await self._judge(scope)
        if isinstance(judged, _Refusal):
            await _refuse(scope, receive, send, judged, self._write_problem)
            return
        scope.setdefault("state", {}).update(key_name=judged.name, key_role=judged.role)
        await self._app(scope, receive, send)

    async def _judge(self, scope: Scope) -> Caller | _Refusal:
        if self._is_open:
            if _is_of_a_foreign_page(scope, self._allowed_origins):
                detail = "cross-site requests are refused while no API key is set: set API_KEY, or use the server's"
                return _Refusal(403, "foreign_origin", f"{detail} IP address or localhost")
            return Caller(ANONYMOUS, ADMIN)
        if self._key is None and self._keys is None:
            detail = f"the server has no API key: set the environment variable {KEY_VARIABLE}"
            return _Refusal(500, "not_configured", detail)
        caller = await self._caller_of(scope)
        if isinstance(caller, Caller) and caller.role != ADMIN and own_path(scope) in self._admin_paths:
            return _Refusal(403, "admin_only", "this needs a key with the role admin")
        return caller

    async def _caller_of(self, scope: Scope) -> Caller | _Refusal:
        secrets = self._read_secrets(scope)
        if not secrets:
            # Not even through a trusted proxy: the client's address is whatever the proxy was told.
            if self._is_keyless(scope) and not _has_forwarding_header(scope):
                if _is_of_a_foreign_page(scope, self._allowed_origins):
                    detail = "cross-site requests without a key are refused"
                    return _Refusal(403, "foreign_origin", f"{detail}: use the server's IP address or localhost")
                return Caller(ANONYMOUS, USER)
            # A missing key does not count as a guess: probes and browsers send none.
            return DENIED
        address = address_of(scope.get("client"))
        # Several keys are not tried, so that each request is a single guess.
        secret = secrets[0] if len(secrets) == 1 else None
        digest = hashlib.sha256(secret).digest() if secret is not None else None
        if self._guesses.is_slowed(address, digest) and not await self._guesses.wait(address):
            return _Refusal(429, "too_many_wrong_keys", TOO_MANY_WRONG_KEYS, guessing.DELAY_S)
        caller = self._caller(secret, digest) if secret is not None and digest is not None else None
        if caller is not None and digest is not None:
            self._guesses.add_right(address, digest)
            return caller
        wait_s = self._guesses.add_wrong(address, is_forwarded=_is_forwarded(scope))
        # Not whether one of several is right.
        refusal = DENIED if len(secrets) == 1 else SEVERAL
        return refusal if wait_s is None else _Refusal(429, "too_many_wrong_keys", TOO_MANY_WRONG_KEYS, wait_s)

    def _caller(self, secret: bytes, digest: bytes) -> Caller | None:
        # Digests of equal length, compared in constant time, so that timing reveals nothing about the key.
        if self._key is not None and hmac.compare_digest(digest, self._key):
            return Caller(KEY_NAME, ADMIN)
        return None if self._keys is None else self._keys.find(secret)

    def _is_public(self, scope: Scope) -> bool:
        path = own_path(scope)
        is_reading = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        if is_reading and (path in self._public_paths or path.startswith(self._public_prefixes or ("\0",))):
            return True
        return scope["type"] == "http" and self._is_more_public(scope)


def is_guessable(secret: str) -> bool:
    """Whether a secret is too short outside development."""
    return len(secret) < LEAST_SECRET_CHARS


def own_path(scope: Scope) -> str:
    """The path as Starlette routes it: without the prefix of a proxy or mount.

    This module has no dependencies, so it does not use Starlette's function, which is private; a test compares both.
    """
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    rest = path.removeprefix(prefix)
    return rest if prefix and path.startswith(prefix) and (not rest or rest.startswith("/")) else path


def header_secrets(scope: Scope) -> Sequence[bytes]:
    """The keys that a request carries: in ``X-API-Key``, or if there is none, in ``Authorization``."""
    own, bearer = [], []
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            own.append(value.strip())
        elif name == b"authorization":
            scheme, _, given = value.partition(b" ")
            if scheme.lower() == b"bearer":
                bearer.append(given.strip())
    return own or bearer


def address_of(client: Sequence[object] | None) -> str:
    """The client to count something for: an IPv4 address, or an IPv6 network of the size assigned to one customer.

    Args:
        client: address and port, as in ASGI; None if unknown.
    """
    host = str((client or ("unknown",))[0])
    # What a proxy forwards may be anything; addresses are short.
    return _counted(host) if len(host) <= LONGEST_ADDRESS else host


# Parsing an address takes as long as hashing a key, and every request does it twice.
@functools.lru_cache(maxsize=1024)
def _counted(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address.packed, IPV6_PREFIX), strict=False))
    return host


def _is_forwarded(scope: Scope) -> bool:
    """Whether an untrusted proxy forwarded this; for a trusted one the client would have no port."""
    _, port = scope.get("client") or ("", 0)
    return bool(port) and _has_forwarding_header(scope)


def _has_forwarding_header(scope: Scope) -> bool:
    return any(name in {b"x-forwarded-for", b"forwarded"} for name, _ in scope["headers"])


def _is_of_a_foreign_page(scope: Scope, allowed_origins: Container[str]) -> bool:
    """Whether this may be a cross-site request.

    DNS rebinding shows in ``Host``, which has the attacker's host name; other cross-site requests show in ``Origin``,
    or in ``Sec-Fetch-Site`` if the browser omits that.
    """
    headers: dict[bytes, str] = {name: value.decode("latin-1").strip() for name, value in scope["headers"]}
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    if origin is not None and origin in allowed_origins:
        return False
    if host and not _is_local_name(host):
        return True
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() != host.lower()
        except ValueError:
            # Not a URL, such as one with half of an IPv6 address.
            return True
    return headers.get(b"sec-fetch-site") == "cross-site" and headers.get(b"sec-fetch-mode") != "navigate"


def _is_local_name(host: str) -> bool:
    """Whether a ``Host`` cannot come from public DNS: an IP address, or a local name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return True
    name = host.rpartition(":")[0] or host
    # Names without a dot are names of containers and in local networks.
    return "." not in name or name.lower().endswith(".localhost")


def _never(_: Scope) -> bool:
    return False


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: _Refusal, write_problem: WriteProblem) -> None:
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
    reply = write_problem(scope, problem)
    headers = [(b"content-type", reply.media_type.encode()), (b"content-length", str(len(reply.body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(refusal.retry_after_s)).encode()))
    if scope["method"] not in {"GET", "HEAD"}:
        # The body has not been read and will not be.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _problem_json(_: Scope, problem: Mapping[str, Any]) -> ErrorReply:
    return ErrorReply(problem["status"], json.dumps(problem).encode(), "application/problem+json")
