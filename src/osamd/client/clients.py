"""``Client`` and ``AsyncClient``: the same methods, blocking and for asyncio."""

import asyncio
import math
import os
import re
import time
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, Unpack

import httpx2

from osamd.client.arguments import (
    Call,
    Image,
    Reply,
    SegmentArguments,
    embed_call,
    everything_call,
    forget_call,
    ready_call,
    running_models_call,
    segment_call,
    show_model_call,
)
from osamd.client.replies import Handle, Segmentation
from osamd.client.retries import Attempts
from osamd.client.streams import EverythingUpdate, check_ended, update_of
from osamd.errors import InvalidRequestError, UnreachableError
from osamd.proxies import is_address, proxy_for, tls_context, without_secrets

DEFAULT_URL: Final = "http://127.0.0.1:11368"
DEFAULT_TIMEOUT_S: Final = 150.0
DEFAULT_PATIENCE_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 15.0


Owner = TypeVar("Owner")
Pool = TypeVar("Pool", httpx2.Client, httpx2.AsyncClient)


class _Base(Generic[Owner, Pool]):
    """The common part of both clients: URL, key, proxy, timeouts and retries."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        if math.isnan(patience_s) or patience_s < 0:
            raise ValueError("patience_s must not be negative")
        server = _server(url.strip().rstrip("/").removesuffix("/api/generate"))
        self.url = str(without_secrets(server)).rstrip("/")
        self._patience_s = patience_s
        self._is_closed = False
        # Connections by owner: the process or the event loop.
        self._pools: dict[Owner, Pool] = {}
        self._proxy = proxy_for(server)
        self._options: dict[str, Any] = {
            "base_url": server,
            "headers": _headers(api_key),
            "timeout": httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            "proxy": self._proxy and self._proxy.url,
            "verify": tls_context(server.scheme, self._proxy.url.scheme if self._proxy else ""),
            # osamd reads the environment itself, with errors that name its variables.
            "trust_env": False,
        }

    def __repr__(self) -> str:
        """A repr without the key."""
        return f"{type(self).__name__}({self.url!r})"

    def _attempts(self) -> Attempts:
        if self._is_closed:
            raise RuntimeError("the client is closed")
        return Attempts(self.url, self._proxy, self._patience_s)

    def _pool_of(self, owner: Owner) -> Pool:
        """The owner's connections; those of closed event loops are dropped."""
        if owner not in self._pools:
            for other in list(self._pools):
                if self._has_ended(other):
                    self._pools.pop(other, None)
            self._pools.setdefault(owner, self._open())
        return self._pools[owner]

    def _open(self) -> Pool:
        raise NotImplementedError

    def _has_ended(self, owner: Owner) -> bool:
        raise NotImplementedError


def _headers(api_key: str | None) -> dict[bytes, bytes]:
    key = (api_key or "").strip()
    # The HTTP library's error would contain the key.
    if any(not character.isprintable() for character in key):
        raise InvalidRequestError("the key contains a line break or another control character", field="api_key")
    return {b"X-API-Key": key.encode()} if key else {}


