"""Events, as frozen records.

The core emits events and does not depend on logging, metrics or HTTP headers; sinks turn events into those.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

logger = logging.getLogger("osamd")

LONGEST_PATH = 200
PROBES = frozenset({"/health", "/ready"})


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model became ready to answer."""

    model: str
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RequestDone:
    """An HTTP request was answered, or its client disconnected.

    Attributes:
        method: as sent.
        path: as sent and unchecked; print it with ``shown_path`` only.
        status: HTTP status of the response.
        seconds: from the head of the request to the end of the response.
        request_id: as in the response.
        code: error code of the response, or None.
        key_name: name of the key it was sent with; None if no key was required or the key was not valid.
        client: the client's address, or None.
        route: the path's template, such as ``/api/images/{image_id}``; ``unmatched`` if there is none.
        model: full name of the model used, or None.
        cache: ``hit`` or ``miss`` if an image was looked up.
        device: where the model ran, or None.
        stages: seconds spent in each stage.
        stages_begun: start of each stage, in seconds from the start of the request.
        begun: start of the request, in seconds since 1970.
        traceparent: the caller's ``traceparent`` header (W3C Trace Context), unchecked; or None.
        door: name of the tool's protocol it used, or None for osamd's own.
    """

    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    code: str | None = None
    key_name: str | None = None
    client: str | None = None
    route: str = "unmatched"
    model: str | None = None
    cache: str | None = None
    device: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    stages_begun: Mapping[str, float] = field(default_factory=dict)
    begun: float = 0.0
    traceparent: str | None = None
    door: str | None = None


PullStatus = Literal["waiting", "downloading", "verifying", "done"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Progress of the pull of one file of a model.

    Attributes:
        model: full name of the model.
        role: the blob's role in the model; attachments have the role of the blob they belong to.
        digest: SHA-256 of the file, hexadecimal.
        total: its size in bytes, or None while unknown.
        completed: bytes downloaded so far.
        status: ``waiting`` for another thread or process that is pulling the same file (with that one's progress),
            ``downloading``, ``verifying`` bytes that were already on disk, or ``done``.
    """

    model: str
    role: str
    digest: str
    total: int | None
    completed: int
    status: PullStatus


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A model was unloaded."""

    model: str


@dataclass(frozen=True, slots=True)
class PullStarted:
    """The pull of a model started."""

    model: str
    license: str
    license_url: str


@dataclass(frozen=True, slots=True)
class ModelPulled:
    """All files of a model were downloaded and verified."""

    model: str


@dataclass(frozen=True, slots=True)
class PullFailed:
    """A model could not be pulled."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class MemoryRanOut:
    """An allocation failed; the work is retried once after unloading idle models.

    Attributes:
        model: full name of the model the work was for.
        reason: the message of the library that failed.
        unloaded: full names of the models that were unloaded.
    """

    model: str
    reason: str
    unloaded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerHung:
    """A computation hung; its request failed and its worker was replaced.

    Attributes:
        lane: name of the lane.
        hung: how many workers of this lane are hung now.
    """

    lane: str
    hung: int


@dataclass(frozen=True, slots=True)
class ConnectionCut:
    """The server closed a connection outside of any request that reached the app.

    Attributes:
        code: ``too_many_connections``, ``head_timeout``, ``head_too_large``, ``not_http``, ``no_tunnels`` for
            CONNECT, ``body_unread`` for a client that was answered and did not finish its body, ``answer_unread`` for
            one that did not read its response.
        client: the client's address, or None.
    """

    code: str
    client: str | None


Event = (
    ModelLoaded
    | ModelUnloaded
    | PullStarted
    | PullProgress
    | ModelPulled
    | PullFailed
    | MemoryRanOut
    | WorkerHung
    | ConnectionCut
    | RequestDone
)
Sink = Callable[[Event], None]


def tell(sinks: Iterable[Sink], event: Event) -> None:
    """Send an event to every sink. A sink that fails is logged, so that reporting cannot fail a request."""
    for sink in sinks:
        try:
            sink(event)
        except Exception:
            logger.exception("a sink failed on %s", type(event).__name__)


def log_event(event: Event) -> None:
    """Sink that writes a line to the log; health probes, which come every few seconds, are logged at DEBUG only."""
    match event:
        case ModelLoaded():
            level, message = logging.INFO, f"loaded {event.model} on {event.device} in {event.seconds * 1e3:.0f} ms"
        case ModelUnloaded():
            level, message = logging.INFO, f"unloaded {event.model}"
        case PullStarted():
            terms = f"{event.license or 'licence unknown'} {event.license_url}".strip()
            level, message = logging.INFO, f"pulling {event.model}, under the licence {terms}"
        case ModelPulled():
            level, message = logging.INFO, f"pulled {event.model}"
        case PullFailed():
            level, message = logging.ERROR, f"could not pull {event.model}: {event.reason}"
        case PullProgress():
            level = logging.INFO if event.status == "done" else logging.DEBUG
            message = f"pull {event.model}: {event.role} {event.status}, {event.completed} bytes"
        case MemoryRanOut():
            gone = ", ".join(event.unloaded) or "nothing"
            level = logging.WARNING
            message = f"out of memory for {event.model}: {event.reason}; unloaded {gone}, retrying once"
        case WorkerHung():
            level = logging.ERROR
            message = f"a computation in the {event.lane} lane hung: replaced its worker, {event.hung} hung now"
        case ConnectionCut() | RequestDone():
            level, message = _http_line(event)
    logger.log(level, "%s", message, extra={"event": event})


def _http_line(event: ConnectionCut | RequestDone) -> tuple[int, str]:
    if isinstance(event, ConnectionCut):
        # Anyone who can connect can cause these, so they must not flood the log.
        return logging.DEBUG, f"closed a connection from={event.client} code={event.code}"
    level = logging.DEBUG if event.path in PROBES else logging.INFO
    # Under overload there are many, and a line takes long to write.
    return level, _request_line(event) if logger.isEnabledFor(level) else ""


def _request_line(event: RequestDone) -> str:
    known = {
        "key": event.key_name,
        "from": event.client,
        "door": event.door,
        "code": event.code,
        "model": event.model,
        "cache": event.cache,
    }
    known |= {name: f"{seconds * 1e3:.1f}ms" for name, seconds in event.stages.items()}
    more = "".join(f" {name}={shown_path(value)}" for name, value in known.items() if value is not None)
    total = f"{event.seconds * 1e3:.0f} ms"
    return f"{event.method} {shown_path(event.path)} {event.status} {total} {event.request_id}{more}"


def shown_path(path: str) -> str:
    """A path made safe for a log: one line, printable, of limited length. Callers without a key can choose it."""
    printable = path.encode("unicode_escape").decode("ascii")
    return printable if len(printable) <= LONGEST_PATH else f"{printable[:LONGEST_PATH]}..."
