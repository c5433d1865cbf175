"""Overload a real server many times, and report whether it degrades as guaranteed.

python benchmarks/overload.py [--times 20] [--seconds 10] [--image FILE]

First a few clients that wait for their answers find the rate the server sustains on images it has not seen. Then many
times that rate is sent, whether or not it answers. Guaranteed: accepted requests are answered within the deadline,
refusals take less than 50 ms at the 95th percentile, everything is answered, and memory stays flat. Clients and server
share this machine, so times are upper bounds. Exits with 1 if a guarantee is broken.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEYS = 8
SUSTAINED_CLIENTS = 4
SUSTAINED_S = 5.0
DEADLINE_S = 10.0
REFUSAL_S = 0.050
# What a server may hold more after than before; answers in flight, threads' stacks, and the allocator's.
FLAT = 1.25
OK = 200
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Times:
    """Seconds that answers took: the middle one, the one that 95 of 100 are below, the longest."""

    p50: float
    p95: float
    most: float


@dataclass(frozen=True)
class Report:
    """What was seen."""

    image_bytes: int
    sustained_per_s: float
    sent_per_s: float
    answers: dict[int, int]
    accepted_per_s: float
    accepted_s: Times
    deadline_s: float
    refused_s: Times
    memory_before_mib: int
    memory_most_mib: int
    sustained_after_per_s: float

    def promises(self) -> dict[str, bool]:
        """Which guarantees held."""
        return {
            "everything is answered": 0 not in self.answers,
            "accepted within the deadline": self.accepted_s.most < self.deadline_s,
            "refusals below 50 ms at p95": self.refused_s.p95 < REFUSAL_S,
            "memory flat": self.memory_most_mib < self.memory_before_mib * FLAT,
        }


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        status: of the answer; 0 where there was none.
        seconds: from the connection to the answer's head.
    """

    status: int
    seconds: float


class Images:
    """Bodies that no server has seen: a picture with a number behind it, which no decoder reads."""

    def __init__(self, picture: bytes) -> None:
        self._picture = picture
        self._numbers = itertools.count()

    def __call__(self) -> tuple[int, bytes]:
        """The next number and its body."""
        number = next(self._numbers)
        return number, self._picture + number.to_bytes(8, "big")


def secret_of(number: int) -> str:
    """The secret of one of the users."""
    return f"overload-secret-{number:02}"


async def ask(port: int, images: Images) -> Answer:
    """Post an image on a new connection."""
    number, body = images()
    head = (
        f"POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {secret_of(number % KEYS)}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + body)
            status_line = await reader.readline()
            seconds = time.perf_counter() - start
            await reader.read()
        finally:
            writer.close()
    except OSError:
        return Answer(0, time.perf_counter() - start)
    return Answer(int(status_line.split()[1]) if status_line else 0, seconds)


async def sustained_rate(port: int, images: Images) -> float:
    """Answers a second for clients that wait for them."""
    until = time.perf_counter() + SUSTAINED_S
    count = 0

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < until:
            answer = await ask(port, images)
            count += answer.status == OK

    await asyncio.gather(*[client() for _ in range(SUSTAINED_CLIENTS)])
    return count / SUSTAINED_S


async def flood(port: int, images: Images, rate: float, seconds: float) -> list[Answer]:
    """Send at a rate, whatever comes back."""
    start = time.perf_counter()
    tasks: list[asyncio.Task[Answer]] = []
    while (now := time.perf_counter() - start) < seconds:
        tasks += [asyncio.create_task(ask(port, images)) for _ in range(int(now * rate) - len(tasks))]
        await asyncio.sleep(0.002)
    return list(await asyncio.gather(*tasks))


async def watched_memory(process: int, found: list[int]) -> None:
    """Append the process's resident bytes, four times a second."""
    while True:
        found.append(resident_bytes(process))
        await asyncio.sleep(0.25)


def resident_bytes(process: int) -> int:
    """Bytes of memory a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE


def times_of(values: list[float]) -> Times:
    """Their middle, 95th percentile and end; zeros where there are none."""
    ordered = sorted(values) or [0.0]
    at = [ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in (0.5, 0.95, 1.0)]
    return Times(*(round(value, 4) for value in at))


@contextlib.contextmanager
def running_server(folder: Path, *, secrets: Mapping[str, str], env: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """A server with several users' keys: its port and its process id; stopped at the end.

    Args:
        folder: for its cache and key file.
        secrets: of the users, by name.
        env: settings beside the defaults. What a key may ask for in a minute is not limited unless this says so.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    keys = folder / "keys"
    keys.write_text("".join(f"{name} user {secret}\n" for name, secret in secrets.items()))
    keys.chmod(0o600)
    passed_on = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    settings = {"API_KEY_FILE": str(keys), "OSAMD_CACHE": str(folder), "PORT": str(port), "OSAMD_LOG_LEVEL": "error"}
    # Overload and attacks are measured, not one key's rate limit.
    settings |= {"OSAMD_REQUESTS_PER_MINUTE": "1000000", "OSAMD_ENCODES_PER_MINUTE": "1000000", "OSAMD_PULL": "never"}
    process = subprocess.Popen([sys.executable, "-m", "osamd", "serve"], env=passed_on | settings | dict(env))
    try:
        wait_until_ready(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(port: int) -> None:
    """Return when ``/ready`` is 200."""
    request = b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(request)
                if connection.recv(20).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server never became ready")


async def measure(port: int, process: int, picture: bytes, times: float, seconds: float) -> Report:
    """Sustain, flood, and sum up."""
    images = Images(picture)
    await sustained_rate(port, images)
    rate = await sustained_rate(port, images)
    before = resident_bytes(process)
    memory: list[int] = []
    watcher = asyncio.create_task(watched_memory(process, memory))
    answers = await flood(port, images, rate * times, seconds)
    watcher.cancel()
    after = await sustained_rate(port, images)
    accepted = [answer.seconds for answer in answers if answer.status == OK]
    return Report(
        image_bytes=len(picture),
        sustained_per_s=round(rate, 1),
        sent_per_s=round(len(answers) / seconds, 1),
        answers=dict(sorted(Counter(answer.status for answer in answers).items())),
        accepted_per_s=round(len(accepted) / seconds, 1),
        accepted_s=times_of(accepted),
        deadline_s=DEADLINE_S,
        refused_s=times_of([answer.seconds for answer in answers if answer.status not in {OK, 0}]),
        memory_before_mib=before >> 20,
        memory_most_mib=max(memory) >> 20,
        sustained_after_per_s=round(after, 1),
    )


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=20.0, help="how many times the sustained rate (20)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for how long (10)")
    parser.add_argument("--image", type=Path, default=ROOT / "examples" / "cat.jpg", help="what is sent")
    arguments = parser.parse_args()
    picture = arguments.image.read_bytes()
    secrets = {f"name-{number}": secret_of(number) for number in range(KEYS)}
    # The cache is full at once, so that memory that grows is not this.
    env = {"OSAMD_DEADLINE_S": str(DEADLINE_S), "OSAMD_EMBEDDING_CACHE_BYTES": str(64 << 20)}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), secrets=secrets, env=env) as (port, process),
    ):
        report = asyncio.run(measure(port, process, picture, arguments.times, arguments.seconds))
    print(json.dumps(asdict(report), indent=1))
    promises = report.promises()
    for promise, is_kept in promises.items():
        print(f"{'kept' if is_kept else 'BROKEN'}: {promise}", file=sys.stderr)
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
