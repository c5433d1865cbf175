"""Real load balancers before replicas, with the configurations that are shipped."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx2
import pytest
from waiting import WAIT_S

SHIPPED: Final = Path(__file__).parents[1] / "deploy" / "replicas"
TEMPLATE: Final = 'server-template osamd 16 "${BALANCER_REPLICAS}"'
LISTEN: Final = "listen 127.0.0.1:11368;"


def replaced(text: str, old: str, new: str) -> str:
    """The text with one passage replaced, which must be there once."""
    assert 1 == text.count(old), f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def _haproxy(replicas: Sequence[str], folder: Path, socket_: socket.socket) -> tuple[list[str], Mapping[str, str]]:
    servers = "\n    ".join(f"server osamd{number} {address}" for number, address in enumerate(replicas, 1))
    file = folder / "haproxy.cfg"
    file.write_text(replaced((SHIPPED / "haproxy.cfg").read_text("utf-8"), TEMPLATE, servers), "utf-8")
    return ["haproxy", "-db", "-f", str(file)], {"BALANCER_BIND": f"fd@{socket_.fileno()}"}


def _nginx(replicas: Sequence[str], folder: Path, socket_: socket.socket) -> tuple[list[str], Mapping[str, str]]:
    text = (SHIPPED / "nginx.conf").read_text("utf-8")
    for number in range(1, 4):
        line = f"    server osamd-{number}:11368 max_fails=1 fail_timeout=5s;\n"
        known = number <= len(replicas)
        text = replaced(text, line, line.replace(f"osamd-{number}:11368", replicas[number - 1]) if known else "")
    host, port = socket_.getsockname()
    text = replaced(text, LISTEN, f"listen {host}:{port};")
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        text = f"{kind}_temp_path {folder / kind};\n{text}"
    # Its workers would change to a user who may not enter the folder.
    user = "user root; " if os.geteuid() == 0 else ""
    around = f"{user}worker_processes 1; daemon off; pid {folder / 'pid'}; error_log stderr; events {{}}\n"
    file = folder / "nginx.conf"
    file.write_text(f"{around}http {{ access_log off;\n{text}}}\n", "utf-8")
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(file)], {"NGINX": f"{socket_.fileno()};"}


BALANCERS: Final = {"haproxy": _haproxy, "nginx": _nginx}


@contextlib.contextmanager
def run_balancer(kind: str, replicas: Sequence[str], folder: Path) -> Iterator[str]:
    """The URL of a balancer before replicas on loopback; skips the test where the program is not installed.

    Args:
        kind: ``haproxy`` or ``nginx``.
        replicas: their addresses, HOST:PORT.
        folder: for its files; empty.
    """
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    if shutil.which(kind, path=path) is None:
        pytest.skip(f"{kind} is not installed")
    # The program inherits the socket, so that nobody else can take its port.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        command, environment = BALANCERS[kind](replicas, folder, listening)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env={"PATH": path} | dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listening.fileno()],
            )
        try:
            _wait_until_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(WAIT_S)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/ready", timeout=5.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the balancer does not answer:\n{log.read_text('utf-8', 'replace')}")