def _server(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if url.scheme not in {"http", "https"} or not is_address(url):
        raise InvalidRequestError(f"expected a URL such as {DEFAULT_URL}, got {_without_password(text)!r}", field="url")
    return url


def _without_password(text: str) -> str:
    """An address that may be none, without what is before ``@``."""
    return re.sub(r"^([^/?#]*//)?[^/?#]*@", r"\1", text)


class Client(_Base[int, httpx2.Client]):
    """A blocking client. Thread-safe, and safe to use in forked processes.

    Args:
        url: the server, with or without ``/api/generate``.
        api_key: sent as ``X-API-Key``.
        timeout_s: seconds to wait for one answer.
        patience_s: seconds to keep retrying while the server is starting, busy or unreachable; 0 tries once.

    Raises:
        InvalidRequestError: the URL is not an ``http://`` or ``https://`` one, or the key has control characters.
        SettingsError: a proxy or certificate variable of the environment is invalid; not used for loopback.
    """

    def __enter__(self) -> Self:
        """Use as a context manager to close the connections."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        self._pool_of(os.getpid()).close()

    def segment(self, image: Image | None = None, **arguments: Unpack[SegmentArguments]) -> Segmentation:
        """Segment an image.

        Args:
            image: a path, encoded bytes or a file object; a NumPy array, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA
                of uint8 or uint16; a Pillow image; an http(s) URL for the server to fetch, if its operator allows
                that; or a data URI. None if ``image_id`` is given.
            arguments: see ``SegmentArguments``.

        Raises:
            RequestError: the request is invalid.
            AccessError: the key is missing or wrong.
            CapacityError: the server is too busy.
            ModelError: the model is missing or failed.
            UnreachableError: no answer.
            OSError: the image's file cannot be read.
        """
        return self._send(segment_call(image, arguments))

    def everything(
        self, image: Image | None = None, **arguments: Unpack[SegmentArguments]
    ) -> Generator[EverythingUpdate]:
        """Find everything in an image, and yield the masks as they are found.

        First the image's ``Handle``, then ``FoundObject`` for each new mask, ``Dropped`` for masks that better ones
        replaced, and ``Progress`` every few points, at last with ``stopped``. Leaving the loop stops the server.

        Args:
            image: as for ``segment``.
            arguments: as for ``segment``; ``everything`` is True by default.

        Raises:
            OsamdError: as ``segment``; once masks have been yielded, it is not retried.
        """
        call = everything_call(image, arguments)
        attempts, pool = self._attempts(), self._pool_of(os.getpid())
        last: EverythingUpdate | None = None
        while True:
            outcome: httpx2.Response | httpx2.RequestError
            try:
                with pool.stream(call.method, call.path, json=call.body, headers=call.headers) as outcome:
                    if outcome.is_success:
                        for line in outcome.iter_lines():
                            last = update_of(line)
                            yield last
                        check_ended(last)
                        return
                    outcome.read()
            except httpx2.RequestError as failure:
                if last is not None:
                    raise UnreachableError("the connection was lost before the last line") from failure
                outcome = failure
            settled = attempts.settle(outcome)
            if isinstance(settled, float):
                time.sleep(settled)

    def embed(self, image: Image, *, model: str | None = None) -> Handle:
        """Embed an image ahead of the first click; takes and raises what ``segment`` does."""
        return self._send(embed_call(image, model))

    def forget(self, image_id: str) -> None:
        """Have the server forget an image; raises as ``segment`` does."""
        self._send(forget_call(image_id))

    def running_models(self) -> list[dict[str, Any]]:
        """The models the server has loaded, from ``/api/ps``; raises as ``segment`` does."""
        return self._send(running_models_call())

    def show_model(self, model: str) -> dict[str, Any]:
        """A model's name, capabilities, licence and files, from ``/api/show``; raises as ``segment`` does."""
        return self._send(show_model_call(model))

    def wait_until_ready(self) -> None:
        """Wait until ``/ready`` succeeds; raises ``UnreachableError`` after ``patience_s``."""
        self._send(ready_call())

    def _send(self, call: Call[Reply]) -> Reply:
        attempts, pool = self._attempts(), self._pool_of(os.getpid())
        while True:
            try:
                outcome: httpx2.Response | httpx2.RequestError = pool.request(
                    call.method, call.path, json=call.body, headers=call.headers
                )
            except httpx2.RequestError as failure:
                outcome = failure
            settled = attempts.settle(outcome, deletes=call.method == "DELETE")
            if isinstance(settled, httpx2.Response):
                return call.read(settled)
            time.sleep(settled)

    def _open(self) -> httpx2.Client:
        return httpx2.Client(**self._options)

    def _has_ended(self, owner: int) -> bool:
        # A forked process has copies of its parent's connections; sharing them would mix up answers.
        return owner != os.getpid()


class AsyncClient(_Base[asyncio.AbstractEventLoop, httpx2.AsyncClient]):
    """The asyncio client; see ``Client``. Each event loop gets its own connections."""

    async def __aenter__(self) -> Self:
        """Use as a context manager to close the connections."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        self._is_closed = True
        await self._pool_of(asyncio.get_running_loop()).aclose()

    async def segment(self, image: Image | None = None, **arguments: Unpack[SegmentArguments]) -> Segmentation:
        """Segment an image; takes and raises what ``Client.segment`` does."""
        return await self._send(segment_call(image, arguments))

    async def everything(
        self, image: Image | None = None, **arguments: Unpack[SegmentArguments]
    ) -> AsyncGenerator[EverythingUpdate, None]:
        """Find everything in an image, and yield the masks as they are found; see ``Client.everything``."""
        call = everything_call(image, arguments)
        attempts, pool = self._attempts(), self._pool_of(asyncio.get_running_loop())
        last: EverythingUpdate | None = None
        while True:
            outcome: httpx2.Response | httpx2.RequestError
            try:
                async with pool.stream(call.method, call.path, json=call.body, headers=call.headers) as outcome:
                    if outcome.is_success:
                        async for line in outcome.aiter_lines():
                            last = update_of(line)
                            yield last
                        check_ended(last)
                        return
                    await outcome.aread()
            except httpx2.RequestError as failure:
                if last is not None:
                    raise UnreachableError("the connection was lost before the last line") from failure
                outcome = failure
            settled = attempts.settle(outcome)
            if isinstance(settled, float):
                await asyncio.sleep(settled)

    async def embed(self, image: Image, *, model: str | None = None) -> Handle:
        """Embed an image ahead of the first click; takes and raises what ``segment`` does."""
        return await self._send(embed_call(image, model))

    async def forget(self, image_id: str) -> None:
        """Have the server forget an image; raises as ``segment`` does."""
        await self._send(forget_call(image_id))

    async def running_models(self) -> list[dict[str, Any]]:
        """The models the server has loaded, as ``/api/ps`` has them; raises as ``segment`` does."""
        return await self._send(running_models_call())

    async def show_model(self, model: str) -> dict[str, Any]:
        """A model's name, capabilities, licence and files, as ``/api/show`` has them; raises as ``segment`` does."""
        return await self._send(show_model_call(model))

    async def wait_until_ready(self) -> None:
        """Return when ``/ready`` says so; raises ``UnreachableError`` when patience ends."""
        await self._send(ready_call())

    async def _send(self, call: Call[Reply]) -> Reply:
        attempts, pool = self._attempts(), self._pool_of(asyncio.get_running_loop())
        while True:
            try:
                outcome: httpx2.Response | httpx2.RequestError = await pool.request(
                    call.method, call.path, json=call.body, headers=call.headers
                )
            except httpx2.RequestError as failure:
                outcome = failure
            settled = attempts.settle(outcome, deletes=call.method == "DELETE")
            if isinstance(settled, httpx2.Response):
                return call.read(settled)
            await asyncio.sleep(settled)

    def _open(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(**self._options)

    def _has_ended(self, owner: asyncio.AbstractEventLoop) -> bool:
        return owner.is_closed()
