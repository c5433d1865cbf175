"""``/metrics``: what is counted, who may read it, and that nothing secret is in what a server tells of itself."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from asking import GENERATE
from prometheus_client.parser import text_string_to_metric_families
from serving import KEY, RunningServer, run_server
from waiting import WAIT_S

from osamd.events import (
    ModelLoaded,
    ModelPulled,
    ModelUnloaded,
    PullFailed,
    PullProgress,
    PullStarted,
    RequestDone,
)
from osamd.runtime.nvidia import DeviceMemory
from osamd.server.telemetry.metrics import Metrics, _Counters
from osamd.status import CacheStatus, EngineStatus, LaneStatus, MemoryStatus

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
USER = "user-key-9kQz-Wm41"
STATUS = EngineStatus(
    state="ready",
    lanes=(LaneStatus("encode", waiting=3, capacity=16, running=1, hung=0),),
    cache=CacheStatus(entries=2, nbytes=700, capacity_bytes=1000),
    residents=(),
    pulling=("sam2:tiny",),
    masks=MemoryStatus(held=600, capacity=900, waiting=2, refused=5),
)


def samples_of(text: str) -> Samples:
    """Every sample by name and labels, read by Prometheus' own parser."""
    return {
        (sample.name, frozenset((k, v) for k, v in sample.labels.items() if (k, v) != ("door", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample's value; 0 where it is not there."""
    return samples.get((name, frozenset(labels.items())), 0.0)


def counted(*events: object) -> Samples:
    """What is told after these events."""
    metrics = Metrics()
    for event in events:
        metrics(event)  # type: ignore[arg-type]
    return samples_of(metrics.render(STATUS, [DeviceMemory("cuda:0", 100, 40)]).decode())


def done(**fields: object) -> RequestDone:
    """A request that was answered."""
    return RequestDone(**({"method": "POST", "path": "/p", "status": 200, "seconds": 0.3, "request_id": "i"} | fields))  # type: ignore[arg-type]


def test_requests_are_counted_by_route_and_key() -> None:
    """The template of the path, not the path: a label has few values."""
    samples = counted(
        done(route="/api/images/{image_id}", path="/api/images/1", key_name="alice", method="DELETE"),
        done(route="/api/images/{image_id}", path="/api/images/2", key_name="alice", method="DELETE"),
        done(route="/api/images/{image_id}", key_name="alice", method="DELETE", door="roboflow"),
        done(path="/made/up", method="MADEUP", status=404, code="not_found"),
    )

    labels = {"route": "/api/images/{image_id}", "method": "DELETE", "status": "200", "key": "alice"}
    assert 2.0 == value(samples, "osamd_requests_total", **labels)
    assert 1.0 == value(samples, "osamd_requests_total", **(labels | {"door": "roboflow"}))
    assert 1.0 == value(samples, "osamd_requests_total", route="unmatched", method="other", status="404", key="")
    assert 1.0 == value(samples, "osamd_refusals_total", code="not_found")


def test_stages_and_lookups_are_counted_by_model() -> None:
    """Where the time went, and how often an image was known already."""
    samples = counted(
        done(route="/g", model="m:1", cache="miss", stages={"encode": 0.2}),
        done(route="/g", model="m:1", cache="hit", stages={}),
    )

    assert 0.2 == value(samples, "osamd_stage_seconds_sum", stage="encode", model="m:1")
    assert 2.0 == value(samples, "osamd_request_seconds_bucket", route="/g", model="m:1", le="0.5")
    assert 0.0 == value(samples, "osamd_request_seconds_bucket", route="/g", model="m:1", le="0.25")
    assert 1.0 == value(samples, "osamd_embedding_lookups_total", model="m:1", result="hit")
    assert 1.0 == value(samples, "osamd_embedding_lookups_total", model="m:1", result="miss")


def test_models_and_pulls_are_counted() -> None:
    """Loads, their time, and only bytes that really came over the net."""

    def progress(completed: int, status: str) -> PullProgress:
        return PullProgress("m:1", "encoder", "d", 100, completed, status)  # type: ignore[arg-type]

    samples = counted(
        PullStarted("m:1", "MIT", ""),
        progress(30, "downloading"),
        progress(70, "downloading"),
        progress(100, "downloading"),
        progress(100, "done"),
        ModelPulled("m:1"),
        PullFailed("m:2", "no"),
        ModelLoaded("m:1", "cpu", 1.5),
        ModelUnloaded("m:1"),
    )

    assert 70.0 == value(samples, "osamd_pulled_bytes_total")
    assert 1.0 == value(samples, "osamd_pulls_total", model="m:1", result="pulled")
    assert 1.0 == value(samples, "osamd_pulls_total", model="m:2", result="failed")
    assert 1.0 == value(samples, "osamd_model_loads_total", model="m:1")
    assert 1.5 == value(samples, "osamd_model_load_seconds_total", model="m:1")
    assert 1.0 == value(samples, "osamd_model_unloads_total", model="m:1")


def test_the_moment_is_told() -> None:
    """Queues, memory and devices as they are when somebody asks."""
    samples = counted()

    assert 1.0 == value(samples, "osamd_ready")
    assert 3.0 == value(samples, "osamd_lane_waiting", lane="encode")
    assert [600.0, 900.0, 2.0, 5.0] == [
        value(samples, f"osamd_mask_memory_{name}") for name in ("bytes", "capacity_bytes", "waiting", "refused_total")
    ]
    assert 1.0 == value(samples, "osamd_lane_running", lane="encode")
    assert 700.0 == value(samples, "osamd_embedding_bytes")
    assert 1.0 == value(samples, "osamd_model_pulling", model="sam2:tiny")
    assert 40.0 == value(samples, "osamd_device_memory_used_bytes", device="cuda:0")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose counts no other test changes, with a user beside the admin."""
    folder = tmp_path_factory.mktemp("watched")
    keys = folder / "keys"
    keys.write_text(f"alice user {USER}\n", "ascii")
    keys.chmod(0o600)
    with run_server(cache=folder, env={"API_KEY": KEY, "API_KEY_FILE": str(keys)}) as running:
        yield running


def scrape(running: RunningServer) -> Samples:
    """What it tells an admin."""
    with running.client() as client:
        answer = client.get("/metrics")
    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]
    return samples_of(answer.text)


def test_a_request_is_seen_in_metrics_and_log(watched: RunningServer, photo: bytes) -> None:
    """Counted by key and model, and one line of JSON on stdout tells who, what, how long and from where."""
    before = scrape(watched)
    with watched.client(headers={"X-API-Key": USER, "X-Request-Id": "seen-1"}) as client:
        assert 200 == client.post(GENERATE, content=photo, params={"point": "225,150"}).status_code
        assert 422 == client.post(GENERATE, content=b"no image").status_code
    after = scrape(watched)

    def grew(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert 1.0 == grew("osamd_requests_total", route=GENERATE, method="POST", status="200", key="alice")
    assert 1.0 == grew("osamd_embedding_lookups_total", model="builtin:latest", result="miss")
    assert 1.0 == grew("osamd_stage_seconds_count", stage="encode", model="builtin:latest")
    assert 1.0 == grew("osamd_refusals_total", code="invalid_image")
    assert 1.0 == value(after, "osamd_embeddings")
    assert 1.0 == value(after, "osamd_build_info", version="0.1.0", python=_python(after))
    assert value(after, "process_resident_memory_bytes") > 1e7
    line = json.loads(watched.log_line('"request_id": "seen-1"', '"status": 200'))
    assert ("alice", "builtin:latest", "miss", "cpu") == tuple(
        line[name] for name in ("key_name", "model", "cache", "device")
    )
    assert {"receive", "parse", "queue", "decode_image", "encode", "decode", "mask", "reply"} == set(line["stages"])


def _python(samples: Samples) -> str:
    (labels,) = (dict(labels) for name, labels in samples if name == "osamd_build_info")
    return labels["python"]


@pytest.mark.parametrize(("key", "status", "code"), [(None, 403, "access_denied"), (USER, 403, "admin_only")])
def test_only_admins_read_metrics(watched: RunningServer, key: str | None, status: int, code: str) -> None:
    """Names of keys and models are not everybody's business."""
    with watched.client(headers={"X-API-Key": key} if key else {}) as client:
        answer = client.get("/metrics")

    assert (status, code) == (answer.status_code, answer.json()["code"])


def sensitive(photo: bytes) -> dict[str, bytes]:
    """What must never be seen: keys, pieces of the image as bytes and as base64, and words of a prompt."""
    return {
        "admin's key": KEY.encode(),
        "user's key": USER.encode(),
        "image": photo[1000:1024],
        "image in base64": base64.b64encode(photo)[1200:1240],
        "prompt": b"secret-words-of-a-prompt",
    }


def talk(client: httpx2.Client, photo: bytes) -> None:
    """Requests of every kind, good and bad, with sensitive things wherever a client may put them."""
    encoded = base64.b64encode(photo).decode()
    client.post(GENERATE, json={"image": encoded, "prompt": {"points": [[225, 150]], "point_labels": [1]}})
    client.post(GENERATE, json={"image": encoded[:-5], "prompt": {"points": "secret-words-of-a-prompt"}})
    client.post(GENERATE, content=photo, params={"text": "secret-words-of-a-prompt"})
    client.post(GENERATE, content=photo[:5000])
    client.post(GENERATE, content=b'{"image": "' + encoded.encode() + b'"')
    client.post(GENERATE, files={"image": photo}, data={"request": '{"prompt": {"texts": "secret-words-of-a-prompt"}}'})
    client.post("/api/show", json={"model": "builtin", "secret-words-of-a-prompt": encoded})
    client.get("/nowhere", params={"key": KEY})
    client.get("/metrics", headers={"Authorization": f"Bearer {USER}"})


def test_nothing_sensitive_is_told(tmp_path: Path, photo: bytes) -> None:
    """Neither metrics nor a debug log have keys, image bytes or prompts in them, in JSON and in text."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice user {USER}\n", "ascii")
    keys.chmod(0o600)
    for form in ("json", "text"):
        env = {"API_KEY": KEY, "API_KEY_FILE": str(keys), "OSAMD_LOG_LEVEL": "debug", "OSAMD_LOG_FORMAT": form}
        with run_server(cache=tmp_path, env=env) as running:
            for key in (KEY, USER):
                with running.client(headers={"X-API-Key": key}) as client:
                    talk(client, photo)
            with running.client() as client:
                metrics = client.get("/metrics").content
            running.log_line("/metrics", "200")
        told = metrics + running.log.read_bytes()
        # Something was told at all.
        assert re.search(rb"/api/generate.* 200 ", told)
        assert {} == {name: piece for name, piece in sensitive(photo).items() if piece in told}


def test_events_do_not_wait_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is imported events are kept, not held up, and counted afterwards."""
    metrics, passed = Metrics(), []
    made = _Counters

    def slow() -> _Counters:
        thread = threading.Thread(target=metrics, args=(ModelUnloaded("m:1"),), daemon=True)
        thread.start()
        thread.join(WAIT_S)
        passed.append(not thread.is_alive())
        return made()

    monkeypatch.setattr("osamd.server.telemetry.metrics._Counters", slow)
    samples = samples_of(metrics.render(STATUS).decode())
    assert [True] == passed
    assert 1.0 == value(samples, "osamd_model_unloads_total", model="m:1")
