"""Images by URL: fetched for a caller, and from nowhere that the operator did not allow.

A name is resolved once, every address it has is checked, and the connection is made to a checked address, so that a
name that changes its mind in between (DNS rebinding) changes nothing. Redirects are new URLs and checked as such.
"""

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from osamd.engine.lanes import MOST_HUNG, Lane
from osamd.errors import OverloadedError, UrlFailedError, UrlRefusedError
from osamd.events import Event, WorkerHung
from osamd.server.guard.addresses import may_connect
from osamd.server.guard.fetching import FIELD, OwnLoop, get_image
from osamd.server.guard.shares import Shares
from osamd.settings import Settings
from osamd.status import LaneStatus
from osamd.timings import Timings

if TYPE_CHECKING:
    import ssl

    import httpx2

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MOST_REDIRECTS: Final = 3
# More are not tried: the caller waits.
MOST_ADDRESSES: Final = 3
PORTS: Final = {"http": 80, "https": 443}


class RemoteImages:
    """Fetches images. Belongs to one event loop.

    Args:
        settings: which URLs, how many at once, how large and how slow.
        resolve: the addresses of a name and port; None asks the system.
        emit: told about every event.
    """

    def __init__(
        self, settings: Settings, *, resolve: Resolve | None = None, emit: Callable[[Event], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._networks = tuple(ipaddress.ip_network(network) for network in settings.url_networks)
        self._resolve = resolve
        # Of its own: a name server that does not answer must hold up nobody else's work.
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
        """Whether so many fetches do not end that only a new process helps."""
        return any(lane.hung >= MOST_HUNG for lane in (self._lane, self._fetches))

    def status(self) -> tuple[LaneStatus, ...]:
        """The queues of names to look up and of images to fetch at this moment."""
        return self._lane.status(), self._fetches.status()

    async def fetch(self, text: str, *, owner: str = "") -> bytes:
        """The bytes behind a URL.

        Args:
            text: the URL.
            owner: for whom (the key's name); no key has all places.

        Raises:
            UrlRefusedError: it, or where it leads, is not one of those that may be fetched.
            UrlFailedError: it could not be fetched.
            BodyTooLargeError: it has more bytes than allowed.
            OverloadedError: too many are being fetched.
        """
        if not self._settings.url_hosts:
            raise UrlRefusedError("images are not fetched here: send the image itself", field=FIELD)
        if self._running.total and not self._running.has_room(owner, 1):
            raise OverloadedError(f"limit of {self._settings.url_fetches} images fetched at once reached")
        self._running.add(owner, 1)
        try:
            async with asyncio.timeout(self._settings.url_s):
                return await self._follow(text, owner)
        except TimeoutError:
            raise UrlFailedError(f"the image did not come within {self._settings.url_s:g} s", field=FIELD) from None
        finally:
            self._running.add(owner, -1)

    async def _follow(self, text: str, owner: str) -> bytes:
        if self._context is None:
            # Takes a moment: the import, and reading all certificates.
            self._context = await self._lane.run(_ssl_context, Timings(), owner=owner)
        import httpx2

        try:
            url = httpx2.URL(text)
            for _ in range(MOST_REDIRECTS + 1):
                found = await self._get(url, owner)
                if isinstance(found, bytes):
                    return found
                url = url.join(found)
        # Names that cannot be encoded, too.
        except (httpx2.InvalidURL, UnicodeError):
            raise _refused() from None
        except (httpx2.HTTPError, OSError):
            # Which of them went wrong, and how, is a map of the operator's network.
            raise UrlFailedError("the image could not be fetched", field=FIELD) from None
        raise UrlFailedError(f"more than {MOST_REDIRECTS} redirects", field=FIELD)

    async def _get(self, url: "httpx2.URL", owner: str) -> bytes | str:
        """The body behind a URL, or where it redirects to."""
        import httpx2

        port = self._checked_port(url)
        # As it was matched, and as certificates have it: the spelling for people may stand for another name.
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
        # One bad address among good ones is a sign that somebody tries; and which names there are is nobody's business.
        if not addresses or not all(may_connect(address, self._networks) for address in addresses):
            raise _refused()
        return addresses[:MOST_ADDRESSES]

    async def _ask(self, url: "httpx2.URL", address: str, owner: str) -> bytes | str:
        context, settings = self._context or _ssl_context(), self._settings
        work = OwnLoop(
            lambda: get_image(url, address, context=context, most_bytes=settings.url_bytes, timeout_s=settings.url_s)
        )
        try:
            return await self._fetches.run(work, Timings(), owner=owner)
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def _ask_system(self, host: str, port: int, *, owner: str) -> Sequence[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))

        return await self._lane.run(look_up, Timings(), owner=owner)


def _matches(pattern: str, host: str, port: int, usual_port: int) -> bool:
    """Whether a host and port are meant by ``example.com``, ``*.example.com``, ``example.com:8443`` or ``*``."""
    name, _, wanted_port = pattern.partition(":")
    if port != int(wanted_port or usual_port):
        return False
    return name in {"*", host} or (name.startswith("*.") and host.endswith(name[1:]))


def _ssl_context() -> "ssl.SSLContext":
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)


def _refused() -> UrlRefusedError:
    return UrlRefusedError("images are not fetched from there: its operator allows other URLs", field=FIELD)
