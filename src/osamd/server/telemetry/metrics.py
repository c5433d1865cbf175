"""The sink that counts, and what it has counted in Prometheus' text form.

Every label has few values: routes as templates, models by their full names, keys by the names the operator gave them.
"""

import platform
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from osamd import __version__
from osamd.events import (
    ConnectionCut,
    Event,
    MemoryRanOut,
    ModelLoaded,
    ModelPulled,
    ModelUnloaded,
    PullFailed,
    PullProgress,
    RequestDone,
    WorkerHung,
)
from osamd.runtime.nvidia import DeviceMemory
from osamd.status import EngineStatus

if TYPE_CHECKING:
    # Only its types: /health must not wait for a library that the first request can do without.
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STAGE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Events after which the library is loaded where no lifespan did that, as in an app mounted below another one; and the
# most that are kept where it cannot be.
EARLY_EVENTS: Final = 100
MOST_EARLY_EVENTS: Final = 10_000
# What a caller makes up is not a label.
OTHER: Final = "other"


class Metrics:
    """Counts events. Safe to call from any thread; keeps them until its library is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._early: deque[Event] = deque(maxlen=MOST_EARLY_EVENTS)
        self._counters: _Counters | None = None

    def __call__(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            if self._counters is not None:
                self._counters.count(event)
                return
            self._early.append(event)
            is_due = len(self._early) == EARLY_EVENTS
        if is_due:
            threading.Thread(target=self.load, name="osamd-metrics", daemon=True).start()

    def load(self) -> "_Counters":
        """Import the library, and count what has happened so far. Takes a tenth of a second, so not on a loop."""
        # Made before the lock is taken, which the loop takes with every event; of two that are made, one is kept.
        counters = self._counters or _Counters()
        with self._lock:
            if self._counters is None:
                self._counters = counters
                for event in self._early:
                    self._counters.count(event)
                self._early.clear()
            return self._counters

    def render(self, status: EngineStatus, memory: Iterable[DeviceMemory] = ()) -> bytes:
        """Everything counted, and how things are now, in Prometheus' text form 0.0.4."""
        from prometheus_client import CollectorRegistry, generate_latest

        counters = self.load()
        now = CollectorRegistry(auto_describe=False)
        now.register(_Now(status, tuple(memory)))
        return generate_latest(counters.registry) + generate_latest(now)

    def families(self, status: EngineStatus, memory: Iterable[DeviceMemory] = ()) -> Iterator["Metric"]:
        """All metrics with their names, kinds and descriptions."""
        yield from self.load().registry.collect()
        yield from _Now(status, tuple(memory)).collect()


