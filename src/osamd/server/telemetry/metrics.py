"""The metrics sink, in Prometheus' text format.

All labels have low cardinality: routes as templates, models by full name, keys by the names that the operator chose.
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
    # Types only: /health must not wait for a library that the first request does not need.
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STAGE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Number of events after which the library is loaded if no lifespan did so, as in a mounted app; and the limit on events
# kept if it cannot be loaded.
EARLY_EVENTS: Final = 100
MOST_EARLY_EVENTS: Final = 10_000
# Label of methods that callers make up.
OTHER: Final = "other"


class Metrics:
    """Counts events. Thread-safe; keeps them until the library is loaded."""

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
        """Import the library and count the events so far. Takes a tenth of a second, so do not call it on a loop."""
        # Created before taking the lock, which the loop takes for every event; if two are created, one is kept.
        counters = self._counters or _Counters()
        with self._lock:
            if self._counters is None:
                self._counters = counters
                for event in self._early:
                    self._counters.count(event)
                self._early.clear()
            return self._counters

    def render(self, status: EngineStatus, memory: Iterable[DeviceMemory] = ()) -> bytes:
        """All counters and gauges in Prometheus' text format 0.0.4."""
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
    """Counters and histograms."""

    def __init__(self) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Histogram,
            ProcessCollector,
            disable_created_metrics,
        )

        # Without the _created series, which would double the output and are not used here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "osamd_requests",
            "HTTP requests answered. `key` is the name of the caller's key, empty if none was needed or valid; `door`"
            " is the tool's protocol, empty for osamd's own.",
            ("route", "method", "status", "key", "door"),
            registry=registry,
        )
        self._seconds = Histogram(
            "osamd_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("route", "model", "door"),
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
            "Image lookups in the embedding cache, by result.",
            ("model", "result"),
            registry=registry,
        )
        self._loads = Counter("osamd_model_loads", "Models loaded.", ("model",), registry=registry)
        self._load_seconds = Counter(
            "osamd_model_load_seconds", "Seconds spent loading models.", ("model",), registry=registry
        )
        self._unloads = Counter("osamd_model_unloads", "Models unloaded.", ("model",), registry=registry)
        self._pulls = Counter("osamd_pulls", "Pulls that ended, by result.", ("model", "result"), registry=registry)
        self._pulled_bytes = Counter("osamd_pulled_bytes", "Bytes downloaded.", registry=registry)
        self._ran_out = Counter(
            "osamd_out_of_memory", "Times that the host or the GPU ran out of memory.", ("model",), registry=registry
        )
        self._hung = Counter(
            "osamd_hung_workers", "Workers abandoned so far because their job hung.", ("lane",), registry=registry
        )
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
        door = event.door or ""
        self._requests.labels(event.route, method, str(event.status), event.key_name or "", door).inc()
        self._seconds.labels(event.route, model, door).observe(event.seconds)
        for stage, seconds in event.stages.items():
            self._stages.labels(stage, model).observe(seconds)
        if event.code is not None:
            self._refusals.labels(event.code).inc()
        if event.cache is not None:
            self._lookups.labels(model, event.cache).inc()

    def _count_bytes(self, event: PullProgress) -> None:
        if event.status == "downloading":
            # The first update includes what an earlier attempt left; only what follows was downloaded now.
            before = self._completed.get(event.digest, event.completed)
            self._pulled_bytes.inc(max(0, event.completed - before))
            self._completed[event.digest] = event.completed
        elif event.status == "done":
            self._completed.pop(event.digest, None)


class _Now:
    """Gauges, collected when scraped."""

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
            "waiting": "Jobs waiting for a worker.",
            "capacity": "Queue capacity in jobs.",
            "running": "Jobs running on a worker.",
            "hung": "Workers abandoned because their job hung.",
        }
        for field, text in lanes.items():
            gauge = Gauge(f"osamd_lane_{field}", text, labels=("lane",))
            for lane in status.lanes:
                gauge.add_metric((lane.name,), getattr(lane, field))
            yield gauge
        yield Gauge("osamd_embeddings", "Embeddings in the memory cache.", value=status.cache.entries)
        yield Gauge("osamd_embedding_bytes", "Memory of the cached embeddings.", value=status.cache.nbytes)
        yield Gauge(
            "osamd_embedding_capacity_bytes", "Memory limit of cached embeddings.", value=status.cache.capacity_bytes
        )
        if status.masks is not None:
            yield Gauge("osamd_mask_memory_bytes", "Memory held for masks and replies.", value=status.masks.held)
            yield Gauge(
                "osamd_mask_memory_capacity_bytes", "Memory limit of masks and replies.", value=status.masks.capacity
            )
            yield Gauge("osamd_mask_memory_waiting", "Requests waiting for mask memory.", value=status.masks.waiting)
            yield Counter(
                "osamd_mask_memory_refused", "Requests refused for lack of mask memory.", value=status.masks.refused
            )
        resident = Gauge("osamd_model_bytes", "File size of each loaded model.", labels=("model", "device"))
        for item in status.residents:
            resident.add_metric((item.model.name, item.device), item.nbytes)
        yield resident
        pulling = Gauge("osamd_model_pulling", "1 for each model being pulled.", labels=("model",))
        for name in status.pulling:
            pulling.add_metric((name,), 1)
        yield pulling
        used = Gauge("osamd_device_memory_used_bytes", "GPU memory in use, by all processes.", labels=("device",))
        total = Gauge("osamd_device_memory_total_bytes", "GPU memory.", labels=("device",))
        for device in self._memory:
            used.add_metric((device.device,), device.used)
            total.add_metric((device.device,), device.total)
        yield from (used, total)
