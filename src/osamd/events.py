"""What happened, as frozen records, and the stopwatch that travels with a request.

The core emits events and knows no log, no metrics library and no header; sinks turn events into those.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

logger = logging.getLogger("osamd")

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
    """An HTTP request was answered."""

    method: str
    path: str
    status: int
    seconds: float
    request_id: str


Event = ModelLoaded | RequestDone
Sink = Callable[[Event], None]


def log_event(event: Event) -> None:
    """The sink that writes a line to the log. Quiet about health probes, which come every few seconds."""
    match event:
        case ModelLoaded():
            logger.info("loaded %s on %s in %.0f ms", event.model, event.device, event.seconds * 1e3)
        case RequestDone():
            level = logging.DEBUG if event.path in {"/health", "/ready"} else logging.INFO
            logger.log(
                level,
                "%s %s %d %.0f ms %s",
                event.method,
                event.path,
                event.status,
                event.seconds * 1e3,
                event.request_id,
            )
