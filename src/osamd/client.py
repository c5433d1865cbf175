"""The client: ``Client`` and ``AsyncClient`` for an osamd server, with typed errors and patience through a wake-up.

::

    from osamd.client import Client

    with Client("http://127.0.0.1:11368", api_key="...") as client:
        found = client.segment(Path("photo.jpg"), points=[(320, 240)])
        Path("mask.png").write_bytes(found.annotations[0].mask_png)

Built on httpx2, for one API in both worlds; needs neither numpy nor the server's other dependencies.
"""

import asyncio
import base64
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, Unpack, cast

import httpx2

from osamd import errors
from osamd.errors import OsamdError, UnreachableError

DEFAULT_URL: Final = "http://127.0.0.1:11368"
DEFAULT_TIMEOUT_S: Final = 150.0
DEFAULT_PATIENCE_S: Final = 60.0
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 5.0
# What a host answers for a machine that is still waking up, and what osamd answers while it is full or loading.
WAKING_STATUSES: Final = frozenset({502, 503})
# 503s that waiting a minute does not mend.
HOPELESS_CODES: Final = frozenset({"model_unavailable", "model_load_failed"})

Image = bytes | Path | str


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One object in a reply.

    Attributes:
        box: xmin, ymin, xmax, ymax in whole pixels, corners included.
        mask: as it came: base64 PNG, RLE, polygons or None.
        score: the model's confidence, 0..1, or None.
        text: the words it answers, or None.
        mask_id: for ``mask_input``, or None.
        prompt_index: which prompt it answers.
        mask_index: which candidate of it, best first.
    """

    box: tuple[int, int, int, int]
    mask: Any
    score: float | None
    text: str | None
    mask_id: str | None
    prompt_index: int
    mask_index: int

    @property
    def mask_png(self) -> bytes:
        """The mask as PNG bytes, when it was asked for as ``png``.

        Raises:
            TypeError: the mask has another format.
        """
        if not isinstance(self.mask, str):
            raise TypeError("mask_png needs mask_format='png'")
        return base64.b64decode(self.mask)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A reply of ``/api/generate``.

    Attributes:
        model: full name of the model that answered.
        image_id: send it instead of the image next time.
        width: columns of the upright image.
        height: rows of the upright image.
        annotations: the objects found.
        raw: the JSON as it came.
        timings_ms: milliseconds by stage, from ``Server-Timing``.
        sent_bytes: of the request's body.
        received_bytes: of the answer's body, as it came over the network.
    """

    model: str
    image_id: str
    width: int
    height: int
    annotations: tuple[FoundObject, ...]
    raw: Mapping[str, Any]
    timings_ms: Mapping[str, float]
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Handle:
    """A reply of ``/api/embed``."""

    image_id: str
    model: str
    width: int
    height: int
    expires_at: str


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    body: Mapping[str, Any] | None = None


class SegmentArguments(TypedDict, total=False):
    """What ``segment`` takes beside the image.

    Attributes:
        image_id: a handle from an earlier answer, instead of an image.
        model: a model's name; the server's built-in one by default.
        points: x, y in pixels of the upright image.
        labels: one a point, 1 foreground and 0 background; all foreground when left out.
        box: x1, y1, x2, y2 in pixels.
        texts: words, for models that take them.
        mask_input: a ``mask_id`` to refine.
        prompts: several prompts as on the wire, instead of the five above.
        multimask: up to three candidates a prompt, where the model has them.
        mask_layout: ``full`` or ``crop``.
        mask_format: ``png``, ``rle``, ``polygon`` or ``none``.
        include: ``image_embedding``.
    """

    image_id: str | None
    model: str | None
    points: Sequence[Sequence[float]]
    labels: Sequence[int] | None
    box: Sequence[float] | None
    texts: Sequence[str]
    mask_input: str | None
    prompts: Sequence[Mapping[str, Any]] | None
    multimask: bool
    mask_layout: Literal["full", "crop"]
    mask_format: Literal["png", "rle", "polygon", "none"]
    include: Sequence[str]


OPTIONS: Final = ("prompts", "multimask", "mask_layout", "mask_format", "include")


