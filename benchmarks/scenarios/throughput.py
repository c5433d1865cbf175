"""Eight clients clicking on four known images by image_id, EfficientSAM Ti, against a plain loop without a server."""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from benchmarks.bare import BareModel
from benchmarks.connection import click_body
from benchmarks.load import Load, fill, image_id_of
from benchmarks.photos import HEIGHT, WIDTH, click, photo
from benchmarks.rows import Outcome, Row, Target, duration, figure
from benchmarks.servers import EFFICIENTSAM
from benchmarks.spread import percentile, ratios, spread
from benchmarks.workbench import Workbench, settle, turned

FIRST_PHOTO = 4000
CLIENTS, IMAGES = 8, 4
SIZE = (HEIGHT, WIDTH)
ENGINE_SHARE = 0.75
LOOP_A_CORE = "a loop a core, 1 thread each"


class _Contest:
    """Takes turns: each part fills a window of some seconds and notes its clicks a second.

    Args:
        bench: the workbench.
        window_s: seconds of one turn.
    """

    def __init__(self, bench: Workbench, window_s: float) -> None:
        self._bench = bench
        self._window_s = window_s
        bare = bench.bare()
        self._embeddings = [bare.encode(bare.prepare(photo(FIRST_PHOTO + number))[0]) for number in range(IMAGES)]
        with bench.osamd.connect() as osamd:
            self._handles = [image_id_of(osamd, EFFICIENTSAM, FIRST_PHOTO + number) for number in range(IMAGES)]
        self.forget()

    def forget(self) -> None:
        """What was noted until now was for warming up."""
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.latencies: list[float] = []
        self.client_percent: list[float] = []

    def serve(self) -> None:
        """The server and its clients."""
        load, begun, cpu = Load(), time.perf_counter(), time.process_time()
        for client in range(CLIENTS):
            load.add_client(self._bench.osamd, self._bodies(client * 100))
        time.sleep(self._window_s)
        load.stop()
        seconds = time.perf_counter() - begun
        self.rates["osamd"].append(len(load.seconds) / seconds)
        self.client_percent.append(100 * (time.process_time() - cpu) / seconds)
        self.latencies.extend(load.seconds)

    def loop(self, threads: int) -> None:
        """One click after the other, each with this many threads."""
        done, seconds = fill(self._window_s, partial(self._click, self._bench.bare(threads=threads)))
        self.rates[f"loop, {threads} threads"].append(done / seconds)

    def loop_a_core(self) -> None:
        """As many loops as cores, each with one thread."""
        click_alone, begun = partial(self._click, self._bench.bare(threads=1)), time.perf_counter()
        done: list[int] = []

        def work() -> None:
            done.append(fill(self._window_s, click_alone)[0])

        workers = [threading.Thread(target=work) for _ in range(self._bench.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.rates[LOOP_A_CORE].append(sum(done) / (time.perf_counter() - begun))

    def _bodies(self, first: int) -> Iterator[bytes]:
        for number in count(first):
            yield click_body(EFFICIENTSAM, click(number), image_id=self._handles[number % IMAGES])

    def _click(self, model: BareModel, number: int) -> None:
        model.click(self._embeddings[number % IMAGES], click(number), SIZE)


def measure(bench: Workbench) -> Outcome:
    """Clicks a second of the server, of loops with 1 to all threads, and of one loop a core."""
    contest = _Contest(bench, window_s=1.5 if bench.is_quick else 6.0)
    loops = [partial(contest.loop, threads) for threads in range(1, bench.threads + 1)]
    parts: list[Callable[[], None]] = [contest.serve, *loops, contest.loop_a_core]
    for number in range(-1, bench.rounds(quick=3, full=6)):
        for part in turned(parts, number):
            settle()
            part()
        if number < 0:
            contest.forget()
    return _outcome(contest.rates, contest.latencies, contest.client_percent)


def _outcome(rates: dict[str, list[float]], latencies: list[float], client_percent: list[float]) -> Outcome:
    loops = {name: values for name, values in rates.items() if name.startswith("loop")}
    best = max(loops, key=lambda name: statistics.median(loops[name]))
    amounts = {name: f"{figure(statistics.median(values))} /s" for name, values in sorted(rates.items())}
    rows = [
        Row(
            f"{CLIENTS} clients on {IMAGES} known images by image_id: clicks a second",
            ratios(rates["osamd"], rates[best]),
            "x",
            f"of a plain loop ({best})",
            Target("at least", ENGINE_SHARE),
            amounts | {"p50": duration(percentile(latencies, 0.5)), "p99": duration(percentile(latencies, 0.99))},
        ),
        Row(
            "the same against one loop a core",
            ratios(rates["osamd"], rates[LOOP_A_CORE]),
            "x",
            "of a loop a core",
        ),
        Row("processor the clients took meanwhile", spread(client_percent), "% of a core"),
    ]
    return Outcome(rows, {"clicks a second": dict(rates), "latencies": latencies, "client CPU percent": client_percent})
