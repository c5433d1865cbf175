"""Measure a deployment with osamd's own client, phase by phase."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from osamd.cli.bench.pictures import Pictures
from osamd.cli.bench.progress import Progress
from osamd.cli.bench.samples import Answer, Phase, Result
from osamd.client import Client, Segmentation
from osamd.errors import CapacityError, OsamdError
from osamd.library.rows import shown_url

# A new image costs an encode, so fewer of them are sent.
CLICKS_A_NEW_IMAGE = 4
FEWEST_NEW_IMAGES = 2
# After a rejection a client waits as long as Retry-After says, up to this many seconds.
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0

Ask = Callable[[Client], Segmentation]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        url: the server.
        api_key: sent with each request, or None.
        model: a model's name, or None for the server's default.
        image: a photo, - for one on standard input, or None for the example.
        requests: clicks of each kind.
        clients: concurrent clients in the last phase.
        seconds: duration of the last phase.
        patience_s: how long the first request may wait for a sleeping host.
    """

    url: str
    api_key: str | None = field(repr=False)
    model: str | None
    image: Path | str | None
    requests: int
    clients: int
    seconds: float
    patience_s: float


@dataclass
class _Sampler:
    """Collects the answers of one phase, from one thread or several."""

    answers: list[Answer] = field(default_factory=list)
    refused: int = 0
    problem: OsamdError | None = None

    def ask(self, client: Client, ask: Ask) -> Segmentation | None:
        """Time one request; None if the server was too busy."""
        start = time.perf_counter()
        try:
            found = ask(client)
        except CapacityError as error:
            self.refused += 1
            self.problem = error
            time.sleep(min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, error.retry_after_s or 0.0)))
            return None
        seconds = time.perf_counter() - start
        self.answers.append(Answer(seconds, found.sent_bytes, found.received_bytes, found.timings_ms))
        return found

    def phase(self, name: str, begun: float, clients: int = 1) -> Phase:
        """The collected answers; raises the last error if there are none."""
        if not self.answers:
            raise self.problem or RuntimeError("a phase without requests")
        return Phase(name, self.answers, time.perf_counter() - begun, clients, self.refused)


def measure(plan: Plan, progress: Progress) -> Result:
    """Run all phases; takes ``plan.seconds`` plus the time of the requests.

    Raises:
        InvalidImageError: the photo cannot be read.
        OsamdError: an error from the server, other than being temporarily too busy.
        UnreachableError: no answer within ``patience_s``.
    """
    pictures = Pictures(plan.image)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    progress.show("first answer", 0.0)
    try:
        first, found = _first_answer(plan, pictures)
        alone, handle = _one_client(plan, pictures, progress)
        together = _together(plan, handle, progress)
    finally:
        progress.end()
    return Result(shown_url(plan.url), found.model, pictures.width, pictures.height, at, [first, *alone, together])


def _one_client(plan: Plan, pictures: Pictures, progress: Progress) -> tuple[list[Phase], str]:
    """Send new images, then click on the last one; also returns its handle."""
    fresh = [pictures.fresh() for _ in range(max(FEWEST_NEW_IMAGES, plan.requests // CLICKS_A_NEW_IMAGE))]
    with _client(plan, patience_s=0.0) as client:
        new = _repeat("new image", len(fresh), client, lambda number: _by_image(plan, fresh[number]), progress)
        again = _repeat("click, image again", plan.requests, client, lambda _: _by_image(plan, fresh[-1]), progress)
        with _client(plan, patience_s=plan.patience_s) as patient:
            handle = patient.segment(fresh[-1], model=plan.model).image_id
        by_id = _repeat("click by image_id", plan.requests, client, lambda _: _by_id(plan, handle), progress)
    return [new, again, by_id], handle


def _client(plan: Plan, *, patience_s: float) -> Client:
    return Client(plan.url, api_key=plan.api_key, patience_s=patience_s)


def _by_image(plan: Plan, image: bytes) -> Ask:
    return lambda client: client.segment(image, model=plan.model)


def _by_id(plan: Plan, handle: str) -> Ask:
    return lambda client: client.segment(image_id=handle, model=plan.model)


def _first_answer(plan: Plan, pictures: Pictures) -> tuple[Phase, Segmentation]:
    """The first request, with retries: a sleeping host refuses connections or answers 502 and 503 until it is awake."""
    image, sampler, begun = pictures.fresh(), _Sampler(), time.perf_counter()
    with _client(plan, patience_s=plan.patience_s) as client:
        found = sampler.ask(client, _by_image(plan, image))
    phase = sampler.phase("first answer", begun)
    if found is None:
        raise RuntimeError("an answer was counted and none is there")
    return phase, found


def _repeat(name: str, count: int, client: Client, ask: Callable[[int], Ask], progress: Progress) -> Phase:
    sampler, begun = _Sampler(), time.perf_counter()
    for number in range(count):
        sampler.ask(client, ask(number))
        progress.show(name, (number + 1) / count)
    return sampler.phase(name, begun)


def _together(plan: Plan, handle: str, progress: Progress) -> Phase:
    """All clients at once, each with its own connection and always one request in flight."""
    name = f"click by image_id, {plan.clients} clients"
    sampler, begun, is_over = _Sampler(), time.perf_counter(), threading.Event()
    problems: list[Exception] = []

    def work() -> None:
        try:
            with _client(plan, patience_s=0.0) as client:
                while not is_over.is_set():
                    sampler.ask(client, _by_id(plan, handle))
        except Exception as problem:  # noqa: BLE001 - raised again by the thread that started this one
            problems.append(problem)
            is_over.set()

    workers = [threading.Thread(target=work) for _ in range(plan.clients)]
    for worker in workers:
        worker.start()
    try:
        while not is_over.wait(min(0.1, plan.seconds)) and time.perf_counter() - begun < plan.seconds:
            progress.show(name, (time.perf_counter() - begun) / plan.seconds)
    finally:
        is_over.set()
        for worker in workers:
            worker.join()
    if problems:
        raise problems[0]
    return sampler.phase(name, begun, plan.clients)
