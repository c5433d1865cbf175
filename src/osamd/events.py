"""What happened, as frozen records, and the stopwatch that travels with a request.

The core emits events and knows no log, no metrics library and no header; sinks turn events into those.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger("osamd")

LONGEST_PATH = 200
STAGES = ("receive", "parse", "queue", "decode_image", "encode", "decode", "mask", "reply")


class Timings:
    """Seconds spent in each stage of one request. Safe to write from worker threads."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage; stages that run twice sum up."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def seconds(self) -> Mapping[str, float]:
        """Seconds by stage, in the order a request passes them."""
        with self._lock:
            return {name: self._seconds[name] for name in STAGES if name in self._seconds}

    def server_timing(self) -> str:
        """The value of a ``Server-Timing`` header (W3C), in milliseconds."""
        return ", ".join(f"{name};dur={seconds * 1e3:.2f}" for name, seconds in self.seconds().items())


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
    """

    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    code: str | None = None
    key_name: str | None = None
    client: str | None = None


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


Event = ModelLoaded | ModelUnloaded | PullStarted | PullProgress | ModelPulled | PullFailed | RequestDone
Sink = Callable[[Event], None]


def log_event(event: Event) -> None:
    """The sink that writes a line to the log. Quiet about health probes, which come every few seconds."""
    match event:
        case ModelLoaded():
            logger.info("loaded %s on %s in %.0f ms", event.model, event.device, event.seconds * 1e3)
        case ModelUnloaded():
            logger.info("unloaded %s", event.model)
        case PullStarted():
            terms = f"{event.license or 'licence unknown'} {event.license_url}".strip()
            logger.info("pulling %s, under the licence %s", event.model, terms)
        case ModelPulled():
            logger.info("pulled %s", event.model)
        case PullFailed():
            logger.error("could not pull %s: %s", event.model, event.reason)
        case PullProgress():
            level = logging.INFO if event.status == "done" else logging.DEBUG
            logger.log(level, "pull %s: %s %s, %d bytes", event.model, event.role, event.status, event.completed)
        case RequestDone():
            level = logging.DEBUG if event.path in {"/health", "/ready"} else logging.INFO
            who = {"key": event.key_name, "from": event.client, "code": event.code}
            logger.log(
                level,
                "%s %s %d %.0f ms %s%s",
                event.method,
                shown_path(event.path),
                event.status,
                event.seconds * 1e3,
                event.request_id,
                "".join(f" {name}={shown_path(value)}" for name, value in who.items() if value is not None),
            )


def shown_path(path: str) -> str:
    """A path as it may stand in a log: on one line, printable, not endless. Callers without a key choose it."""
    printable = path.encode("unicode_escape").decode("ascii")
    return printable if len(printable) <= LONGEST_PATH else f"{printable[:LONGEST_PATH]}..."
