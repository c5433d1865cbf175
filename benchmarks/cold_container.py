"""How long a container takes from ``podman run`` to its first mask, its files in memory and on disks of given speed.

``python benchmarks/cold_container.py`` as root, after ``make image-test`` has built the image. Disks are slowed by the
cgroup's read limit (cgroup v1); the image's files are dropped from memory before each such round.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import time
import uuid
from pathlib import Path

import httpx2

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "cat.jpg"
TOOL = ("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc")
LIMITS = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096")
KEY = "measured-by-benchmarks"
POLL_S = 0.005
GIVE_UP_S = 300.0


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman to its end; returns what it wrote."""
    return subprocess.run([*TOOL, *arguments], check=check, capture_output=True, text=True).stdout.strip()  # noqa: S603


def forget(folder: Path) -> int:
    """Drop the files below a folder from the page cache; returns their bytes."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fdatasync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            total += path.stat().st_size
    return total


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_once(image: str, limits: list[str]) -> dict[str, float]:
    """Seconds from the start of ``podman run`` to each sign of life."""
    name, port = f"osamd-cold-{uuid.uuid4().hex}", free_port()
    photo = PHOTO.read_bytes()
    command = ["run", "--detach", "--name", name, "--network", "host", *LIMITS, *limits]
    command += ["--env", f"API_KEY={KEY}", "--env", f"PORT={port}", image]
    began = time.perf_counter()
    try:
        podman(*command)
        seconds = {"container started": time.perf_counter() - began}
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": KEY}, timeout=GIVE_UP_S
        ) as client:
            for path, sign in (("/health", "/health answers"), ("/ready", "/ready answers")):
                wait_for(client, path, began)
                seconds[sign] = time.perf_counter() - began
            for sign in ("first mask", "second mask, another image"):
                photo += b"\0"
                client.post("/api/generate?point=225,150", content=photo).raise_for_status()
                seconds[sign] = time.perf_counter() - began
    finally:
        # It is stopped first: removed while it still reads, podman cannot always unmount it.
        podman("stop", "--time", "30", name, check=False)
        podman("rm", "--force", name, check=False)
    return seconds


def wait_for(client: httpx2.Client, path: str, began: float) -> None:
    """Return when the path answers 200."""
    while time.perf_counter() - began < GIVE_UP_S:
        try:
            if client.get(path).status_code == httpx2.codes.OK:
                return
        except httpx2.TransportError:
            pass
        time.sleep(POLL_S)
    raise TimeoutError(path)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="localhost/osamd:cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="/dev/vda", help="the disk that holds podman's storage")
    parser.add_argument("--rates", default="8,64", help="MiB/s that the disk is slowed to, separated by commas")
    arguments = parser.parse_args()
    mounted = podman("image", "mount", arguments.image)
    start_once(arguments.image, [])
    rates = [int(rate) for rate in arguments.rates.split(",") if rate]
    scenarios: dict[str, list[str] | None] = {"files in memory": None, "files on this disk": []}
    scenarios |= {
        f"files on a disk of {rate} MiB/s": ["--device-read-bps", f"{arguments.device}:{rate}mb"] for rate in rates
    }
    results: dict[str, dict[str, float]] = {}
    for scenario, limits in scenarios.items():
        rounds = []
        for _ in range(arguments.rounds):
            if limits is not None:
                forget(Path(mounted))
            rounds.append(start_once(arguments.image, limits or []))
        results[scenario] = {sign: round(statistics.median(run[sign] for run in rounds), 3) for sign in rounds[0]}
    podman("image", "unmount", arguments.image)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
