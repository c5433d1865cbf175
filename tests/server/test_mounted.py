"""The app mounted below another one, which runs no lifespan of it: keys, pages, metrics and redirects hold there."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import CLICK, GENERATE, click
from fastapi import FastAPI
from pictures import base64_of
from pydantic import SecretStr
from serving import KEY
from starlette.applications import Starlette
from starlette.routing import Mount, Router
from waiting import WAIT_S

from osamd.events import RequestDone
from osamd.server.app import create_app
from osamd.server.telemetry import metrics
from osamd.server.telemetry.metrics import Metrics
from osamd.settings import Settings

PREFIX = "/seg"
WITH_KEY = {"X-API-Key": KEY}


def run_mounted(
    folder: Path, main: Callable[[httpx2.AsyncClient, Starlette], Awaitable[None]], prefix: str = ""
) -> None:
    """Call ``main`` with a client of an app that has ours below ``PREFIX``."""
    inner = create_app(Settings(api_key=SecretStr(KEY), cache=folder, pull="never", threads=1))
    outer = FastAPI()
    outer.mount(PREFIX, inner)

    async def run() -> None:
        transport = httpx2.ASGITransport(app=outer, root_path=prefix)
        base_url = f"http://elsewhere.example{prefix}"
        try:
            async with httpx2.AsyncClient(transport=transport, base_url=base_url) as client:
                await main(client, inner)
        finally:
            await inner.state.services.close()

    asyncio.run(run())


@pytest.mark.parametrize("prefix", ["", "/proxy"])
def test_authentication_and_answers_work_when_mounted(tmp_path: Path, photo: bytes, prefix: str) -> None:
    """Public and guarded routes stay so, and a click is answered, also behind a proxy's prefix."""
    body = {"image": base64_of(photo), "prompt": click(CLICK)}

    async def main(client: httpx2.AsyncClient, _: Starlette) -> None:
        for path in (
            "/health",
            "/docs",
            "/docs/start.js",
            "/openapi.json",
            "/playground",
            "/playground/examples/cat.jpg",
        ):
            answer = await client.get(PREFIX + path)
            assert 200 == answer.status_code, path
        for path in ("/", GENERATE, "/metrics", "/nothing", "/api/tags", "/seg/health", "/health/x"):
            assert 403 == (await client.get(PREFIX + path)).status_code, path
        document = (await client.get(f"{PREFIX}/openapi.json")).json()
        answered = await client.post(PREFIX + GENERATE, json=body, headers=WITH_KEY)
        counted = await client.get(f"{PREFIX}/metrics", headers=WITH_KEY)

        assert [{"url": prefix + PREFIX}] == document["servers"]
        assert 200 == answered.status_code
        assert answered.json()["annotations"]
        labels = 'door="",key="API_KEY",method="POST",route="/api/generate",status="200"'
        assert f"osamd_requests_total{{{labels}}} 1.0" in counted.text

    run_mounted(tmp_path, main, prefix)


def test_no_redirect_leaves_the_server(tmp_path: Path) -> None:
    """Slashes at the end lead nowhere, or to a relative address; never to what ``Host`` says."""

    async def main(client: httpx2.AsyncClient, _: Starlette) -> None:
        for path in (f"{GENERATE}/", "/health/", "/ready/", "/api/tags/", "/metrics/", "/openapi.json/", "//elsewhere"):
            for method in ("GET", "POST"):
                answer = await client.request(method, PREFIX + path, headers=WITH_KEY)
                assert 404 == answer.status_code, (method, path)
                assert "location" not in answer.headers
        for page in ("/docs", "/playground"):
            answer = await client.get(f"{PREFIX}{page}/")
            assert 308 == answer.status_code
            assert f"..{page}" == answer.headers["location"]
            assert f"{PREFIX}{page}" == (await client.get(f"{PREFIX}{page}/", follow_redirects=True)).url.path

    run_mounted(tmp_path, main)


def test_its_lifespan_can_be_run_by_the_outer_app(tmp_path: Path) -> None:
    """As the guide has it; then models are loaded ahead and /ready tells of them."""
    inner = create_app(Settings(api_key=SecretStr(KEY), cache=tmp_path, pull="never", threads=1))

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount(PREFIX, inner)

    async def run() -> None:
        transport = httpx2.ASGITransport(app=outer)
        async with (
            outer.router.lifespan_context(outer),
            httpx2.AsyncClient(transport=transport, base_url="http://a") as client,
            asyncio.timeout(WAIT_S),
        ):
            while (await client.get(f"{PREFIX}/ready")).status_code != 200:
                await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_prefix_ends_at_a_slash() -> None:
    """``/metrics`` is not ``/m`` with something behind: the guard cuts a prefix off where the router does."""
    inner = create_app(Settings(api_key=SecretStr(KEY), preload=()))
    outer = Router(routes=[Mount("/m", app=inner)])

    async def status_of(app: Any, path: str, root_path: str) -> int:
        transport = httpx2.ASGITransport(app=app, root_path=root_path)
        async with httpx2.AsyncClient(transport=transport, base_url="http://a") as client:
            return (await client.get(path)).status_code

    asked = [
        (inner, "/metrics", "/m"),
        (inner, "/health", "/heal"),
        (inner, "/mhealth", "/m"),
        (outer, "/m/health", ""),
    ]

    assert [403, 200, 403, 200] == [asyncio.run(status_of(*one)) for one in asked]


def done(number: int) -> RequestDone:
    """An event."""
    return RequestDone("GET", "/health", 200, 0.001, str(number), route="/health")


def test_metrics_are_counted_without_a_lifespan(monkeypatch: pytest.MonkeyPatch) -> None:
    """They load their library themselves after some events; none is lost, and few are kept."""
    loaded = threading.Event()
    load = Metrics.load

    def telling(self: Metrics) -> Any:
        counters = load(self)
        loaded.set()
        return counters

    monkeypatch.setattr(Metrics, "load", telling)
    counting = Metrics()
    for number in range(metrics.EARLY_EVENTS + 50):
        counting(done(number))
    assert loaded.wait(WAIT_S)
    counting(done(-1))

    assert not counting._early
    assert metrics.EARLY_EVENTS + 51 == counting.load().registry.get_sample_value(
        "osamd_requests_total", {"route": "/health", "method": "GET", "status": "200", "key": "", "door": ""}
    )


def test_events_are_bounded_where_metrics_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a library that cannot be imported makes memory grow."""
    monkeypatch.setattr(Metrics, "load", lambda _: None)
    monkeypatch.setattr(metrics, "MOST_EARLY_EVENTS", 200)
    counting = Metrics()
    for number in range(1000):
        counting(done(number))

    assert 200 == len(counting._early)
