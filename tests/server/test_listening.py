"""Hosts of both families: ``localhost`` and ``::``."""

import errno
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import KEY, clean_environment, free_port, run_server
from waiting import WAIT_S

from osamd.errors import SettingsError
from osamd.server.listening import listen


def has_ipv6() -> bool:
    """Whether this machine has IPv6 on the loopback."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine: only IPv4 of both families is tried")


@needs_ipv6
@pytest.mark.parametrize("host", ["localhost", "LocalHost"])
def test_a_server_is_reached_by_either_family(tmp_path: Path, host: str) -> None:
    """On one port, and it sees plain addresses of both."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none", "OSAMD_HOST": host}
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running:
        port = running.url.rpartition(":")[2]
        for name, client in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
            assert 403 == httpx2.get(f"http://{name}:{port}/nothing", trust_env=False).status_code
            running.log_line("GET /nothing 403", f"from={client} ")
        assert f"Uvicorn running on http://127.0.0.1:{port} and http://[::1]:{port}" in running.log_text()


@needs_ipv6
def test_any_free_port_is_one_for_both() -> None:
    """Port 0 is the same in both families."""
    sockets = listen("localhost", 0)
    assert sockets is not None
    names = [bound.getsockname()[:2] for bound in sockets]
    for bound in sockets:
        bound.close()

    assert ["127.0.0.1", "::1"] == [name for name, _ in names]
    assert 1 == len({port for _, port in names})


def test_everything_is_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """``::`` listens on IPv4 too, with a socket of its own, so that clients' addresses are plain ones."""
    asked: list[tuple[str, bool]] = []

    def bound(address: tuple[str, int], *, family: int, backlog: int) -> socket.socket:
        del backlog
        asked.append((address[0], family == socket.AF_INET6))
        return socket.socket()

    monkeypatch.setattr(socket, "create_server", bound)
    for opened in listen("::", 1) or ():
        opened.close()

    assert [("::", True), ("0.0.0.0", False)] == asked  # noqa: S104 - nothing is bound


@pytest.mark.parametrize("missing", ["127.0.0.1", "::1"])
def test_a_machine_with_one_family_serves_that(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The other is left out; with neither, the message says why."""
    create = socket.create_server
    absent = {missing}

    def bound(address: tuple[str, int], **more: Any) -> socket.socket:
        if address[0] in absent:
            raise OSError(errno.EADDRNOTAVAIL, "not here")
        return create(address, **more)

    monkeypatch.setattr(socket, "create_server", bound)
    found = listen("localhost", 0) or []
    names = {one.getsockname()[0] for one in found}
    for one in found:
        one.close()
    absent |= {"127.0.0.1", "::1"}

    assert names <= {"127.0.0.1", "::1"} - {missing}
    with pytest.raises(SettingsError, match="cannot listen on localhost, port 0: Cannot assign"):
        listen("localhost", 0)


def test_a_taken_port_is_told() -> None:
    """In a sentence that names host and port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on localhost, port {port}: Address already in use"):
            listen("localhost", port)


def test_other_hosts_are_left_to_uvicorn() -> None:
    """An address is of one family, and names are resolved."""
    assert [None] * 4 == [listen(host, free_port()) for host in ("127.0.0.1", "0.0.0.0", "::1", "example")]  # noqa: S104


@pytest.mark.parametrize(("host", "level"), [("127.0.0.1", "warning"), ("localhost", "error")])
def test_a_picked_port_is_logged_at_every_level(tmp_path: Path, host: str, level: str) -> None:
    """It cannot be known otherwise."""
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none", "OSAMD_HOST": host, "OSAMD_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "osamd", "serve", "--port", "0", "--log-level", level]
    with subprocess.Popen(
        command, env=clean_environment(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = (re.search(rf"listening on {host}, port (\d+)", line) for line in process.stdout)
            port = next(found[1] for found in lines if found is not None)
            assert 200 == httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code
        finally:
            process.terminate()


def test_a_server_whose_port_is_taken_ends(tmp_path: Path) -> None:
    """With one line and the exit code of uvicorn, not with a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none", "OSAMD_HOST": "localhost", "PORT": str(port)}
        ended = subprocess.run(
            [sys.executable, "-m", "osamd", "serve"],
            env=clean_environment(env | {"OSAMD_CACHE": str(tmp_path)}),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    assert 3 == ended.returncode
    assert "Address already in use" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
