"""Servers forked for tests do not outlive the tests, however those end."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import clean_environment
from waiting import WAIT_S

# As the process that servers are forked from, without what it imports for them.
FORKING = "import sys, warm_python; warm_python.IMPORTED = (); warm_python.main(int(sys.argv[1]))"

Forking = subprocess.Popen[bytes]


@pytest.mark.skipif(sys.platform != "linux", reason="servers are forked on Linux only")
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda ours, _: ours.close(), id="the tests are killed"),
        pytest.param(lambda _, forking: forking.kill(), id="the process they are forked from is killed"),
    ],
)
def test_a_forked_server_ends_with_the_tests(tmp_path: Path, end: Callable[[socket.socket, Forking], None]) -> None:
    """Killed tests stop nothing themselves: the system closes their sockets."""
    log = tmp_path / "log"
    log.touch()
    ours, other = socket.socketpair()
    with other:
        command = [sys.executable, "-c", FORKING, str(other.fileno())]
        forking = subprocess.Popen(
            command, cwd=Path(__file__).parent, env=clean_environment({}), pass_fds=[other.fileno()]
        )
    with ours, forking:
        asked = {"command": ["-c", "import signal; signal.pause()"], "env": {}, "cwd": "/", "log": str(log)}
        ours.sendall(json.dumps(asked).encode() + b"\n")
        ours.settimeout(WAIT_S)
        pid = json.loads(ours.makefile("rb").readline())["pid"]
        running = os.pidfd_open(pid)
        try:
            end(ours, forking)
            has_ended = bool(select.select([running], [], [], WAIT_S)[0])
            if not has_ended:
                signal.pidfd_send_signal(running, signal.SIGKILL)
        finally:
            os.close(running)
    assert has_ended
