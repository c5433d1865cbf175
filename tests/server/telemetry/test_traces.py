"""Traces: spans of a request and its stages, in the caller's trace, and nothing where nobody asked for them."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from asking import GENERATE
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from serving import KEY, run_server
from threaded import serving
from waiting import WAIT_S

from osamd.events import ModelUnloaded, RequestDone
from osamd.server.telemetry.traces import Traces, otlp_provider, traces_are_wanted

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def spans_of(*events: RequestDone | ModelUnloaded) -> dict[str, ReadableSpan]:
    """The spans of these events by name."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = Traces(lambda: provider)
    for event in events:
        traces(event)
    return {span.name: span for span in exporter.get_finished_spans()}


def done(**fields: object) -> RequestDone:
    """A request that was answered."""
    known = {"method": "POST", "path": "/api/generate", "status": 200, "seconds": 0.5, "request_id": "i"}
    return RequestDone(**(known | {"route": "/api/generate", "begun": 1_700_000_000.0} | fields))  # type: ignore[arg-type]


def test_a_request_and_its_stages_are_spans() -> None:
    """With their times, the stages below the request, the request in the caller's trace."""
    event = done(stages={"encode": 0.25}, stages_begun={"encode": 0.125}, traceparent=TRACEPARENT, model="m:1")

    spans = spans_of(event)

    request, encode = spans["POST /api/generate"], spans["encode"]
    assert request.context is not None
    assert request.parent is not None
    assert encode.parent is not None
    assert (TRACE, PARENT) == (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}")
    assert request.context.span_id == encode.parent.span_id
    assert (1_700_000_000_000_000_000, 1_700_000_000_500_000_000) == (request.start_time, request.end_time)
    assert (1_700_000_000_125_000_000, 1_700_000_000_375_000_000) == (encode.start_time, encode.end_time)
    assert request.attributes is not None
    assert "m:1" == request.attributes["osamd.model"]


def test_failures_are_marked_and_probes_left_out() -> None:
    """A 5xx is an error of ours; a 4xx is the caller's and only names its code."""
    events = [done(status=503, code="overloaded"), done(method="GET", route="/x", status=422, code="invalid_prompt")]
    events += [done(method="GET", path="/ready", route="/ready")]

    spans = spans_of(*events, ModelUnloaded("m:1"))

    assert {"POST /api/generate", "GET /x"} == set(spans)
    assert (False, True) == (spans["POST /api/generate"].status.is_ok, spans["GET /x"].status.is_unset)
    attributes = spans["GET /x"].attributes
    assert attributes is not None
    assert "invalid_prompt" == attributes["error.type"]


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000])
def test_a_broken_parent_begins_a_new_trace(traceparent: str) -> None:
    """A caller's header cannot break anything."""
    assert spans_of(done(traceparent=traceparent))["POST /api/generate"].parent is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetrys_own_variables_decide(
    variables: dict[str, str], *, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no setting of ours beside them."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    assert expected == traces_are_wanted()


def test_without_an_exporter_the_sdk_is_not_imported() -> None:
    """Who does not ask for traces pays nothing for them."""
    program = "import json, sys, osamd.server.app as app; app.create_app(); print(json.dumps(list(sys.modules)))"

    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert not [name for name in json.loads(output) if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A web server that keeps what is sent to it."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, bodies


def test_a_server_sends_its_spans_and_nothing_sensitive(tmp_path: Path, photo: bytes) -> None:
    """What is left when the server stops is sent too; neither key nor image nor prompt is in it."""
    with collector() as (url, bodies):
        env = {"API_KEY": KEY, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        with run_server(cache=tmp_path, env=env) as running, running.client(timeout=WAIT_S) as client:
            headers = {"traceparent": TRACEPARENT, "Content-Type": "image/jpeg"}
            query = {"point": "225,150", "background": "9,7"}
            assert 200 == client.post(GENERATE, content=photo, params=query, headers=headers).status_code
        sent = b"".join(bodies)

    assert bytes.fromhex(TRACE) in sent
    for name in (b"POST /api/generate", b"encode", b"builtin:latest", b"osamd"):
        assert name in sent
    for secret in (KEY.encode(), photo[1000:1024], b"225,150"):
        assert secret not in sent


def test_a_server_answers_without_traces_that_do_not_start(tmp_path: Path, photo: bytes) -> None:
    """A value OpenTelemetry does not know costs the traces, with a warning, and neither readiness nor an answer."""
    env = {
        "API_KEY": KEY,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many",
    }
    with run_server(cache=tmp_path, env=env) as running, running.client() as client:
        assert 200 == client.post(GENERATE, content=photo, params={"point": "225,150"}).status_code
        assert 200 == client.get("/ready").status_code
    assert 1 == running.log_text().count("traces are off: OpenTelemetry could not be started")


def test_a_collector_that_takes_nothing_is_not_waited_for() -> None:
    """Closing ends when its patience does, whatever the exporter waits for."""
    go_on = threading.Event()

    class Stuck(TracerProvider):
        def shutdown(self) -> None:
            go_on.wait()

    traces = Traces(lambda: Stuck(shutdown_on_exit=False))
    assert traces.close(patience_s=0.0)
    traces.load()
    assert not traces.close(patience_s=0.01)
    go_on.set()
    assert traces.close(patience_s=10.0)


def test_nothing_waits_for_the_collector_at_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's end does not send what closing gave up."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    asked: list[object] = []
    monkeypatch.setattr("atexit.register", lambda function, *_: asked.append(function))
    provider = otlp_provider()
    try:
        assert provider.shutdown not in asked
    finally:
        provider.shutdown()
