"""Server processes without the second of processor time that importing everything takes, a hundred times over.

``WarmPython`` runs this file as a process that has imported what a server imports. For each server it forks: the
child has its own environment, folder, arguments, signals, log and exit code, and runs the command's module from the
start, as a new interpreter would. What only a new interpreter can show (the command ``osamd`` itself, what is
imported when) is tested with ``subprocess``.

python warm_python.py FILE_DESCRIPTOR
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What `osamd serve` has imported by the time it answers.
IMPORTED = (
    *("osamd.cli.main", "osamd.cli.serve", "osamd.server.app", "osamd.server.process", "osamd.models.builtin"),
    *("osamd.runtime.sessions", "osamd.pixels.masks", "uvicorn.lifespan.on", "uvicorn.loops.auto"),
    *("uvicorn.protocols.http.auto", "uvicorn.loops.asyncio", "uvicorn.main"),
    *("osamd.server.doors.cvat.routes", "osamd.server.doors.label_studio.routes", "osamd.server.doors.qupath"),
    *("osamd.server.doors.roboflow.routes", "osamd.server.doors.x_anylabeling"),
    *("concurrent.futures.thread", "onnxruntime", "cv2", "prometheus_client"),
)
# Variables that are read when an interpreter starts or a library is loaded, too early for a child.
TOO_EARLY = ("PYTHON", "OMP_", "OPENBLAS_", "ORT_", "LD_", "MALLOC_", "GLIBC_", "LANG", "LC_")
# See prctl(2).
PR_SET_PDEATHSIG = 1


class WarmProcess:
    """A forked child; what tests use of ``subprocess.Popen``."""

    def __init__(self, warm: "WarmPython", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._warm = warm

    def __repr__(self) -> str:
        return f"WarmProcess({self.pid}, returncode={self.returncode})"

    def poll(self) -> int | None:
        """Its exit code, negative if a signal ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._warm.ask({"ended": self.pid})["code"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns its exit code."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            with contextlib.suppress(ProcessLookupError):
                self._wait_for_end(None if until is None else max(0.0, until - time.monotonic()))
            if until is not None and time.monotonic() >= until and self.poll() is None:
                assert timeout is not None
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _wait_for_end(self, seconds: float | None) -> None:
        descriptor = os.pidfd_open(self.pid)
        try:
            select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)


class WarmPython:
    """The process that is forked, started when the first server is.

    Args:
        env: its environment; a command that needs another one from the beginning is none for it.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def can_run(self, command: Sequence[str], env: Mapping[str, str]) -> bool:
        """Whether a child can do what a new interpreter would do."""
        if sys.platform != "linux" or command[0] != sys.executable or len(command) < 2:
            return False
        return (command[1] in {"-c", "-m"} or command[1].endswith(".py")) and early(env) == early(self._env)

    def run(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, log: Path) -> WarmProcess:
        """Start a command whose output goes to ``log``."""
        request = {"command": command[1:], "env": dict(env), "cwd": str(cwd or Path.cwd()), "log": str(log)}
        return WarmProcess(self, self.ask(request)["pid"])

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Ask the process that is forked."""
        with self._lock:
            if self._connection is None:
                self._connection = self._start()
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                received = self._connection.recv(65536)
                if not received:
                    raise RuntimeError("the process that servers are forked from has ended")
                answer += received
        return json.loads(answer)

    def _start(self) -> socket.socket:
        ours, other = socket.socketpair()
        with other:
            command = [sys.executable, __file__, str(other.fileno())]
            self._process = subprocess.Popen(command, env=self._env, pass_fds=[other.fileno()])
        atexit.register(self._stop)
        return ours

    def _stop(self) -> None:
        assert self._connection is not None
        assert self._process is not None
        self._connection.close()
        self._process.wait()


def early(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that count before a child could set them."""
    return {name: value for name, value in env.items() if name.startswith(TOO_EARLY)}


# --- in the process that is forked ------------------------------------------------------------------------------


def serve_forks(connection: socket.socket) -> dict[str, Any] | None:
    """Answer requests until the other end closes; in a child, returns what it shall run."""
    with connection, connection.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            if "ended" in request:
                pid, status = os.waitpid(request["ended"], os.WNOHANG)
                answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
            else:
                parent = os.getpid()
                pid = os.fork()
                if not pid:
                    return {**request, "parent": parent}
                answer = {"pid": pid}
            connection.sendall(json.dumps(answer).encode() + b"\n")
    return None


def become(request: Mapping[str, Any], set_by_imports: Mapping[str, str]) -> None:
    """Do what a new interpreter would: take over everything, and run the module. Unlike it, end with its parent."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent(request["parent"])
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update({**set_by_imports, **request["env"]})
    time.tzset()
    what, *arguments = request["command"]
    if what == "-m":
        module, *arguments = arguments
        sys.path[0] = request["cwd"]
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif what == "-c":
        program, *arguments = arguments
        sys.path[0] = ""
        sys.argv = ["-c", *arguments]
        exec(program, {"__name__": "__main__"})  # noqa: S102 - what the tests wrote
    else:
        sys.path[0] = str(Path(what).parent)
        sys.argv = [what, *arguments]
        runpy.run_path(what, run_name="__main__")


def end_with_parent(parent: int) -> None:
    """Get SIGTERM when the parent ends; it ends when the tests do, even if they are killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # It may have ended before.
    if os.getppid() != parent:
        sys.exit()


def main(descriptor: int) -> None:
    """Import everything, then fork on request."""
    # Ctrl-C reaches all processes of a terminal; this one ends when its test process does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = dict(os.environ)
    for name in IMPORTED:
        importlib.import_module(name)
    set_by_imports = {name: value for name, value in os.environ.items() if name not in before}
    gc.collect()
    gc.freeze()
    request = serve_forks(socket.socket(fileno=descriptor))
    if request is not None:
        become(request, set_by_imports)


if __name__ == "__main__":
    main(int(sys.argv[1]))
