"""A real cluster: ``osamd cluster up`` as a process, its parts by name, and new configurations for it."""

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2
from serving import KEY, clean_environment, free_port, stop

from osamd.cluster.configuration import LOOPBACK, Plan, deployment_of, serve_config
from osamd.cluster.processes import descendants

START_S: Final = 300.0
SETTLE_S: Final = 180.0
STOP_S: Final = 60.0
UP: Final = re.compile(r"osamd: (http://\S+) \(Ctrl-C stops")
ADDRESS: Final = re.compile(r"(RAY_[A-Z_]+)=(\S+)")
LOGS: Final = re.compile(r"osamd: logs, until the cluster stops, in (\S+)")
SEGMENTER: Final = "Segmenter-builtin"
EDGE: Final = "Edge"
CONTROLLER: Final = "ray::ServeController"
PROXY: Final = "ray::HAProxyManager"
LISTEN: Final = "0A"

Found = TypeVar("Found")


def wait_for(found: Callable[[], Found | None], what: str, *, limit_s: float = SETTLE_S) -> Found:
    """What the function returns once it is true."""
    until = time.monotonic() + limit_s
    while not (value := found()):
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.1)
    return value


@dataclass(frozen=True)
class RunningCluster:
    """A cluster that answers, to which this process is connected as a second driver of Ray."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ray: Mapping[str, str]
    key: str

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        return int(self.url.rpartition(":")[2])

    def http(self) -> httpx2.Client:
        """A client with the key and without retries."""
        return httpx2.Client(base_url=self.url, headers={"X-API-Key": self.key}, timeout=120.0, trust_env=False)

    def log_lines(self) -> list[str]:
        """What Ray's processes have logged."""
        folder = Path(LOGS.findall(self.log.read_text("utf-8", "replace"))[-1])
        texts = [file.read_text("utf-8", "replace") for file in folder.rglob("*") if file.is_file()]
        return [line for text in texts for line in text.splitlines()]

    def parts(self, name: str) -> list[int]:
        """Ids of the processes whose command has this in it."""
        return [pid for pid in descendants(self.process.pid) if name in command_of(pid)]

    def replicas(self, name: str) -> list[int]:
        """Ids of the processes of a deployment."""
        return self.parts(f"ray::ServeReplica:osamd:{name}")

    def kill(self, name: str) -> int:
        """SIGKILL one of them; returns its id."""
        victim = self.parts(name)[0]
        os.kill(victim, signal.SIGKILL)
        return victim

    def configured(self, segmenters: int, **changes: Any) -> dict[str, Any]:
        """The configuration of ``osamd cluster up`` with changes to the Segmenters' deployment.

        Args:
            segmenters: how many.
            changes: entries of the deployment; ``env`` is their environment.
        """
        config = serve_config(Plan(segmenters=segmenters, host=LOOPBACK, port=self.port), is_local=True)
        _, deployment = config["applications"][0]["deployments"]
        env = changes.pop("env", None)
        if env is not None:
            deployment["ray_actor_options"]["runtime_env"] = {"env_vars": env}
        if "autoscaling_config" in changes:
            del deployment["num_replicas"]
        deployment.update(changes)
        return config

    def deploy(self, segmenters: int, **changes: Any) -> None:
        """Apply a configuration and wait until all that run are of it, and both edges know."""
        from osamd.cluster.local import deploy

        deploy(self.configured(segmenters, **changes))
        wait_for(lambda: self.is_settled(segmenters), f"{segmenters} Segmenters")
        # The proxy sends requests to either edge.
        wait_for(lambda: {segmenters} == {self.known() for _ in range(6)}, f"edges that know {segmenters} Segmenters")

    def known(self) -> int:
        """How many ready Segmenters an edge tells of."""
        with self.http() as http:
            text = http.get("/metrics").text
        return len(re.findall(r'^osamd_ready\{segmenter="[^"]+"\} 1', text, re.MULTILINE))

    def is_settled(self, segmenters: int) -> bool:
        """Whether the application runs and has just as many Segmenters."""
        from ray import serve

        application = serve.status().applications["osamd"]
        # None for a moment after a new configuration.
        deployment = application.deployments.get(deployment_of("builtin:latest"))
        states = {} if deployment is None else deployment.replica_states
        wanted = {"RUNNING": segmenters} if segmenters else {}
        is_running = application.status == "RUNNING" and deployment is not None
        return is_running and {str(key): value for key, value in states.items()} == wanted


def command_of(pid: int) -> str:
    """A process's command; empty once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").replace("\0", " ")
    return ""


def listening(pids: list[int]) -> dict[str, str]:
    """The addresses on which these processes listen, with the command of each."""
    owners = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                owners[str(link.readlink())] = command_of(pid)[:60]
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            owner = owners.get(f"socket:[{fields[9]}]")
            if fields[3] == LISTEN and owner is not None:
                address, _, port = fields[1].partition(":")
                found[f"{_address(address)}:{int(port, 16)}"] = owner
    return found


def _address(text: str) -> str:
    """An address of /proc/net/tcp, whose words are in the machine's order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    data = b"".join(struct.pack("=I", word) for word in words)
    is_mapped = data[:12] == bytes(10) + b"\xff\xff"
    return ".".join(map(str, data[-4:])) if len(data) == 4 or is_mapped else data.hex()


@contextlib.contextmanager
def run_cluster(folder: Path, **environment: str) -> Iterator[RunningCluster]:
    """Run ``osamd cluster up`` and connect to it; at the end it must stop all that it started.

    Args:
        folder: for its models, embeddings and log.
        environment: of the process.
    """
    log = folder / "cluster.log"
    usual = {"API_KEY": KEY, "OSAMD_CACHE": str(folder / "cache"), "OSAMD_PULL": "never", "OSAMD_THREADS": "1"}
    env = clean_environment(usual | environment)
    command = (sys.executable, "-m", "osamd", "cluster", "up", "--port", str(free_port()))
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        running = wait_for(lambda: _told(process, log, env["API_KEY"]), "a cluster", limit_s=START_S)
        with _connected(running):
            yield running
        started = [process.pid, *descendants(process.pid)]
    finally:
        stop(process, patience_s=STOP_S)
    assert process.returncode == 0, log.read_text("utf-8", "replace")
    assert [] == [command_of(pid) for pid in started if command_of(pid)]
    assert not Path(running.ray["RAY_AUTH_TOKEN_PATH"]).parent.exists()


def _told(process: "subprocess.Popen[bytes]", log: Path, key: str) -> RunningCluster | None:
    text = log.read_text("utf-8", "replace")
    if process.poll() is not None:
        raise AssertionError(f"the cluster ended with {process.returncode}:\n{text}")
    told = UP.search(text)
    return told and RunningCluster(told[1], process, log, dict(ADDRESS.findall(text)), key)


@contextlib.contextmanager
def _connected(running: RunningCluster) -> Iterator[None]:
    from osamd.cluster.configuration import node_environment

    os.environ |= node_environment() | dict(running.ray)
    import ray

    ray.init(address=running.ray["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
        for name in (*running.ray, *node_environment()):
            os.environ.pop(name, None)
