"""Four clients with nothing but new photos, built-in model and EfficientSAM Ti, against a plain loop."""

import base64
import statistics
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

from benchmarks.bare import BareModel
from benchmarks.bare_builtin import BareBuiltin
from benchmarks.connection import click_body
from benchmarks.load import Load, dealt
from benchmarks.photos import click, photo, variant
from benchmarks.rows import Outcome, Row, Target, duration, figure
from benchmarks.servers import BUILTIN, EFFICIENTSAM
from benchmarks.spread import percentile, ratios
from benchmarks.workbench import Workbench, settle, turned

FIRST_PHOTO = 9000
# Distinct pictures; the server gets a variant of one that it has not seen each time.
PICTURES = 8
CLIENTS = 4
FASTER = 1.15
LOOP_A_CORE = "a loop a core, 1 thread each"
Bare = BareModel | BareBuiltin


@dataclass
class _Contest:
    """Takes turns: each side works through its photos and notes how many a second it did.

    Attributes:
        bench: the workbench.
        model: its name.
        count: photos for the server in a round; half of them for each loop.
    """

    bench: Workbench
    model: str
    count: int
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    latencies: list[float] = field(default_factory=list)
    _sent: int = 0
    _bare: dict[int, Bare] = field(default_factory=dict)

    def serve(self) -> None:
        """The server and its clients; their requests are written beforehand."""
        numbers = range(self._sent, self._sent + self.count)
        self._sent += self.count
        bodies = [self._body(number) for number in numbers]
        load, begun = Load(), time.perf_counter()
        for items in dealt(bodies, CLIENTS):
            load.add_client(self.bench.osamd, items)
        load.wait()
        self.rates["osamd"].append(self.count / (time.perf_counter() - begun))
        self.latencies.extend(load.seconds)

    def loop(self, threads: int) -> None:
        """One photo after the other, each step with this many threads."""
        model, begun = self._model(threads), time.perf_counter()
        done = max(1, self.count // 2)
        for number in range(done):
            _segment(model, number)
        self.rates[f"loop, {threads} threads"].append(done / (time.perf_counter() - begun))

    def loop_a_core(self) -> None:
        """As many loops as cores, each with one thread."""
        model = self._model(1)
        each = max(1, self.count // 2 // self.bench.threads)

        def work() -> None:
            for number in range(each):
                _segment(model, number)

        workers = [threading.Thread(target=work) for _ in range(self.bench.threads)]
        begun = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.rates[LOOP_A_CORE].append(each * len(workers) / (time.perf_counter() - begun))

    def _body(self, number: int) -> bytes:
        data = variant(photo(FIRST_PHOTO + number % PICTURES), number)
        return click_body(self.model, click(number), image=base64.b64encode(data).decode("ascii"))

    def _model(self, threads: int) -> Bare:
        if threads not in self._bare:
            self._bare[threads] = (
                BareBuiltin(threads) if self.model == BUILTIN else self.bench.bare(self.model, threads=threads)
            )
        return self._bare[threads]


def _segment(model: Bare, number: int) -> None:
    """Decode the JPEG, encode, decode a click: no mask of the photo's size, no PNG."""
    pixels, size = model.prepare(photo(FIRST_PHOTO + number % PICTURES))
    model.decode_low(model.encode(pixels), click(number), size)  # type: ignore[arg-type]  # of the same model


def measure(bench: Workbench) -> Outcome:
    """Photos a second of the server, of loops with 1 to all threads, and of one loop a core."""
    rows: list[Row] = []
    raw: dict[str, dict[str, list[float]]] = {}
    for model, name, quick, full in ((BUILTIN, "built-in model", 16, 80), (EFFICIENTSAM, "EfficientSAM Ti", 4, 12)):
        contest = _Contest(bench, model, bench.rounds(quick=quick, full=full))
        loops = [partial(contest.loop, threads) for threads in range(1, bench.threads + 1)]
        parts = [partial(contest.serve), *loops, partial(contest.loop_a_core)]
        for number in range(-1, bench.rounds(quick=2, full=4)):
            for part in turned(parts, number):
                settle()
                part()
            if number < 0:
                contest.rates.clear()
                contest.latencies.clear()
        rows += _rows(name, contest)
        raw[model] = {**contest.rates, "latencies": contest.latencies}
    return Outcome(rows, raw)


def _rows(name: str, contest: _Contest) -> list[Row]:
    rates, latencies = contest.rates, contest.latencies
    loops = {side: values for side, values in rates.items() if side.startswith("loop")}
    best = max(loops, key=lambda side: statistics.median(loops[side]))
    amounts = {side: f"{figure(statistics.median(values))} /s" for side, values in sorted(rates.items())}
    return [
        Row(
            f"{CLIENTS} clients with new photos, {name}: photos a second",
            ratios(rates["osamd"], rates[best]),
            "x",
            f"of a plain loop of JPEG + encode + decode ({best})",
            Target("at least", FASTER),
            amounts | {"p50": duration(percentile(latencies, 0.5)), "p99": duration(percentile(latencies, 0.99))},
        ),
        Row(f"the same against one loop a core, {name}", ratios(rates["osamd"], rates[LOOP_A_CORE]), "x"),
    ]
