"""Background load: clients that send requests until stopped, or for a number of seconds."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.connection import Connection, click_body
from benchmarks.photos import click, photo_base64
from benchmarks.servers import Server

LONGEST_S = 300.0


@dataclass
class Load:
    """Concurrent clients, each with its own connection.

    Attributes:
        seconds: how long each request took, of all clients.
    """

    seconds: list[float] = field(default_factory=list)
    _problems: list[BaseException] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def add_client(self, server: Server, bodies: Iterator[bytes], *, until_s: float = LONGEST_S) -> None:
        """Another client, which asks at least once, until the load stops, the time is up or it has nothing to ask."""
        thread = threading.Thread(target=self._work, args=(server, bodies, until_s), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, server: Server, bodies: Iterator[bytes], until_s: float) -> None:
        until = time.monotonic() + until_s
        try:
            with server.connect() as connection:
                for number, body in enumerate(bodies):
                    if number and (self._is_over.is_set() or time.monotonic() > until):
                        return
                    self.seconds.append(connection.post(server.path, body).seconds)
        except BaseException as problem:  # noqa: BLE001 - raised again where the load is stopped
            self._problems.append(problem)

    @property
    def is_running(self) -> bool:
        """Whether any client is still sending."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Let each client finish its request; raises any client's exception."""
        self._is_over.set()
        self.wait()

    def wait(self) -> None:
        """Wait until all clients have nothing more to ask; raises any client's exception."""
        for thread in self._threads:
            thread.join()
        if self._problems:
            raise self._problems[0]


def clicks_during(load: Load, connection: Connection, bodies: Sequence[bytes]) -> list[float]:
    """Seconds of the clicks that were answered while a load ran, which is stopped then."""
    clicks = []
    try:
        for body in bodies:
            seconds = connection.post("/api/generate", body).seconds
            if load.is_running:
                clicks.append(seconds)
    finally:
        load.stop()
    return clicks


def new_images(model: str, first: int, count: int) -> list[bytes]:
    """Requests for a click on photos that were not sent before, made ahead of the measurement."""
    return [click_body(model, click(number), image=photo_base64(number)) for number in range(first, first + count)]


def image_id_of(connection: Connection, model: str, number: int) -> str:
    """Have a server know a photo."""
    body = json.dumps({"model": model, "image": photo_base64(number)}).encode()
    return str(connection.post("/api/embed", body).json()["image_id"])


def fill(seconds: float, work: Callable[[int], object]) -> tuple[int, float]:
    """Do work again and again for some seconds; returns how often and the seconds it really took."""
    start = time.perf_counter()
    done = 0
    while time.perf_counter() - start < seconds:
        work(done)
        done += 1
    return done, time.perf_counter() - start


def dealt(items: Sequence[bytes], hands: int) -> list[Iterator[bytes]]:
    """Distribute items to this many clients."""
    return [iter(items[hand::hands]) for hand in range(hands)]
