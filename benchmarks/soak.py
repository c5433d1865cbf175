"""Soak test: memory, latency and errors of a server over time, as a table and a picture.

python -m benchmarks.soak [--minutes 30 | --requests N] [--clients 4] [--output FOLDER]

Starts a server with the built-in model. Half of the requests are clicks on known images, the others new
images, broken ones, oversized prompts and clients that disconnect midway. At the end it reports whether memory grew
between the second quarter of the time and the last, and exits with 1 if it did or if an answer was wrong.
"""

import argparse
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import httpx2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
KEY = "soak-of-benchmarks"
GENERATE = "/api/generate"
START_S = 60.0
# Memory growth allowed for a healthy server, whose caches are full long before.
MOST_GROWTH = 0.10
WIDTH, HEIGHT, ROW = 900, 220, 260


@dataclass
class Second:
    """What happened since the last one.

    Attributes:
        at_s: seconds from the start.
        rss_bytes: the server's memory at its end.
        descriptors: files and sockets the server has open.
        latencies_ms: of answers with masks.
        wrong: answers that should not have been.
    """

    at_s: float
    rss_bytes: int
    descriptors: int
    latencies_ms: list[float] = field(default_factory=list)
    wrong: int = 0


class Load:
    """Clients that ask for as long as it takes."""

    def __init__(self, url: str, photo: bytes, *, requests: int | None) -> None:
        self._url = url
        self._photo = photo
        self._left = itertools.count() if requests is None else iter(range(requests))
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.latencies_ms: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, seed: int) -> None:
        """One client, until the time or the requests are over."""
        chance = random.Random(seed)  # noqa: S311 - no secret
        with httpx2.Client(base_url=self._url, headers={"X-API-Key": KEY}, timeout=60) as client:
            image_id = client.post("/api/embed", content=self._photo).json()["image_id"]
            while not self.stop.is_set():
                with self._lock:
                    if next(self._left, None) is None:
                        return
                self._ask(client, chance, image_id)

    def _ask(self, client: httpx2.Client, chance: random.Random, image_id: str) -> None:
        kind = chance.choices(("click", "image", "broken", "many", "leave"), (50, 20, 15, 10, 5))[0]
        point = [chance.randrange(451), chance.randrange(300)]
        prompt = {"points": [point], "point_labels": [1]}
        fresh = self._photo + chance.randbytes(8)
        begun = time.perf_counter()
        try:
            match kind:
                case "click":
                    answer = client.post(GENERATE, json={"image_id": image_id, "prompt": prompt, "mask_format": "rle"})
                    expected = {200, 503}
                case "image":
                    answer = client.post(f"{GENERATE}?point={point[0]},{point[1]}", content=fresh)
                    expected = {200, 503}
                case "broken":
                    answer = client.post(GENERATE, content=self._photo[: chance.randrange(1, 4000)])
                    expected = {422}
                case "many":
                    answer = client.post(GENERATE, json={"image_id": image_id, "prompts": [prompt] * 65})
                    expected = {422}
                case _:
                    self._leave(fresh)
                    return
        except httpx2.TransportError as error:
            with self._lock:
                self.wrong.append(f"{kind}: {error!r}")
            return
        with self._lock:
            self.statuses[f"{kind} {answer.status_code}"] += 1
            if answer.status_code not in expected:
                self.wrong.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
            elif answer.status_code == 200:  # noqa: PLR2004
                self.latencies_ms.append((time.perf_counter() - begun) * 1e3)

    def _leave(self, body: bytes) -> None:
        """Send a request, and go before it is answered."""
        host, port = self._url.removeprefix("http://").split(":")
        head = f"POST {GENERATE} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode() + body)
        with self._lock:
            self.statuses["leave"] += 1

    def take(self) -> tuple[list[float], int]:
        """What has come since the last call."""
        with self._lock:
            latencies, self.latencies_ms = self.latencies_ms, []
            return latencies, len(self.wrong)


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """A server that is ready: its address and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    limits = {"OSAMD_REQUESTS_PER_MINUTE": "1000000", "OSAMD_ENCODES_PER_MINUTE": "1000000"}
    # Soon full, so that what grows after that should not.
    limits["OSAMD_EMBEDDING_CACHE_BYTES"] = "64000000"
    environment = os.environ | limits | {"API_KEY": KEY, "PORT": str(port), "OSAMD_CACHE": str(folder)}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "osamd", "serve"], env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def wait_until_ready(url: str) -> None:
    """Return when ``/ready`` answers 200."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            if httpx2.get(f"{url}/ready").status_code == 200:  # noqa: PLR2004
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the server is not ready")