def _generate_call(image: Image | None, arguments: SegmentArguments) -> _Call:
    unknown = set(arguments) - set(SegmentArguments.__annotations__)
    if unknown:
        raise TypeError(f"segment() got unexpected arguments: {', '.join(sorted(unknown))}")
    prompt: dict[str, Any] = {}
    points, labels = arguments.get("points") or (), arguments.get("labels")
    if points:
        prompt["points"] = [list(point) for point in points]
        prompt["point_labels"] = list(labels) if labels is not None else [1] * len(points)
    for name in ("box", "texts"):
        value = arguments.get(name)
        if value:
            prompt[name] = list(cast("Sequence[Any]", value))
    if arguments.get("mask_input") is not None:
        prompt["mask_input"] = arguments["mask_input"]
    body = _image_fields(image, arguments.get("image_id"), arguments.get("model"))
    if prompt:
        body["prompt"] = prompt
    body |= {name: arguments.get(name) for name in OPTIONS if arguments.get(name)}
    return _Call("POST", "/api/generate", body)


def _image_fields(image: Image | None, image_id: str | None, model: str | None) -> dict[str, Any]:
    if (image is None) == (image_id is None):
        raise TypeError("give either image or image_id")
    fields: dict[str, Any] = {} if model is None else {"model": model}
    if image_id is not None:
        return fields | {"image_id": image_id}
    data = image if isinstance(image, bytes) else Path(cast("str | Path", image)).read_bytes()
    return fields | {"image": base64.b64encode(data).decode("ascii")}


def _segmentation(response: httpx2.Response) -> Segmentation:
    raw = _json_object(response)
    try:
        annotations = tuple(
            FoundObject(
                box=tuple(item["bounding_box"][side] for side in ("xmin", "ymin", "xmax", "ymax")),
                mask=item.get("mask"),
                score=item.get("score"),
                text=item.get("text"),
                mask_id=item.get("mask_id"),
                prompt_index=item.get("prompt_index", 0),
                mask_index=item.get("mask_index", 0),
            )
            for item in raw["annotations"]
        )
        return Segmentation(
            model=raw["model"],
            image_id=raw["image_id"],
            width=raw["width"],
            height=raw["height"],
            annotations=annotations,
            raw=raw,
            timings_ms=_server_timing(response.headers.get("server-timing", "")),
            sent_bytes=int(response.request.headers.get("content-length", 0)),
            received_bytes=response.num_bytes_downloaded,
        )
    except (KeyError, TypeError):
        raise UnreachableError("the answer is not one of osamd's") from None


def _handle(response: httpx2.Response) -> Handle:
    raw = _json_object(response)
    try:
        return Handle(**{name: raw[name] for name in ("image_id", "model", "width", "height", "expires_at")})
    except KeyError:
        raise UnreachableError("the answer is not one of osamd's") from None


def _json_object(response: httpx2.Response) -> dict[str, Any]:
    try:
        raw = response.json()
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise UnreachableError(f"the answer ({response.status_code}) is not osamd's JSON")
    return raw


def _server_timing(value: str) -> dict[str, float]:
    timings = {}
    for part in value.split(","):
        name, _, duration = part.strip().partition(";dur=")
        if duration:
            timings[name] = float(duration)
    return timings


def _subclasses(root: type[OsamdError]) -> Iterator[type[OsamdError]]:
    for child in root.__subclasses__():
        yield child
        yield from _subclasses(child)


def _error_of(response: httpx2.Response) -> OsamdError:
    """The error of the tree with the reply's code, or the nearest one for its status."""
    try:
        problem = json.loads(response.content)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        text = response.text.strip()[:200]
        return UnreachableError(f"{response.status_code} from {response.url.host}, which is not osamd's answer: {text}")
    kinds = {kind.code: kind for kind in _subclasses(errors.OsamdError)}
    kind = kinds.get(str(problem["code"]), errors.OsamdError)
    detail = str(problem.get("detail", problem["code"]))
    field = problem.get("field")
    request_id = problem.get("request_id")
    if response.status_code >= 500 and request_id:  # noqa: PLR2004
        detail = f"{detail} (request {request_id})"
    return kind(errors.with_field(detail, field), field=field, retry_after_s=_retry_after(response))


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


class _Patience:
    """Decides whether to try again, and after how long."""

    def __init__(self, patience_s: float) -> None:
        self._until = time.monotonic() + patience_s
        self._pause_s = FIRST_PAUSE_S

    def pause_s(self, error: OsamdError, status: int | None) -> float:
        """Seconds to wait before the next try.

        Raises:
            OsamdError: the error itself, when another try is pointless or patience is at its end.
        """
        is_waking = status in WAKING_STATUSES if status is not None else isinstance(error, UnreachableError)
        pause_s = max(self._pause_s, min(error.retry_after_s or 0.0, LONGEST_PAUSE_S))
        if not is_waking or error.code in HOPELESS_CODES or time.monotonic() + pause_s > self._until:
            raise error
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        return pause_s


