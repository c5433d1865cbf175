"""Overload a real server many times, and report whether it degrades as guaranteed.

python benchmarks/overload.py [--times 20] [--seconds 10] [--image FILE]

First a few clients that wait for their answers find the rate the server sustains on images it has not seen. Then many
times that rate is sent, whether or not it answers. Guaranteed: accepted requests are answered within the deadline and
are at least four fifths of the sustained rate, refusals take less than 50 ms at the 95th percentile, everything is
answered, and memory stays flat. Clients and server share this machine, so times are upper bounds; the CPU times of both
are reported. Exits with 1 if a guarantee is broken.
"""

import argparse
import contextlib
import itertools
import json
import os
import selectors
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
sys.path.insert(0, str(ROOT))

from benchmarks.attacks import cpu_seconds, family, resident_bytes  # noqa: E402

KEYS = 8
SUSTAINED_CLIENTS = 4
SUSTAINED_S = 5.0
DEADLINE_S = 10.0
REFUSAL_S = 0.050
# Accepted answers per second, of the sustained rate.
KEPT = 0.8
# How often requests are sent that are due, and memory is looked at, in seconds.
PACE_S = 0.002
LOOK_EVERY_S = 0.1
# What a server may hold more after than before; answers in flight, threads' stacks, and the allocator's.
FLAT = 1.25
OK = 200


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
    accepted_of_sustained: float
    accepted_s: Times
    deadline_s: float
    refused_s: Times
    server_cpu_s: float
    server_cpu_ms_per_refusal: float
    clients_cpu_s: float
    memory_before_mib: int
    memory_most_mib: int
    sustained_after_per_s: float

    def promises(self) -> dict[str, bool]:
        """Which guarantees held."""
        return {
            "everything is answered": 0 not in self.answers,
            "accepted within the deadline": self.accepted_s.most < self.deadline_s,
            "accepted at 80 % of the sustained rate": self.accepted_of_sustained >= KEPT,
            "refusals below 50 ms at p95": self.refused_s.p95 < REFUSAL_S,
            "memory flat": self.memory_most_mib < self.memory_before_mib * FLAT,
        }


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        status: of the answer; 0 where there was none.
        seconds: from the connection to the answer's head.
        ended: when it was over, on the clock ``time.perf_counter``.
    """

    status: int
    seconds: float
    ended: float


def secret_of(number: int) -> str:
    """The secret of one of the users."""
    return f"overload-secret-{number:02}"


class Request:
    """A request on a new connection, whose answer is read to its end.

    Args:
        port: of the server.
        number: makes the body unique, and picks the key.
        picture: an encoded image; the number is appended, which no decoder reads.
    """

    def __init__(self, port: int, number: int, picture: bytes) -> None:
        head = (
            f"POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {secret_of(number % KEYS)}\r\n"
            f"Content-Length: {len(picture) + 8}\r\nConnection: close\r\n\r\n"
        )
        # Sent from where they are: copying and parsing in this process would take CPU time from the server.
        self._unsent = [memoryview(head.encode()), memoryview(picture), memoryview(number.to_bytes(8, "big"))]
        self._begun = time.perf_counter()
        self._head: tuple[int, float] | None = None
        self.socket = socket.socket()
        self.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))

    @property
    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def advance(self, events: int) -> Answer | None:
        """Send and receive what is possible now; the answer once it is over."""
        try:
            if events & selectors.EVENT_WRITE:
                self._send()
            if events & selectors.EVENT_READ:
                received = self.socket.recv(65536)
                if received and self._head is None:
                    self._head = (int(received[9:12]), time.perf_counter() - self._begun)
                if not received:
                    return self._end()
        except OSError:
            return self._end()
        return None

    def _send(self) -> None:
        sent = self.socket.sendmsg(self._unsent)
        while self._unsent and sent >= len(self._unsent[0]):
            sent -= len(self._unsent.pop(0))
        if sent:
            self._unsent[0] = self._unsent[0][sent:]

    def _end(self) -> Answer:
        self.socket.close()
        now = time.perf_counter()
        status, seconds = self._head or (0, now - self._begun)
        return Answer(status, seconds, now)


class Clients:
    """Sends requests from one thread, without a library, so that most of the machine is left to the server.

    Args:
        port: of the server.
        process: of the server.
        picture: an encoded image.

    Attributes:
        most_bytes: most resident memory of the server that was seen.
    """

    def __init__(self, port: int, process: int, picture: bytes) -> None:
        self._port = port
        self._process = process
        self._picture = picture
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._looked = 0.0
        self.most_bytes = 0

    def sustain(self) -> float:
        """Answers a second for clients that wait for theirs before they send again."""
        until = time.perf_counter() + SUSTAINED_S
        for _ in range(SUSTAINED_CLIENTS):
            self._begin()
        count = 0
        while self._selector.get_map():
            for answer in self._advance(None):
                if time.perf_counter() < until:
                    count += answer.status == OK
                    self._begin()
        return count / SUSTAINED_S

    def flood(self, rate: float, seconds: float) -> list[Answer]:
        """Send at a rate, whatever comes back; all answers."""
        begun = time.perf_counter()
        sent, answers = 0, []
        while (now := time.perf_counter() - begun) < seconds or self._selector.get_map():
            while now < seconds and sent < now * rate:
                self._begin()
                sent += 1
            answers += self._advance(PACE_S if now < seconds else None)
            if now - self._looked > LOOK_EVERY_S:
                self._looked = now
                self.most_bytes = max(self.most_bytes, resident_bytes(self._process))
        return answers

    def _begin(self) -> None:
        request = Request(self._port, next(self._numbers), self._picture)
        self._selector.register(request.socket, request.events, request)

    def _advance(self, timeout: float | None) -> list[Answer]:
        """Let requests go on that can; returns the answers of those that are over."""
        answers = []
        for key, events in self._selector.select(timeout):
            request: Request = key.data
            answer = request.advance(events)
            if answer is not None:
                self._selector.unregister(key.fileobj)
                answers.append(answer)
            elif request.events != key.events:
                self._selector.modify(key.fileobj, request.events, request)
        return answers


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


def measure(port: int, process: int, picture: bytes, times: float, seconds: float) -> Report:
    """Sustain, flood, and sum up."""
    clients = Clients(port, process, picture)
    clients.sustain()
    used = server_cpu(process)
    rate = clients.sustain()
    cpu_of_accepted = (server_cpu(process) - used) / max(1.0, rate * SUSTAINED_S)
    before = resident_bytes(process)
    used, own, begun = server_cpu(process), time.process_time(), time.perf_counter()
    answers = clients.flood(rate * times, seconds)
    used, own = server_cpu(process) - used, time.process_time() - own
    after = clients.sustain()
    accepted = [answer for answer in answers if answer.status == OK]
    refused = [answer.seconds for answer in answers if answer.status not in {OK, 0}]
    per_s = sum(answer.ended < begun + seconds for answer in accepted) / seconds
    return Report(
        image_bytes=len(picture),
        sustained_per_s=round(rate, 1),
        sent_per_s=round(len(answers) / seconds, 1),
        answers=dict(sorted(Counter(answer.status for answer in answers).items())),
        accepted_per_s=round(per_s, 1),
        accepted_of_sustained=round(per_s / rate, 2),
        accepted_s=times_of([answer.seconds for answer in accepted]),
        deadline_s=DEADLINE_S,
        refused_s=times_of(refused),
        server_cpu_s=round(used, 2),
        server_cpu_ms_per_refusal=round((used - len(accepted) * cpu_of_accepted) / max(1, len(refused)) * 1e3, 2),
        clients_cpu_s=round(own, 2),
        memory_before_mib=before >> 20,
        memory_most_mib=clients.most_bytes >> 20,
        sustained_after_per_s=round(after, 1),
    )


def server_cpu(process: int) -> float:
    """CPU seconds of the server and its processes so far."""
    return sum(map(cpu_seconds, family(process)))


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
        report = measure(port, process, picture, arguments.times, arguments.seconds)
    print(json.dumps(asdict(report), indent=1))
    promises = report.promises()
    for promise, is_kept in promises.items():
        print(f"{'kept' if is_kept else 'BROKEN'}: {promise}", file=sys.stderr)
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
