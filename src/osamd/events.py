"""What happened, as frozen records.

The core emits events and knows no log, no metrics library and no header; sinks turn events into those.
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
    """An HTTP request was answered, or its client went.

    Attributes:
        method: as it was sent.
        path: as it was sent, so print it with ``shown_path`` only.
        status: of the answer.
        seconds: from the head of the request to the end of the answer.
        request_id: in the answer too.
        code: of the error that was answered, or None.
        key_name: whose key it came with; None where no key was wanted or none was right.
        client: the address it came from, or None.
        route: the path's template, such as ``/api/images/{image_id}``; ``unmatched`` where there is none.
        model: full name of the model that was asked, or None.
        cache: ``hit`` or ``miss`` where an image was looked up.
        device: where the model ran, or None.
        stages: seconds in each stage.
        stages_begun: seconds from the beginning of the request to that of each stage.
        begun: when the request began, in seconds since 1970.
        traceparent: the caller's trace, as the header of that name (W3C) has it, unchecked; or None.
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


PullStatus = Literal["waiting", "downloading", "verifying", "done"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far the pull of one file of a model is.

    Attributes:
        model: full name of the model.
        role: the blob's role in the model; attachments have the role of the blob they belong to.
        digest: SHA-256 of the file that is pulled, hexadecimal.
        total: its size in bytes, or None while nobody has said.
        completed: bytes of it that are here.
        status: ``waiting`` for another thread or process that pulls the same file (with that one's progress),
            ``downloading``, ``verifying`` bytes that were on the disk already, or ``done``.
    """

    model: str
    role: str
    digest: str
    total: int | None
    completed: int
    status: PullStatus


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A model was let go."""

    model: str


@dataclass(frozen=True, slots=True)
class PullStarted:
    """A model is being brought here for the first time."""

    model: str
    license: str
    license_url: str


@dataclass(frozen=True, slots=True)
class ModelPulled:
    """All files of a model are here."""

    model: str


@dataclass(frozen=True, slots=True)
class PullFailed:
    """A model could not be brought here."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class MemoryRanOut:
    """Something did not fit into memory; it is tried once more without the models that were idle.

    Attributes:
        model: for which it was.
        reason: as the library that failed says it.
        unloaded: full names of the models that were let go.
    """

    model: str
    reason: str
    unloaded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerHung:
    """A computation did not end; its request was failed and its worker replaced.

    Attributes:
        lane: whose worker it was.
        hung: how many of this lane's workers are in that state now.
    """

    lane: str
    hung: int


@dataclass(frozen=True, slots=True)
class ConnectionCut:
    """A connection ended for a reason that no request of the app shows.

    Attributes:
        code: ``too_many_connections``, ``head_timeout``, ``head_too_large``, ``not_http``, ``no_tunnels`` for
            CONNECT, ``body_unread`` for a client that was answered and did not finish its body, ``answer_unread`` for
            one that did not read.
        client: the address it came from, or None.
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
    """Tell every sink. One that fails is logged: what is told of a request must not decide how it ends."""
    for sink in sinks:
        try:
            sink(event)
        except Exception:
            logger.exception("a sink failed on %s", type(event).__name__)


def log_event(event: Event) -> None:
    """The sink that writes a line to the log. Quiet about health probes, which come every few seconds."""
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
            message = f"out of memory for {event.model}: {event.reason}; let go of {gone}, and try once more"
        case WorkerHung():
            level = logging.ERROR
            message = f"work in the {event.lane} lane does not end: gave its worker up, {event.hung} of them now"
        case ConnectionCut() | RequestDone():
            level, message = _http_line(event)
    logger.log(level, "%s", message, extra={"event": event})


def _http_line(event: ConnectionCut | RequestDone) -> tuple[int, str]:
    if isinstance(event, ConnectionCut):
        # Whoever can connect can cause these, so they must not fill a log.
        return logging.DEBUG, f"cut a connection off from={event.client} code={event.code}"
    return logging.DEBUG if event.path in PROBES else logging.INFO, _request_line(event)


def _request_line(event: RequestDone) -> str:
    known = {
        "key": event.key_name,
        "from": event.client,
        "code": event.code,
        "model": event.model,
        "cache": event.cache,
    }
    known |= {name: f"{seconds * 1e3:.1f}ms" for name, seconds in event.stages.items()}
    more = "".join(f" {name}={shown_path(value)}" for name, value in known.items() if value is not None)
    total = f"{event.seconds * 1e3:.0f} ms"
    return f"{event.method} {shown_path(event.path)} {event.status} {total} {event.request_id}{more}"


def shown_path(path: str) -> str:
    """A path as it may stand in a log: on one line, printable, not endless. Callers without a key choose it."""
    printable = path.encode("unicode_escape").decode("ascii")
    return printable if len(printable) <= LONGEST_PATH else f"{printable[:LONGEST_PATH]}..."
