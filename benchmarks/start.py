"""How soon a server answers after its process was started: osamd's ``/health``, and ``/`` of osam's own server.

python benchmarks/start.py [ROUNDS]

The servers take turns, so that a busy machine is busy for all of them.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What ``osam serve`` does, on a port that is free.
OSAM = "import os, uvicorn, osam.__main__, osam._server; uvicorn.run('osam._server:app', port=int(os.environ['PORT']))"
SERVERS: Mapping[str, tuple[Sequence[str], str]] = {
    "osamd serve": (("-m", "osamd", "serve"), "/health"),
    "python main.py": ((str(ROOT / "main.py"),), "/health"),
    "osam serve": (("-c", OSAM), "/"),
}
GIVE_UP_S = 60.0


def seconds_to_answer(command: Sequence[str], path: str, home: Path) -> float:
    """Start a server, wait for its first answer, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {
        "HOME": str(home),
        "PORT": str(port),
        "API_KEY": "benchmark-of-starts",  # pragma: allowlist secret
        "OSAMD_PULL": "never",
    }
    begun = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - our own servers
        [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while time.perf_counter() - begun < GIVE_UP_S:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                        answer.read()
                    return time.perf_counter() - begun
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.002)
        finally:
            process.terminate()
    raise TimeoutError(f"{command} did not answer within {GIVE_UP_S:g} s")


def main(rounds: int) -> None:
    """Measure and print."""
    seconds: dict[str, list[float]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        # Where osam writes its log.
        (Path(folder) / ".cache" / "osam").mkdir(parents=True)
        for _ in range(rounds):
            for name, (command, path) in SERVERS.items():
                seconds[name].append(seconds_to_answer(command, path, Path(folder)))
    osam = statistics.median(seconds["osam serve"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"{name:16} {middle:.3f} s (best {min(values):.3f} s), {middle / osam:.2f} of osam's")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