class _Counters:
    """What only grows."""

    def __init__(self) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Histogram,
            ProcessCollector,
            disable_created_metrics,
        )

        # A series for each series, to say when it began, is half of all and used by nobody here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "osamd_requests",
            "HTTP requests answered. `key` is the name of the caller's key, empty where none was wanted or right.",
            ("route", "method", "status", "key"),
            registry=registry,
        )
        self._seconds = Histogram(
            "osamd_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("route", "model"),
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._stages = Histogram(
            "osamd_stage_seconds",
            "Seconds in each stage of a request, as in Server-Timing.",
            ("stage", "model"),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self._refusals = Counter(
            "osamd_refusals",
            "Requests answered with an error, and connections cut off, by code.",
            ("code",),
            registry=registry,
        )
        self._lookups = Counter(
            "osamd_embedding_lookups",
            "Images looked up among the embeddings, by whether they were known.",
            ("model", "result"),
            registry=registry,
        )
        self._loads = Counter("osamd_model_loads", "Models loaded.", ("model",), registry=registry)
        self._load_seconds = Counter(
            "osamd_model_load_seconds", "Seconds spent loading models.", ("model",), registry=registry
        )
        self._unloads = Counter("osamd_model_unloads", "Models let go.", ("model",), registry=registry)
        self._pulls = Counter(
            "osamd_pulls", "Pulls that ended, by whether the model came.", ("model", "result"), registry=registry
        )
        self._pulled_bytes = Counter("osamd_pulled_bytes", "Bytes downloaded.", registry=registry)
        self._ran_out = Counter(
            "osamd_out_of_memory", "Times that memory ran out, on the host or the GPU.", ("model",), registry=registry
        )
        self._hung = Counter("osamd_hung_workers", "Workers given up so far.", ("lane",), registry=registry)
        self._completed: dict[str, int] = {}
        # The process's own: memory, CPU seconds, file descriptors, start time.
        ProcessCollector(registry=registry)

    def count(self, event: Event) -> None:
        """Count an event."""
        match event:
            case RequestDone():
                self._count_request(event)
            case ModelLoaded():
                self._loads.labels(event.model).inc()
                self._load_seconds.labels(event.model).inc(event.seconds)
            case ModelUnloaded():
                self._unloads.labels(event.model).inc()
            case PullProgress():
                self._count_bytes(event)
            case ModelPulled():
                self._pulls.labels(event.model, "pulled").inc()
            case PullFailed():
                self._pulls.labels(event.model, "failed").inc()
            case MemoryRanOut():
                self._ran_out.labels(event.model).inc()
            case ConnectionCut():
                self._refusals.labels(event.code).inc()
            case WorkerHung():
                self._hung.labels(event.lane).inc()
            case _:
                pass

    def _count_request(self, event: RequestDone) -> None:
        model = event.model or ""
        method = event.method if event.method in METHODS else OTHER
        self._requests.labels(event.route, method, str(event.status), event.key_name or "").inc()
        self._seconds.labels(event.route, model).observe(event.seconds)
        for stage, seconds in event.stages.items():
            self._stages.labels(stage, model).observe(seconds)
        if event.code is not None:
            self._refusals.labels(event.code).inc()
        if event.cache is not None:
            self._lookups.labels(model, event.cache).inc()

    def _count_bytes(self, event: PullProgress) -> None:
        if event.status == "downloading":
            # The first news tells what an earlier attempt has left; only what comes after it was downloaded now.
            before = self._completed.get(event.digest, event.completed)
            self._pulled_bytes.inc(max(0, event.completed - before))
            self._completed[event.digest] = event.completed
        elif event.status == "done":
            self._completed.pop(event.digest, None)


class _Now:
    """How things are at the moment of asking."""

    def __init__(self, status: EngineStatus, memory: tuple[DeviceMemory, ...]) -> None:
        self._status = status
        self._memory = memory

    def collect(self) -> Iterator["Metric"]:
        """The gauges."""
        from prometheus_client.metrics_core import CounterMetricFamily as Counter
        from prometheus_client.metrics_core import GaugeMetricFamily as Gauge

        status = self._status
        build = Gauge("osamd_build_info", "Always 1; the labels say what is running.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
        yield Gauge("osamd_ready", "Whether /ready answers 200.", value=int(status.state == "ready"))
        lanes = {
            "waiting": "Jobs that wait for a worker.",
            "capacity": "Jobs that may wait.",
            "running": "Jobs on a worker.",
            "hung": "Workers given up on jobs that do not end.",
        }
        for field, text in lanes.items():
            gauge = Gauge(f"osamd_lane_{field}", text, labels=("lane",))
            for lane in status.lanes:
                gauge.add_metric((lane.name,), getattr(lane, field))
            yield gauge
        yield Gauge("osamd_embeddings", "Embeddings remembered.", value=status.cache.entries)
        yield Gauge("osamd_embedding_bytes", "Memory of the embeddings remembered.", value=status.cache.nbytes)
        yield Gauge("osamd_embedding_capacity_bytes", "Memory embeddings may have.", value=status.cache.capacity_bytes)
        if status.masks is not None:
            yield Gauge("osamd_mask_memory_bytes", "Memory held for masks and replies.", value=status.masks.held)
            yield Gauge(
                "osamd_mask_memory_capacity_bytes", "Memory masks and replies may have.", value=status.masks.capacity
            )
            yield Gauge("osamd_mask_memory_waiting", "Requests that wait for it.", value=status.masks.waiting)
            yield Counter("osamd_mask_memory_refused", "Requests refused for want of it.", value=status.masks.refused)
        resident = Gauge("osamd_model_bytes", "Files of each loaded model.", labels=("model", "device"))
        for item in status.residents:
            resident.add_metric((item.model.name, item.device), item.nbytes)
        yield resident
        pulling = Gauge("osamd_model_pulling", "1 for each model on its way here.", labels=("model",))
        for name in status.pulling:
            pulling.add_metric((name,), 1)
        yield pulling
        used = Gauge("osamd_device_memory_used_bytes", "Memory of the GPU in use, by anybody.", labels=("device",))
        total = Gauge("osamd_device_memory_total_bytes", "Memory of the GPU.", labels=("device",))
        for device in self._memory:
            used.add_metric((device.device,), device.used)
            total.add_metric((device.device,), device.total)
        yield from (used, total)