def look(pid: int, at_s: float) -> Second:
    """Memory and open files of the process now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return Second(at_s, pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{pid}/fd").iterdir())))


def growth(seconds: list[Second]) -> float:
    """How much larger the last quarter's median memory is than the second's, as a fraction."""
    quarter = max(1, len(seconds) // 4)
    early = statistics.median(second.rss_bytes for second in seconds[quarter : 2 * quarter] or seconds[:1])
    late = statistics.median(second.rss_bytes for second in seconds[-quarter:])
    return late / early - 1.0


def draw(seconds: list[Second], path: Path) -> None:
    """Memory, median and 95th percentile latency, and wrong answers over time, one above the other."""
    rows: list[tuple[str, list[list[float]]]] = [
        ("memory, MiB", [[second.rss_bytes / 2**20 for second in seconds]]),
        ("latency, ms: median, 95th percentile", [_percentiles(seconds, 0.5), _percentiles(seconds, 0.95)]),
        ("wrong answers so far", [[float(second.wrong) for second in seconds]]),
    ]
    canvas = np.full((ROW * len(rows), WIDTH + 40, 3), 255, np.uint8)
    for number, (title, lines) in enumerate(rows):
        top = number * ROW + 30
        most = max(1.0, *(value for line in lines for value in line))
        cv2.putText(canvas, f"{title} (top: {most:.0f})", (20, top - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
        cv2.rectangle(canvas, (20, top), (20 + WIDTH, top + HEIGHT), (200, 200, 200), 1)
        for line, color in zip(lines, ((160, 60, 0), (0, 110, 220)), strict=False):
            points = [
                (20 + index * WIDTH // max(1, len(line) - 1), top + HEIGHT - int(value / most * HEIGHT))
                for index, value in enumerate(line)
            ]
            cv2.polylines(canvas, [np.array(points, np.int32)], isClosed=False, color=color, thickness=1)
    cv2.imwrite(str(path), canvas)


def _percentiles(seconds: list[Second], share: float) -> list[float]:
    values = [sorted(second.latencies_ms) for second in seconds]
    return [line[min(len(line) - 1, int(len(line) * share))] if line else 0.0 for line in values]


def soak(url: str, pid: int, arguments: argparse.Namespace, photo: bytes) -> tuple[Load, list[Second]]:
    """Ask until the time or the requests are over, looking at the server every second."""
    load = Load(url, photo, requests=arguments.requests)
    clients = [threading.Thread(target=load.run, args=(seed,)) for seed in range(arguments.clients)]
    seconds = []
    begun = time.monotonic()
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        time.sleep(1.0)
        second = look(pid, time.monotonic() - begun)
        second.latencies_ms, second.wrong = load.take()
        seconds.append(second)
        if arguments.requests is None and second.at_s >= arguments.minutes * 60:
            load.stop.set()
    return load, seconds


def main() -> int:
    """Run the soak test, report and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("soak"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    photo = (ROOT / "examples" / "cat.jpg").read_bytes()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (url, pid):
        load, seconds = soak(url, pid, arguments, photo)
    draw(seconds, arguments.output / "soak.png")
    (arguments.output / "soak.json").write_text(json.dumps([asdict(second) for second in seconds]), "utf-8")
    latencies = sorted(value for second in seconds for value in second.latencies_ms)
    grown = growth(seconds)
    print(f"{sum(load.statuses.values())} requests in {seconds[-1].at_s:.0f} s: {dict(sorted(load.statuses.items()))}")
    if latencies:
        print(
            f"masks: median {statistics.median(latencies):.0f} ms, p99 {latencies[int(len(latencies) * 0.99)]:.0f} ms"
        )
    print(f"memory: {seconds[0].rss_bytes / 2**20:.0f} to {seconds[-1].rss_bytes / 2**20:.0f} MiB, grown {grown:+.1%}")
    print(f"open files at most: {max(second.descriptors for second in seconds)}; wrong answers: {len(load.wrong)}")
    for line in load.wrong[:10]:
        print(f"  {line}")
    return 1 if load.wrong or grown > MOST_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
