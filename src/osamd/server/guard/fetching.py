"""One GET of an image from a checked address, on a separate event loop.

HTTP is parsed in Python, piece by piece. A host that sends a megabyte in one-byte chunks, or endless early hints, would
block the server's event loop for seconds; here it blocks only its own thread, until the fetch times out.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from osamd import __version__
from osamd.errors import BodyTooLargeError, UrlFailedError

if TYPE_CHECKING:
    import ssl

    import httpx2

Result = TypeVar("Result")

FIELD: Final = "image_url"
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
OK: Final = 200
UNAUTHORIZED: Final = 401
# Of a reply with a token.
MOST_TOKEN_BYTES: Final = 64 * 1024
# Number of chunks allowed whatever their size, and bytes per further chunk.
FREE_PIECES: Final = 1000
LEAST_PIECE_BYTES: Final = 256


class UnauthorizedError(Exception):
    """A trusted host does not accept the credentials, which may have expired."""


class OwnLoop(Generic[Result]):
    """Job for a thread: runs a coroutine on a separate event loop; can be cancelled from other threads.

    Args:
        make: creates the coroutine.
    """

    def __init__(self, make: Callable[[], Coroutine[None, None, Result]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None
        self._is_cancelled = False

    def __call__(self) -> Result:
        """Run it.

        Raises:
            UrlFailedError: it was cancelled.
        """
        try:
            return asyncio.run(self._main())
        except asyncio.CancelledError:
            raise UrlFailedError("the fetch was cancelled", field=FIELD) from None

    def cancel(self) -> None:
        """Cancel it, from any thread; does nothing if it has ended."""
        with self._lock, contextlib.suppress(RuntimeError):
            self._is_cancelled = True
            if self._cancel is not None:
                self._cancel()

    async def _main(self) -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        with self._lock:
            if self._is_cancelled or task is None:
                raise asyncio.CancelledError
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        return await self._make()


async def get_image(
    url: "httpx2.URL",
    address: str,
    *,
    context: "ssl.SSLContext",
    most_bytes: int,
    timeout_s: float,
    authorization: str | None = None,
) -> bytes | str:
    """The body of a URL, or the target of its redirect.

    Args:
        url: the URL.
        address: where to connect; certificate and ``Host`` are those of the URL.
        context: the trusted certificates.
        most_bytes: largest body.
        timeout_s: seconds for the whole request.
        authorization: the header, for a host that the operator trusts with it.

    Raises:
        UnauthorizedError: the host does not accept ``authorization``.
        UrlFailedError: the host did not return an image.
        BodyTooLargeError: it has more bytes than allowed.
        TimeoutError: it took too long.
        httpx2.HTTPError: the host could not be reached or does not speak HTTP.
    """
    import httpx2

    headers = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": f"osamd/{__version__}",
        # Label Studio answers 406 to those who take images only.
        "Accept": "image/*, */*;q=0.1",
        # No compression, which would allow decompression bombs.
        "Accept-Encoding": "identity",
    }
    if authorization is not None:
        headers["Authorization"] = authorization
    transport = httpx2.AsyncHTTPTransport(verify=context, trust_env=False)
    # One client per fetch: a pooled connection was made for one name and must not serve another at the same address.
    client = httpx2.AsyncClient(transport=transport, trust_env=False, timeout=timeout_s)
    async with (
        asyncio.timeout(timeout_s),
        client,
        client.stream(
            "GET",
            url.copy_with(host=address),
            headers=headers,
            follow_redirects=False,
            # The certificate must match the host name, not the address.
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        ) as response,
    ):
        if response.status_code in REDIRECTS and "location" in response.headers:
            return response.headers["location"]
        if response.status_code == UNAUTHORIZED and authorization is not None:
            raise UnauthorizedError
        if response.status_code != OK or response.headers.get("content-encoding", "identity") != "identity":
            raise UrlFailedError("the URL did not return an image", field=FIELD)
        return await _read(response, most_bytes)


async def post_json(
    url: "httpx2.URL", body: Mapping[str, str], *, context: "ssl.SSLContext", timeout_s: float
) -> Mapping[str, Any]:
    """Send JSON to a host that the operator trusts.

    Args:
        url: the URL.
        body: what to send.
        context: the trusted certificates.
        timeout_s: seconds for the whole request.

    Returns:
        Its reply; empty if it does not return an object.

    Raises:
        UrlFailedError: its reply is not a success, or too large.
        TimeoutError: it took too long.
        httpx2.HTTPError: it could not be reached or does not speak HTTP.
    """
    import httpx2

    transport = httpx2.AsyncHTTPTransport(verify=context, trust_env=False)
    client = httpx2.AsyncClient(transport=transport, trust_env=False, timeout=timeout_s)
    headers = {"User-Agent": f"osamd/{__version__}", "Accept-Encoding": "identity"}
    async with (
        asyncio.timeout(timeout_s),
        client,
        client.stream("POST", url, json=dict(body), headers=headers, follow_redirects=False) as response,
    ):
        if not response.is_success:
            raise UrlFailedError(f"the server answered {response.status_code}")
        content = await _read(response, MOST_TOKEN_BYTES)
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


async def _read(response: "httpx2.Response", most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    received = 0
    declared = response.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > most_bytes:
        raise _too_large(most_bytes)
    async for piece in response.aiter_raw():
        received += len(piece)
        if received > most_bytes:
            raise _too_large(most_bytes)
        pieces.append(piece)
        if len(pieces) > FREE_PIECES + received // LEAST_PIECE_BYTES:
            raise UrlFailedError("the image was sent in too many chunks", field=FIELD)
    return b"".join(pieces)


def _too_large(most_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the image exceeds the limit of {most_bytes:,} bytes", field=FIELD)
