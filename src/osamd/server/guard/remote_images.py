"""Fetches images by URL for callers, only from where the operator allows (SSRF protection).

A host name is resolved once, all its addresses are checked, and the connection is made to a checked address, which
defeats DNS rebinding. Redirects are checked like new URLs.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from osamd.engine.lanes import MOST_HUNG, Lane
from osamd.errors import OverloadedError, UrlFailedError, UrlRefusedError
from osamd.events import Event, WorkerHung
from osamd.server.guard.addresses import may_connect
from osamd.server.guard.fetching import FIELD, OwnLoop, UnauthorizedError, get_image
from osamd.server.guard.shares import Shares
from osamd.settings import Settings
from osamd.status import LaneStatus
from osamd.timings import Timings

if TYPE_CHECKING:
    import ssl

    import httpx2

Result = TypeVar("Result")
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MOST_REDIRECTS: Final = 3
# More are not tried, since the caller is waiting.
MOST_ADDRESSES: Final = 3
PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Source:
    """A server that the operator named: its address may be private, and it gets credentials, which no other gets.

    Attributes:
        scheme: ``http`` or ``https``.
        host: its name, in ASCII and lower case.
        port: its port.
        authorization: the header; the argument says that the last one was not accepted.
    """

    scheme: str
    host: str
    port: int
    authorization: Callable[[bool], Awaitable[str | None]]

    def has(self, url: "httpx2.URL") -> bool:
        """Whether a URL is exactly on this server."""
        host = url.raw_host.decode("ascii").lower()
        port = url.port or PORTS.get(url.scheme)
        return (url.scheme, host, port) == (self.scheme, self.host, self.port) and not url.userinfo


class RemoteImages:
    """Fetches images. Belongs to one event loop.

    Args:
        settings: allowed URLs, and limits on concurrency, size and time.
        resolve: resolves a name and port to addresses; None asks the system.
        emit: receives every event.
    """

    def __init__(
        self, settings: Settings, *, resolve: Resolve | None = None, emit: Callable[[Event], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._networks = tuple(ipaddress.ip_network(network) for network in settings.url_networks)
        self._resolve = resolve
        # Separate lanes: a name server that does not answer must not delay other work.
        make = functools.partial(
            Lane,
            workers=settings.url_fetches,
            capacity=settings.url_fetches,
            hang_s=settings.hang_s,
            on_hung=lambda lane, hung: emit(WorkerHung(lane, hung)),
            has_spare=True,
        )
        self._lane = make("resolve")
        self._fetches = make("fetch")
        self._context: ssl.SSLContext | None = None
        self._running = Shares(settings.url_fetches)

    @property
    def is_stuck(self) -> bool:
        """Whether so many fetches are hung that only a restart of the process helps."""
        return any(lane.hung >= MOST_HUNG for lane in (self._lane, self._fetches))

    def status(self) -> tuple[LaneStatus, ...]:
        """The current state of the queues of DNS lookups and fetches."""
        return self._lane.status(), self._fetches.status()

    async def fetch(self, text: str, *, owner: str = "", source: Source | None = None) -> bytes:
        """Fetch a URL.

        Args:
            text: the URL.
            owner: the key's name; a single key cannot use all places.
            source: a server that is allowed besides those of the settings.

        Raises:
            UrlRefusedError: it, or a redirect's target, is not allowed.
            UrlFailedError: it could not be fetched.
            BodyTooLargeError: it has more bytes than allowed.
            OverloadedError: too many fetches are running.
        """
        if not self._settings.url_hosts and source is None:
            raise UrlRefusedError("images by URL are not enabled on this server: send the image itself", field=FIELD)
        if self._running.total and not self._running.has_room(owner, 1):
            raise OverloadedError(f"limit of {self._settings.url_fetches} concurrent fetches by URL reached")
        self._running.add(owner, 1)
        try:
            async with asyncio.timeout(self._settings.url_s):
                return await self._follow(text, owner, source)
        except TimeoutError:
            raise UrlFailedError(f"the image was not received within {self._settings.url_s:g} s", field=FIELD) from None
        finally:
            self._running.add(owner, -1)

    async def call(self, make: "Callable[[ssl.SSLContext], Coroutine[None, None, Result]]", *, owner: str) -> Result:
        """Run a request to a server that the operator trusts, on a loop and thread of its own.

        Args:
            make: creates the request; gets the trusted certificates.
            owner: the key's name.
        """
        context = await self._certificates(owner)
        work = OwnLoop(lambda: make(context))
        try:
            return await self._fetches.run(work, Timings(), owner=owner)
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def _certificates(self, owner: str) -> "ssl.SSLContext":
        if self._context is None:
            # On a thread, since importing httpx2 and reading all certificates take a moment.
            self._context = await self._lane.run(_ssl_context, Timings(), owner=owner)
        return self._context

    async def _follow(self, text: str, owner: str, source: Source | None) -> bytes:
        await self._certificates(owner)
        import httpx2

        try:
            url = httpx2.URL(text)
            for _ in range(MOST_REDIRECTS + 1):
                found = await self._get(url, owner, source)
                if isinstance(found, bytes):
                    return found
                url = url.join(found)
        # UnicodeError: host names that cannot be encoded.
        except (httpx2.InvalidURL, UnicodeError):
            raise _refused() from None
        except (httpx2.HTTPError, OSError):
            # Details would reveal the operator's network.
            raise UrlFailedError("the image could not be fetched", field=FIELD) from None
        raise UrlFailedError(f"more than {MOST_REDIRECTS} redirects", field=FIELD)

    async def _get(self, url: "httpx2.URL", owner: str, source: Source | None) -> bytes | str:
        """The body of a URL, or the target of its redirect."""
        if source is not None and source.has(url):
            for renew in (False, True):
                header = await source.authorization(renew)
                with contextlib.suppress(UnauthorizedError):
                    return await self._ask(url, url.host, owner, header)
            raise UrlFailedError("the server does not accept the token", field=FIELD)
        return await self._get_allowed(url, owner)

    async def _get_allowed(self, url: "httpx2.URL", owner: str) -> bytes | str:
        import httpx2

        port = self._checked_port(url)
        # The ASCII form, as matched and as in certificates: the Unicode form may stand for a different name.
        addresses = await self._checked_addresses(url.raw_host.decode("ascii"), port, owner)
        for address in addresses[:-1]:
            try:
                return await self._ask(url, address, owner)
            except httpx2.ConnectError:
                continue
        return await self._ask(url, addresses[-1], owner)

    def _checked_port(self, url: "httpx2.URL") -> int:
        if url.scheme not in self._settings.url_schemes or url.userinfo or not url.host:
            raise _refused()
        port = url.port or PORTS[url.scheme]
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        if not any(_matches(pattern, host, port, PORTS[url.scheme]) for pattern in self._settings.url_hosts):
            raise _refused()
        return port

    async def _checked_addresses(self, host: str, port: int, owner: str) -> Sequence[str]:
        try:
            resolve = self._resolve or functools.partial(self._ask_system, owner=owner)
            addresses = await resolve(host, port)
        except OSError:
            addresses = ()
        # One forbidden address among good ones suggests an attack; and which names exist must not be revealed.
        if not addresses or not all(may_connect(address, self._networks) for address in addresses):
            raise _refused()
        return addresses[:MOST_ADDRESSES]

    async def _ask(self, url: "httpx2.URL", address: str, owner: str, authorization: str | None = None) -> bytes | str:
        settings = self._settings
        return await self.call(
            lambda context: get_image(
                url,
                address,
                context=context,
                most_bytes=settings.url_bytes,
                timeout_s=settings.url_s,
                authorization=authorization,
            ),
            owner=owner,
        )

    async def _ask_system(self, host: str, port: int, *, owner: str) -> Sequence[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))

        return await self._lane.run(look_up, Timings(), owner=owner)


def _matches(pattern: str, host: str, port: int, usual_port: int) -> bool:
    """Whether a host and port match ``example.com``, ``*.example.com``, ``example.com:8443`` or ``*``."""
    name, _, wanted_port = pattern.partition(":")
    if port != int(wanted_port or usual_port):
        return False
    return name in {"*", host} or (name.startswith("*.") and host.endswith(name[1:]))


def _ssl_context() -> "ssl.SSLContext":
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)


def _refused() -> UrlRefusedError:
    return UrlRefusedError("this URL is not on the server's allow-list", field=FIELD)
