"""Liveness and readiness, in every state of the models."""

import asyncio
import sys
import time
from pathlib import Path

import httpx2
import pytest
from asking import GENERATE
from pydantic import SecretStr
from serving import KEY, RunningServer, gated_command, run_server, wait_until_answering
from waiting import WAIT_S

from osamd.server.app import create_app
from osamd.settings import Settings

SAM_VIT_B_ENCODER = "3346b9cc551c9902fbf3b203935e933592b22e042365f58321c17fc12641fd6a"

DOORS = list(Settings().doors)
NOTHING_LOADED = {"models": [], "devices": {}, "doors": DOORS}
LOADED = {"models": ["builtin:latest"], "devices": {"builtin:latest": "cpu"}, "doors": DOORS}


def ready_of(running: RunningServer) -> httpx2.Response:
    """What ``/ready`` says to somebody without a key."""
    with running.client(headers={}) as client:
        return client.get("/ready")


def health_of(running: RunningServer) -> int:
    """The status of ``/health`` for somebody without a key."""
    with running.client(headers={}) as client:
        return client.get("/health").status_code


def test_live_before_ready(tmp_path: Path) -> None:
    """``/health`` answers while the model still loads and ``/ready`` says 503; then both are 200."""
    gate = tmp_path / "load"
    command = gated_command("load", gate)
    with run_server(cache=tmp_path, env={"API_KEY": KEY}, command=command, wait_for="/health") as running:
        before = ready_of(running)
        assert (before.status_code, before.json()) == (
            503,
            {"status": "loading", **NOTHING_LOADED},
        )
        assert health_of(running) == 200

        gate.touch()
        wait_until_answering(running, "/ready")
        after = ready_of(running)
        assert (after.status_code, after.json()) == (
            200,
            {"status": "ready", **LOADED},
        )


def test_shutdown_while_a_model_loads(tmp_path: Path) -> None:
    """A server told to stop in the middle of loading stops."""
    gate = tmp_path / "load"
    command = gated_command("load", gate)
    with run_server(cache=tmp_path, env={"API_KEY": KEY}, command=command, wait_for="/health") as running:
        running.process.terminate()
        time.sleep(0.2)
        gate.touch()
        assert running.process.wait(WAIT_S) == 0


def test_nothing_to_preload_is_ready(tmp_path: Path, photo: bytes) -> None:
    """``OSAMD_PRELOAD=none`` is ready at once with no model, and loads on the first request."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none"}
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running, running.client() as client:
        before = ready_of(running)
        assert (before.status_code, before.json()) == (
            200,
            {"status": "ready", **NOTHING_LOADED},
        )
        assert client.post(GENERATE, content=photo).status_code == 200
        assert ready_of(running).json()["models"] == ["builtin:latest"]


def test_model_that_cannot_load_is_never_ready(tmp_path: Path, photo: bytes) -> None:
    """With a model that is not here, ``/ready`` stays 503 and the log names the blob; what is here still answers."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "sam_vit_b, builtin"}
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running, running.client() as client:
        assert client.post(GENERATE, content=photo).status_code == 200
        answer = ready_of(running)
        assert (answer.status_code, answer.json()) == (
            503,
            {"status": "loading", **LOADED},
        )
        assert health_of(running) == 200
        assert "not ready" in running.log_text()
        assert SAM_VIT_B_ENCODER in running.log_text()


def test_unknown_model_to_preload_stops_the_start(tmp_path: Path) -> None:
    """A misspelt name in ``OSAMD_PRELOAD`` is told at once, not by a server that is never ready."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "builtin,biultin"}
    with (
        pytest.raises(RuntimeError, match=r"OSAMD_PRELOAD.*biultin"),
        run_server(cache=tmp_path, env=env, wait_for="/health"),
    ):
        pass


def test_probes_are_quiet(server: RunningServer) -> None:
    """Probes come every few seconds and do not fill the log."""
    for _ in range(3):
        ready_of(server)
        health_of(server)

    assert "GET /health 200" not in server.log_text()
    assert "GET /ready 200" not in server.log_text()


def test_a_server_that_cannot_decode_images_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no decoding process can be started, every photo would be refused."""
    services = create_app(Settings(api_key=SecretStr(KEY), cache=tmp_path, pull="never", preload=())).state.services
    decoder = services.answers._decoder

    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", str(tmp_path / "missing"))
        decoder.start()
        assert ("loading", "could not start a process to decode images: No such file or directory") == (
            services.state,
            decoder.problem,
        )
        assert "loading" == asyncio.run(services.answers.readiness()).state
    # Whoever asks whether it is ready makes it try again, since nobody else would.
    assert "ready" == asyncio.run(services.answers.readiness()).state
    assert ("ready", None) == (services.state, decoder.problem)
    asyncio.run(services.close())


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/openapi.json", "/playground"])
def test_head_has_the_headers_of_get(client: httpx2.Client, path: str) -> None:
    """But for those that name the request or the time; and no body."""
    got, asked = client.get(path), client.head(path)
    apart = {"x-request-id", "date", "server-timing"}

    assert (got.status_code, b"") == (asked.status_code, asked.content)
    assert {name: value for name, value in got.headers.items() if name not in apart} == {
        name: value for name, value in asked.headers.items() if name not in apart
    }
