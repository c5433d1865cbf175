"""Start real osamd processes on free loopback ports, and always stop them."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from kept_graphs import lend_graphs
from waiting import WAIT_S
from warm_python import WarmProcess, WarmPython

KEY = "test-key-5fPz-Jd72"
# uvicorn's line, with the port that the system gave.
LISTENING = re.compile(r"Uvicorn running on (http://\S+:[1-9][0-9]*)")
# A test's environment must not leak into the server, nor a developer's key into a test.
PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "LANG", "SYSTEMROOT", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


@dataclass(frozen=True)
class RunningServer:
    """A server process that answers."""

    url: str
    process: subprocess.Popen[bytes] | WarmProcess
    log: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    def client(self, *, timeout: float = WAIT_S, headers: Mapping[str, str] | None = None) -> httpx2.Client:
        """An HTTP client with the key, unless ``headers`` are given."""
        sent = dict(self.headers if headers is None else headers)
        # Without TLS there is nothing to verify, and reading all the certificates would take most of a test's time.
        return httpx2.Client(base_url=self.url, headers=sent, timeout=timeout, verify=False)

    def log_text(self) -> str:
        """All it has written to stdout and stderr."""
        return self.log.read_text("utf-8", "replace")

    def log_line(self, *parts: str) -> str:
        """The first line of the log that has all of these, waited for: an answer is out before its line is."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            for line in self.log_text().splitlines():
                if all(part in line for part in parts):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line has {parts}:\n{self.log_text()}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Only what a process needs, and ``extra``."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {"PYTHONUNBUFFERED": "1"} | dict(extra)


WARM = WarmPython(clean_environment({}))


def gated_command(stage: str, gate: Path) -> tuple[str, ...]:
    """Starts a server in which ``load``, ``encode`` or ``decode`` waits until the file ``gate`` appears."""
    return sys.executable, str(Path(__file__).with_name("gated_server.py")), stage, str(gate)


def wait_until_reached(gate: Path) -> None:
    """Return when such a server waits."""
    until = time.monotonic() + WAIT_S
    while not gate.with_name(f"{gate.name}-reached").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextlib.contextmanager
def run_server(
    *,
    cache: Path,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = (sys.executable, "-m", "osamd", "serve"),
    cwd: Path | None = None,
    wait_for: str = "/ready",
) -> Iterator[RunningServer]:
    """Run a server until the block ends.

    Args:
        cache: its OSAMD_CACHE and where its log is written.
        env: its environment besides PATH and the like.
        command: what to start; it must pick a port where PORT or the argument ``{port}`` is 0, and log it like uvicorn.
        cwd: its working directory.
        wait_for: the path that must answer 200 before the block begins.
    """
    # No test may reach for the real weights; those that pull, from a server of their own, say so.
    env = {"OSAMD_CACHE": str(cache), "PORT": "0", "OSAMD_PULL": "never"} | dict(env or {})
    if env["OSAMD_CACHE"] == str(cache):
        lend_graphs(cache)
    handle, name = tempfile.mkstemp(prefix="server-", suffix=".log", dir=cache)
    os.close(handle)
    process = _start([part.replace("{port}", "0") for part in command], clean_environment(env), cwd, Path(name))
    key = env.get("API_KEY", "").strip()
    headers = {"X-API-Key": key} if key and key.isascii() else {}
    try:
        running = RunningServer(_told_url(process, Path(name)), process, Path(name), headers)
        wait_until_answering(running, wait_for)
        yield running
    finally:
        stop(process)


def _start(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: Path
) -> subprocess.Popen[bytes] | WarmProcess:
    if WARM.can_run(command, env):
        return WARM.run(command, env=env, cwd=cwd, log=log)
    with log.open("wb") as output:
        return subprocess.Popen(command, env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)


def _told_url(process: subprocess.Popen[bytes] | WarmProcess, log: Path) -> str:
    """Where the process says that it listens."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        ended = process.poll()
        text = log.read_text("utf-8", "replace")
        if (told := LISTENING.search(text)) is not None:
            # A server on all addresses is asked at this one.
            return told[1].replace("//0.0.0.0:", "//127.0.0.1:")
        if ended is not None:
            raise RuntimeError(f"the server ended with {ended}:\n{text}")
        time.sleep(0.02)
    raise RuntimeError(f"the server did not say where it listens within {WAIT_S:g} s:\n{text}")


def wait_until_answering(running: RunningServer, path: str) -> None:
    """Return when the path answers 200; fail with the log when the process ends or time is up."""
    until = time.monotonic() + WAIT_S
    with running.client(timeout=5.0) as client:
        while time.monotonic() < until:
            if running.process.poll() is not None:
                raise RuntimeError(f"the server ended with {running.process.returncode}:\n{running.log_text()}")
            with contextlib.suppress(httpx2.TransportError):
                if client.get(path).status_code == 200:
                    return
            time.sleep(0.05)
    raise RuntimeError(f"{path} did not answer 200 within {WAIT_S:g} s:\n{running.log_text()}")


def stop(process: subprocess.Popen[bytes] | WarmProcess, *, patience_s: float = WAIT_S) -> None:
    """SIGTERM, then SIGKILL if it does not go."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
