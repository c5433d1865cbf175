"""``Timings``: the stopwatch that travels with a request."""

import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

STAGES = ("receive", "parse", "queue", "decode_image", "encode", "decode", "mask", "reply")

Result = TypeVar("Result")


class Timings:
    """A stopwatch that starts when created: seconds spent in each stage of one request.

    Thread-safe. Stages do not overlap, so their sum is the request's own time: time spent waiting for a thread or to be
    woken counts as ``queue``. Those that two workers pass at the same time count with their share of it.

    Attributes:
        model: full name of the model that answers, once it is known.
        made: when it was created, on the clock ``time.perf_counter``.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self.made = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float, *, begun: float | None = None) -> None:
        """Add to a stage; stages that run twice add up.

        Args:
            stage: its name.
            seconds: how long it took.
            begun: when it began, on the clock ``time.perf_counter``; None: it ended just now.
        """
        begun = time.perf_counter() - seconds if begun is None else begun
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
            self._begun.setdefault(stage, begun)

    def add_overlapping(self, others: Sequence["Timings"], seconds: float) -> None:
        """Add the stages of stopwatches that ran at the same time, scaled down if they exceed the time that passed.

        Args:
            others: the stopwatches.
            seconds: how long they ran together.
        """
        found = [
            (other.made + begun, stage, other.seconds()[stage])
            for other in others
            for stage, begun in other.begun().items()
        ]
        total = sum(spent for _, _, spent in found)
        share = min(1.0, seconds / total) if total else 1.0
        for begun, stage, spent in sorted(found):
            self.add(stage, share * spent, begun=begun)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start, begun=start)

    def stage_in_steps(self, name: str, steps: Generator[None, None, Result]) -> Generator[None, None, Result]:
        """The same steps, each timed as one stage, without what runs in between."""
        while True:
            with self.stage(name):
                try:
                    next(steps)
                except StopIteration as end:
                    result: Result = end.value
                    return result
            yield

    def total(self) -> float:
        """Seconds since the stopwatch was created."""
        return time.perf_counter() - self.made

    def seconds(self) -> Mapping[str, float]:
        """Seconds by stage, in the order a request passes them."""
        with self._lock:
            return {name: self._seconds[name] for name in STAGES if name in self._seconds}

    def begun(self) -> Mapping[str, float]:
        """When each stage first began, in seconds after the stopwatch was created."""
        with self._lock:
            return {name: at - self.made for name, at in self._begun.items()}

    def server_timing(self) -> str:
        """The value of a ``Server-Timing`` header (W3C), in milliseconds: the stages, then the total until now."""
        stages = self.seconds()
        if not stages:
            return ""
        return ", ".join(
            f"{name};dur={seconds * 1e3:.2f}" for name, seconds in {**stages, "total": self.total()}.items()
        )
