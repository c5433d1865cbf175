"""Run the image in containers, by podman or another tool with its command line, and always remove them."""

import contextlib
import json
import os
import shlex
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from serving import KEY, free_port

IMAGE = os.environ.get("OSAMD_IMAGE", "localhost/osamd:cpu")
# Where neither systemd nor cgroups 2 are, podman's defaults do not work.
PODMAN = "podman --cgroup-manager cgroupfs --events-backend file --runtime runc"
TOOL = tuple(shlex.split(os.environ.get("OSAMD_CONTAINER_TOOL", PODMAN)))
RUN = ("run", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096")
HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
START_S = 60.0
UID = 999

Ended = subprocess.CompletedProcess[str]


def tool(*arguments: str, timeout: float = 120.0) -> Ended:
    """Run the container tool to its end."""
    return subprocess.run([*TOOL, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def run_once(*command: str, flags: Sequence[str] = ()) -> Ended:
    """Run a command in a container of its own, to its end."""
    return tool(*RUN, "--rm", *flags, IMAGE, *command)


def image_config() -> dict[str, Any]:
    """What the image says about itself."""
    (image,) = json.loads(tool("image", "inspect", IMAGE).stdout)
    # Podman has this one beside the rest.
    config: dict[str, Any] = image["Config"] | {
        "Healthcheck": image["Config"].get("Healthcheck") or image["Healthcheck"]
    }
    return config


@dataclass(frozen=True)
class Container:
    """A server that runs in a container."""

    name: str
    url: str

    def client(self, key: str | None = KEY) -> httpx2.Client:
        """An HTTP client with this key."""
        return httpx2.Client(base_url=self.url, headers={} if key is None else {"X-API-Key": key}, timeout=60)

    def status(self, key: str | None) -> int:
        """What ``GET /`` answers to this key."""
        with self.client(key) as client:
            return client.get("/").status_code

    def log(self) -> str:
        """All it has written."""
        ended = tool("logs", self.name)
        return ended.stdout + ended.stderr

    def inside(self, *command: str) -> Ended:
        """Run a command in it, as its user."""
        return tool("exec", self.name, *command)

    def stop(self) -> int:
        """SIGTERM, as hosts stop it; returns the exit code."""
        tool("stop", "--time", "20", self.name)
        return int(tool("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


@contextlib.contextmanager
def run_container(
    *flags: str,
    env: Mapping[str, str] | None = None,
    published: bool = True,
    wait_for: str = "/ready",
    image: str = IMAGE,
) -> Iterator[Container]:
    """Run the image's own command until the block ends.

    Args:
        flags: more flags of ``run``.
        env: its environment.
        published: whether its port is published; otherwise it is on the host's network, on a port by ``PORT``.
        wait_for: the path that must answer 200 before the block begins.
        image: another image.
    """
    name, port = f"osamd-test-{uuid.uuid4().hex}", free_port()
    variables = dict(env or {})
    if published:
        network = ["--publish", f"127.0.0.1:{port}:11368"]
    else:
        network, variables = ["--network", "host"], variables | {"PORT": str(port)}
    options = [part for key, value in variables.items() for part in ("--env", f"{key}={value}")]
    started = tool(*RUN, "--detach", "--name", name, *network, *options, *flags, image)
    running = Container(name, f"http://127.0.0.1:{port}")
    try:
        if started.returncode:
            raise RuntimeError(started.stderr)
        _wait(running, wait_for)
        yield running
    finally:
        tool("stop", "--time", "5", name)
        tool("rm", "--force", name)


def _wait(running: Container, path: str) -> None:
    until = time.monotonic() + START_S
    with running.client(None) as client:
        while time.monotonic() < until:
            with contextlib.suppress(httpx2.TransportError):
                if client.get(path).status_code == httpx2.codes.OK:
                    return
            time.sleep(0.1)
    raise RuntimeError(f"{path} did not answer 200:\n{running.log()}")


@contextlib.contextmanager
def mount() -> Iterator[Path]:
    """A folder that belongs to root, as a new volume does; outside pytest's, which only root may enter."""
    with tempfile.TemporaryDirectory(prefix="osamd-volume-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
