"""The tracing sink: a span per request with a child span per stage, through OpenTelemetry.

Needs ``osamd[otel]`` and an exporter configured by OpenTelemetry's standard variables (``OTEL_*``); otherwise
OpenTelemetry is not imported. Spans are created from events when requests are done, so no request waits for them.
"""

import logging
import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from osamd import __version__
from osamd.events import PROBES, Event, RequestDone

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger("osamd")

_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVER_ERROR: Final = 500


def traces_are_wanted() -> bool:
    """Whether an exporter is configured and OpenTelemetry is not switched off."""
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_none = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    return any(os.environ.get(name) for name in ENDPOINTS) and not (is_off or is_none)


def is_installed() -> bool:
    """Whether the extra is installed."""
    try:
        return find_spec("opentelemetry.sdk.trace") is not None and find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        return False


def otlp_provider() -> "TracerProvider":
    """A provider that batches spans to the configured collector; the service name defaults to ``osamd``."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {SERVICE_VERSION: __version__}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        attributes[SERVICE_NAME] = "osamd"
    # Shut down by ``Traces.close``, which has a timeout.
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Traces:
    """Turns ``RequestDone`` into spans, which, like the event, contain no images, prompts or keys.

    Args:
        make_provider: creates the provider; called in the background at the first request.
    """

    def __init__(self, make_provider: Callable[[], "TracerProvider"] = otlp_provider) -> None:
        self._make_provider = make_provider
        self._provider: TracerProvider | None = None
        self._is_off = False

    def load(self) -> "TracerProvider | None":
        """Import OpenTelemetry; None if it cannot be started, for example because of an invalid ``OTEL_*`` variable.

        Takes a tenth of a second, so do not call it on a loop.
        """
        if self._provider is None and not self._is_off:
            try:
                self._provider = self._make_provider()
            # Whatever the reason, a server without traces is better than none.
            except Exception as error:  # noqa: BLE001
                self._is_off = True
                logger.warning(
                    "traces are off: OpenTelemetry could not be started: %s: %s", type(error).__name__, error
                )
        return self._provider

    def __call__(self, event: Event) -> None:
        """Trace a request, unless it is a health probe."""
        if isinstance(event, RequestDone) and event.path not in PROBES:
            self._tell(event)

    def close(self, *, patience_s: float) -> bool:
        """Export the remaining spans.

        Args:
            patience_s: seconds to wait for the collector.

        Returns:
            Whether the exporter has ended.
        """
        if self._provider is None:
            return True
        # A separate thread, since the exporter's own timeout may be long.
        thread = threading.Thread(target=self._provider.shutdown, name="osamd-traces", daemon=True)
        thread.start()
        thread.join(patience_s)
        return not thread.is_alive()

    def _tell(self, event: RequestDone) -> None:
        provider = self.load()
        if provider is None:
            return
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = provider.get_tracer("osamd", __version__)
        carrier = {"traceparent": event.traceparent} if event.traceparent is not None else {}
        parent = TraceContextTextMapPropagator().extract(carrier)
        attributes: dict[str, str | int | None] = {
            "http.request.method": event.method,
            "http.route": event.route,
            "http.response.status_code": event.status,
            "osamd.request_id": event.request_id,
            "osamd.key_name": event.key_name,
            "osamd.door": event.door,
            "osamd.model": event.model,
            "osamd.engine.cache": event.cache,
            "osamd.device": event.device,
            "error.type": event.code,
        }
        span = tracer.start_span(
            f"{event.method} {event.route}",
            context=parent,
            kind=trace.SpanKind.SERVER,
            attributes={name: value for name, value in attributes.items() if value is not None},
            start_time=_nanoseconds(event.begun),
        )
        if event.status >= SERVER_ERROR:
            span.set_status(trace.StatusCode.ERROR)
        within = trace.set_span_in_context(span, parent)
        for stage, seconds in event.stages.items():
            begun = event.begun + event.stages_begun.get(stage, 0.0)
            child = tracer.start_span(stage, context=within, start_time=_nanoseconds(begun))
            child.end(_nanoseconds(begun + seconds))
        span.end(_nanoseconds(event.begun + event.seconds))


def _nanoseconds(seconds: float) -> int:
    """Nanoseconds, as in OpenTelemetry, with the microsecond precision of a float."""
    return round(seconds * 1e6) * 1000


def configured_traces() -> Traces | None:
    """The tracing sink if it is configured; warns if it is configured but not installed."""
    if not traces_are_wanted():
        return None
    if not is_installed():
        logger.warning("traces are off: OTEL_* configures them, but the extra is missing: pip install 'osamd[otel]'")
        return None
    return Traces()
