"""Start osamd and osam as their users do, on the same files, and always stop them."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import rembg_peer
from benchmarks.connection import Connection

START_S = 120.0
STOP_S = 40.0
POLL_S = 0.005
BUILTIN, EFFICIENTSAM, SAM = "builtin", "efficientsam:10m", "sam:100m"
FILES: Mapping[str, tuple[str, str]] = {
    EFFICIENTSAM: ("efficientsam_ti_encoder.onnx", "efficientsam_ti_decoder.onnx"),
    SAM: ("sam_vit_b_quant_encoder.onnx", "sam_vit_b_quant_decoder.onnx"),
}
# What a process needs. Settings and keys of the person who measures must not leak in.
PASSED_ON = ("PATH", "HOME", "LANG")


def blob_paths(folder: Path) -> dict[str, dict[str, Path]]:
    """The files by model and role.

    Raises:
        FileNotFoundError: one is missing; names the command that builds it.
    """
    paths = {
        model: {"encoder": folder / encoder, "decoder": folder / decoder} for model, (encoder, decoder) in FILES.items()
    }
    for path in (path for roles in paths.values() for path in roles.values()):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: make bench-blobs builds it")
    return paths


@dataclass(frozen=True)
class Server:
    """A server process that answers clicks at ``path``."""

    name: str
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    started_at: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    path: str = "/api/generate"

    def connect(self) -> Connection:
        """A connection with the key."""
        return Connection(self.url, self.headers)

    def resident_bytes(self) -> int:
        """Resident memory."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel does not report Rss")

    def cpu_s(self) -> float:
        """Processor seconds it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def run_osamd(
    folder: Path, paths: Mapping[str, Mapping[str, Path]], env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """``osamd serve`` in production mode, with a user's catalogue with the files.

    Args:
        folder: for its cache, catalogue and log.
        paths: files by model and role.
        env: settings beside the defaults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, roles in paths.items():
        rows += ["[[model]]", f'name = "{name}"', f'family = "{name.partition(":")[0]}"']
        for role, path in roles.items():
            rows += [f"[model.blobs.{role}]", f'url = "{path.resolve().as_uri()}"']
    catalog = folder / "models.toml"
    catalog.write_text("\n".join(rows), "utf-8")
    port, key = free_port(), secrets.token_urlsafe(16)
    settings = {"OSAMD_CACHE": str(folder / "cache"), "OSAMD_CATALOG": str(catalog), "OSAMD_PULL": "never"}
    settings |= {"OSAMD_PRELOAD": "none", "PORT": str(port), "API_KEY": key} | dict(env or {})
    command = (sys.executable, "-m", "osamd", "serve")
    with _run("osamd", command, settings, port, folder, {"X-API-Key": key}) as server:
        yield server


@contextlib.contextmanager
def run_osam(folder: Path, paths: Mapping[str, Mapping[str, Path]]) -> Iterator[Server]:
    """The peer, osam 0.8.1, behind uvicorn.

    Args:
        folder: for its log.
        paths: files by model and role.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    models = {name: {role: str(path) for role, path in roles.items()} for name, roles in paths.items()}
    script = str(Path(__file__).with_name("peer_process.py"))
    command = (sys.executable, script, str(port), str(folder), json.dumps(models))
    with _run("osam", command, {}, port, folder, {}) as server:
        yield server


@contextlib.contextmanager
def run_loop(folder: Path, paths: Mapping[str, Path]) -> Iterator[Server]:
    """The server of one file, in ``loop_process.py``.

    Args:
        folder: for its log.
        paths: files of SAM by role.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    script = str(Path(__file__).with_name("loop_process.py"))
    command = (sys.executable, script, str(port), str(paths["encoder"]), str(paths["decoder"]))
    with _run("loop", command, {}, port, folder, {}) as server:
        yield server


@contextlib.contextmanager
def run_rembg(folder: Path, paths: Mapping[str, Path]) -> Iterator[Server]:
    """Rembg's server, from an environment of its own; ``rembg_peer.HEADERS`` belong to its requests.

    Args:
        folder: for its models and log.
        paths: files of SAM by role.
    """
    models = folder / "models"
    rembg_peer.write_files(models, paths)
    port = free_port()
    command = (str(rembg_peer.REMBG), "s", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
    # It opens a browser when it starts.
    env = {"U2NET_HOME": str(models), "MODEL_CHECKSUM_DISABLED": "1", "BROWSER": "true"}
    with _run("rembg", command, env, port, folder, rembg_peer.HEADERS) as server:
        yield replace(server, path=rembg_peer.PATH)


@contextlib.contextmanager
def _run(
    name: str, command: Sequence[str], env: Mapping[str, str], port: int, folder: Path, headers: Mapping[str, str]
) -> Iterator[Server]:
    log = folder / f"{name}.log"
    kept = {variable: os.environ[variable] for variable in PASSED_ON if variable in os.environ}
    started_at = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command, env=kept | dict(env), stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(name, f"http://127.0.0.1:{port}", process, log, started_at, headers)
    try:
        _wait_for_port(server, port)
        yield server
    finally:
        _stop(process)


def _wait_for_port(server: Server, port: int) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} ended:\n{server.log.read_text('utf-8', 'replace')}")
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5.0):
            return
        time.sleep(POLL_S)
    raise RuntimeError(f"{server.name} did not listen within {START_S:g} s")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