def _unreachable(error: httpx2.TransportError, url: str) -> OsamdError:
    if isinstance(error, httpx2.ReadTimeout):
        return errors.DeadlineExceededError(f"no answer from {url} in time")
    return UnreachableError(f"cannot reach {url}: {str(error) or type(error).__name__}")


class _Base:
    """What both clients share: where the server is, and how patient they are."""

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
        self.url = url.rstrip("/").removesuffix("/api/generate")
        self._patience_s = patience_s
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {b"X-API-Key": api_key.strip().encode()} if api_key else {},
            "timeout": httpx2.Timeout(timeout_s, connect=min(timeout_s, 15.0)),
        }

    def __repr__(self) -> str:
        """Without the key."""
        return f"{type(self).__name__}({self.url!r})"


class Client(_Base):
    """A client that blocks.

    Args:
        url: the server, with or without ``/api/generate`` behind it.
        api_key: sent as ``X-API-Key``.
        timeout_s: seconds to wait for one answer.
        patience_s: seconds to keep trying while the server is waking up, full or out of reach; 0 tries once.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        super().__init__(url, api_key=api_key, timeout_s=timeout_s, patience_s=patience_s)
        self._http = httpx2.Client(**self._options)

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
        self._http.close()

    def segment(self, image: Image | None = None, **arguments: Unpack[SegmentArguments]) -> Segmentation:
        """Segment an image.

        Args:
            image: an encoded image or the path of one; None where ``image_id`` is given.
            arguments: see ``SegmentArguments``.

        Raises:
            RequestError: the request cannot be answered as it is.
            AccessError: the key is missing or wrong.
            CapacityError: the server has too much to do.
            ModelError: the model is not there or failed.
            UnreachableError: no answer.
        """
        return _segmentation(self._send(_generate_call(image, arguments)))

    def embed(self, image: Image, *, model: str | None = None) -> Handle:
        """Embed an image ahead of the first click; raises as ``segment`` does."""
        return _handle(self._send(_Call("POST", "/api/embed", _image_fields(image, None, model))))

    def forget(self, image_id: str) -> None:
        """Have the server forget an image; raises as ``segment`` does."""
        self._send(_Call("DELETE", f"/api/images/{image_id}"))

    def running_models(self) -> list[dict[str, Any]]:
        """The models the server has loaded, as ``/api/ps`` has them; raises as ``segment`` does."""
        models: list[dict[str, Any]] = _json_object(self._send(_Call("GET", "/api/ps"))).get("models", [])
        return models

    def wait_until_ready(self) -> None:
        """Return when ``/ready`` says so; raises ``UnreachableError`` when patience ends."""
        self._send(_Call("GET", "/ready"))

    def _send(self, call: _Call) -> httpx2.Response:
        patience = _Patience(self._patience_s)
        while True:
            status = None
            try:
                response = self._http.request(call.method, call.path, json=call.body)
            except httpx2.TransportError as error:
                problem = _unreachable(error, self.url)
            else:
                if response.is_success:
                    return response
                problem, status = _error_of(response), response.status_code
            time.sleep(patience.pause_s(problem, status))


class AsyncClient(_Base):
    """The same for asyncio; see ``Client``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        super().__init__(url, api_key=api_key, timeout_s=timeout_s, patience_s=patience_s)
        self._http = httpx2.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        """Use as a context manager to close the connections."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def segment(self, image: Image | None = None, **arguments: Unpack[SegmentArguments]) -> Segmentation:
        """Segment an image; arguments and errors as in ``Client.segment``."""
        return _segmentation(await self._send(_generate_call(image, arguments)))

    async def embed(self, image: Image, *, model: str | None = None) -> Handle:
        """Embed an image ahead of the first click; raises as ``segment`` does."""
        return _handle(await self._send(_Call("POST", "/api/embed", _image_fields(image, None, model))))

    async def forget(self, image_id: str) -> None:
        """Have the server forget an image; raises as ``segment`` does."""
        await self._send(_Call("DELETE", f"/api/images/{image_id}"))

    async def wait_until_ready(self) -> None:
        """Return when ``/ready`` says so; raises ``UnreachableError`` when patience ends."""
        await self._send(_Call("GET", "/ready"))

    async def _send(self, call: _Call) -> httpx2.Response:
        patience = _Patience(self._patience_s)
        while True:
            status = None
            try:
                response = await self._http.request(call.method, call.path, json=call.body)
            except httpx2.TransportError as error:
                problem = _unreachable(error, self.url)
            else:
                if response.is_success:
                    return response
                problem, status = _error_of(response), response.status_code
            await asyncio.sleep(patience.pause_s(problem, status))
