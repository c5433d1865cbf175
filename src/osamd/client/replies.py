"""Parse the server's answers, and turn its errors into osamd's exceptions."""

import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from osamd import errors
from osamd.errors import BodyTooLargeError, OsamdError, UnreachableError

if TYPE_CHECKING:
    import httpx2

SERVER_ERRORS = 500


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One object in a reply.

    Attributes:
        box: xmin, ymin, xmax, ymax in whole pixels, corners included.
        mask: as received: base64 PNG, RLE, polygons or None.
        score: the model's confidence, 0..1, or None.
        text: the text it matches, or None.
        mask_id: for ``mask_input``, or None.
        prompt_index: which prompt it answers.
        mask_index: which candidate of it, best first.
        predicted_iou: for a chain, the segmenter's estimate of the mask's quality, 0..1; ``score`` is the detector's.
        number: in everything mode, its rank in the order in which masks were found; else None, as the next three.
        point: the click that found it: x, y in pixels.
        stability_score: its stability, 0..1.
        area: pixels of the mask.
    """

    box: tuple[int, int, int, int]
    mask: Any
    score: float | None
    text: str | None
    mask_id: str | None
    prompt_index: int
    mask_index: int
    predicted_iou: float | None = None
    number: int | None = None
    point: tuple[float, float] | None = None
    stability_score: float | None = None
    area: int | None = None

    @property
    def mask_png(self) -> bytes:
        """The mask as PNG bytes; needs ``mask_format="png"``.

        Raises:
            TypeError: the mask has another format.
        """
        if not isinstance(self.mask, str):
            raise TypeError("mask_png needs mask_format='png'")
        return base64.b64decode(self.mask)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far everything mode is.

    Attributes:
        points_total: points of the grid.
        points_tried: points decoded so far.
        points_skipped: points skipped so far because a mask explains them.
        masks: masks found so far, without those replaced by better ones.
        stopped: at the end, why: ``all_points``, ``max_masks``, ``max_seconds`` or ``mask_limit``; None before.
    """

    points_total: int
    points_tried: int
    points_skipped: int
    masks: int
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A reply of ``/api/generate``.

    Attributes:
        model: full name of the model that answered.
        image_id: send it instead of the image next time.
        width: columns of the upright image.
        height: rows of the upright image.
        annotations: the objects found.
        raw: the JSON as received.
        timings_ms: milliseconds by stage, from ``Server-Timing``.
        sent_bytes: of the request's body.
        received_bytes: of the answer's body, as received over the network.
        everything: in everything mode, how it ended; else None.
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
    everything: Progress | None = None


@dataclass(frozen=True, slots=True)
class Handle:
    """A reply of ``/api/embed``."""

    image_id: str
    model: str
    width: int
    height: int
    expires_at: str


def segmentation_of(response: "httpx2.Response") -> Segmentation:
    """The reply of ``/api/generate``."""
    raw = object_of(response)
    try:
        annotations = tuple(map(found_object, raw["annotations"]))
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
            everything=progress_of(raw["everything"]) if "everything" in raw else None,
        )
    except (KeyError, TypeError):
        raise UnreachableError("unexpected answer: is this an osamd server?") from None


def found_object(item: Mapping[str, Any]) -> FoundObject:
    """One annotation of a reply; raises ``KeyError`` if it is none."""
    point = item.get("point")
    return FoundObject(
        box=tuple(item["bounding_box"][side] for side in ("xmin", "ymin", "xmax", "ymax")),
        mask=item.get("mask"),
        score=item.get("score"),
        text=item.get("text"),
        mask_id=item.get("mask_id"),
        prompt_index=item.get("prompt_index", 0),
        mask_index=item.get("mask_index", 0),
        predicted_iou=item.get("predicted_iou"),
        number=item.get("number"),
        point=None if point is None else (point[0], point[1]),
        stability_score=item.get("stability_score"),
        area=item.get("area"),
    )


def handle_of(response: "httpx2.Response") -> Handle:
    """The reply of ``/api/embed``."""
    raw = object_of(response)
    try:
        return Handle(**{name: raw[name] for name in ("image_id", "model", "width", "height", "expires_at")})
    except KeyError:
        raise UnreachableError("unexpected answer: is this an osamd server?") from None


def _server_timing(value: str) -> dict[str, float]:
    """Milliseconds by name; entries in an unexpected form, which a proxy may have added, are left out."""
    timings = {}
    for part in value.split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        for parameter in parameters:
            key, _, duration = parameter.partition("=")
            if key.strip().lower() == "dur":
                with contextlib.suppress(ValueError):
                    timings[name] = float(duration.strip().strip('"'))
    return timings


def _subclasses(root: type[OsamdError]) -> Iterator[type[OsamdError]]:
    for child in root.__subclasses__():
        yield child
        yield from _subclasses(child)


def progress_of(raw: Mapping[str, Any]) -> Progress:
    """The progress of everything mode; raises ``KeyError`` if it is none."""
    return Progress(
        points_total=raw["points_total"],
        points_tried=raw["points_tried"],
        points_skipped=raw["points_skipped"],
        masks=raw["masks"],
        stopped=raw.get("stopped"),
    )


def nothing_of(_: "httpx2.Response") -> None:
    """For calls without a result."""


def object_of(response: "httpx2.Response") -> dict[str, Any]:
    """A JSON object.

    Raises:
        UnreachableError: it is something else.
    """
    try:
        raw = response.json()
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise UnreachableError(f"unexpected answer ({response.status_code}): expected JSON from an osamd server")
    return raw


def models_of(response: "httpx2.Response") -> list[dict[str, Any]]:
    """The models of ``/api/ps``."""
    models: list[dict[str, Any]] = object_of(response).get("models", [])
    return models


def error_of(response: "httpx2.Response") -> OsamdError:
    """The exception for the answer's code; if the answer is not osamd's, ``UnreachableError``, or for a 413 its own."""
    retry_after_s = retry_after(response)
    try:
        problem = json.loads(response.content)
    except ValueError:
        problem = None
    # Gateways answer JSON with a code, too.
    if not isinstance(problem, dict) or "code" not in problem or problem["code"] != problem.get("title"):
        message = f"unexpected {response.status_code} from {response.url.host}, not from osamd"
        if response.status_code == BodyTooLargeError.status:
            return BodyTooLargeError(f"{message}: the proxy or host in front of the server takes no bodies this large")
        return UnreachableError(f"{message}: {response.text.strip()[:200]}", retry_after_s=retry_after_s)
    kind = error_kind(str(problem["code"]))
    detail = str(problem.get("detail", problem["code"]))
    field = problem.get("field")
    request_id = problem.get("request_id")
    if response.status_code >= SERVER_ERRORS and request_id:
        detail = f"{detail} (request {request_id})"
    return kind(errors.with_field(detail, field), field=field, retry_after_s=retry_after_s)


def error_kind(code: str) -> type[OsamdError]:
    """The exception of a code."""
    return {kind.code: kind for kind in _subclasses(OsamdError)}.get(code, OsamdError)


def retry_after(response: "httpx2.Response") -> float | None:
    """Seconds of ``Retry-After``, a number or a date; None if missing or invalid."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
