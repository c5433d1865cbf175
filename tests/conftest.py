"""Fixtures for all tests: no network beyond the loopback, a real server process, photos, a fake model."""

import gc
import io
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import CLICK, ask, click
from blob_server import BlobServer, serve_blobs
from commands import Ended, Osamd
from hypothesis import settings
from scheduling import LongestFirst, longest_first
from serving import KEY, RunningServer, clean_environment, run_server
from shelf import Library, WebModel, run_library
from skips import NO_CHROMIUM

from osamd.cli.main import main

# No test is about time; on a busy machine Hypothesis's own limit would fail the one that loads something first.
settings.register_profile("osamd", settings(), deadline=None)
settings.load_profile("osamd")

# As many models as tests want one that nobody has pulled yet.
FRESH = 40
ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def is_loopback(address: str) -> bool:
    """Whether it is this machine's own."""
    return address in LOOPBACK or address.startswith("127.")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, which would look through thousands of tests again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests of parallel processes."""
    if hasattr(config, "workerinput"):
        items[:] = longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Give each of the parallel processes of ``make test`` a file at a time, the longest first."""
    return LongestFirst(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Say at the very end what was not tested for want of a browser, and how to get one."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    count = sum(NO_CHROMIUM in str(report.longrepr) for report in reporter.stats.get("skipped", []))
    if count:
        reporter.write_line(f"{count} tests skipped: {NO_CHROMIUM}", yellow=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections beyond the loopback are refused, so that no test can depend on one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and not is_loopback(str(address[0])):
            raise RuntimeError(f"a test tried to reach {address[0]}")
        connect(self, address)

    look_up = socket.getaddrinfo

    def guarded_look_up(host: Any, *details: Any, **more: Any) -> Any:
        if host not in LOOPBACK | {None, b"127.0.0.1"}:
            raise RuntimeError(f"a test tried to look up {host!r}")
        return look_up(host, *details, **more)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobServer]:
    """A web server on the loopback that misbehaves on demand; no proxy of this machine stands before it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serve_blobs() as running:
        yield running


@pytest.fixture(scope="session")
def photo() -> bytes:
    """The example photo: the head of a cat, 451 x 300, JPEG."""
    return (ROOT / "examples" / "cat.jpg").read_bytes()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A real server in production mode with the key ``KEY``, shared by tests that do not change it."""
    # No test may reach for the real models.
    env = {"API_KEY": KEY, "OSAMD_PULL": "never", "OSAMD_WRONG_KEYS_PER_MINUTE": "100000"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx2.Client]:
    """An HTTP client of the shared server that sends the key."""
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="session")
def clicked(server: RunningServer, photo: bytes) -> dict[str, Any]:
    """The shared server's reply to the plainest request: the photo and one click."""
    with server.client() as opened:
        return ask(opened, photo, prompt=click(CLICK))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A real server with a local model of each family, and others that can be pulled."""
    with run_library(tmp_path_factory.mktemp("library"), fresh=FRESH) as running:
        yield running


@pytest.fixture
def fresh(library: Library) -> WebModel:
    """A model of that server which is not here yet."""
    return next(library.fresh)


@pytest.fixture
def osamd(capsysbinary: pytest.CaptureFixture[bytes]) -> Osamd:
    """Runs a command in this process, in a clean environment: ``osamd("list", env={...}, stdin=b"...")``."""

    def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Ended:
        capsysbinary.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            for name in set(os.environ) - set(kept := clean_environment(env or {})):
                patch.delenv(name)
            for name, value in kept.items():
                patch.setenv(name, value)
            try:
                code: object = main(arguments)
            except SystemExit as stop:
                code = stop.code
        assert isinstance(code, int)
        return Ended(code, *capsysbinary.readouterr())

    return run
