"""Eight clients on eight known photos: one process, or two that share the cores; built-in model and EfficientSAM Ti."""

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count

from benchmarks.connection import click_body
from benchmarks.load import Load, image_id_of
from benchmarks.photos import click
from benchmarks.rows import Outcome, Row, duration, figure, size
from benchmarks.servers import BUILTIN, EFFICIENTSAM, Server, run_osamd
from benchmarks.spread import percentile, ratios
from benchmarks.workbench import Workbench, settle, turned

FIRST_PHOTO = 9500
CLIENTS, PHOTOS, PROCESSES = 8, 8, 2
ONE = "one process"


def measure(bench: Workbench) -> Outcome:
    """Each photo is known to one process, as behind a balancer that routes by image, and each has as many of them.

    That is the best that several processes can do; a balancer on the same machine would take some of the processor.
    """
    halved = str(max(1, bench.threads // PROCESSES))
    kinds: tuple[tuple[str, int, dict[str, str]], ...] = (
        (ONE, 1, {}),
        (f"{PROCESSES} processes, {halved} threads each", PROCESSES, {"OSAMD_THREADS": halved}),
        (f"{PROCESSES} processes, defaults", PROCESSES, {}),
    )
    sides: dict[str, list[Server]] = {}
    with contextlib.ExitStack() as stack:
        # All new: the server of the other scenarios holds their photos and models.
        for side, (name, processes, env) in enumerate(kinds):
            folders = [bench.folder / f"processes-{side}-{number}" for number in range(processes)]
            sides[name] = [stack.enter_context(run_osamd(folder, bench.paths, env)) for folder in folders]
        rows: list[Row] = []
        raw: dict[str, Mapping[str, Sequence[float]]] = {}
        for model, label in ((BUILTIN, "built-in model"), (EFFICIENTSAM, "EfficientSAM Ti")):
            rates, latencies = _contest(bench, sides, model)
            rows += _rows(label, sides, rates, latencies)
            raw[model] = rates
            raw[f"{model}, latencies"] = latencies
    return Outcome(rows, raw)


def _contest(
    bench: Workbench, sides: Mapping[str, Sequence[Server]], model: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Clicks a second by side and round, and seconds of every click by side."""
    rates: dict[str, list[float]] = defaultdict(list)
    latencies: dict[str, list[float]] = defaultdict(list)
    handles = {name: _handles(servers, model) for name, servers in sides.items()}

    def click_for_a_while(name: str) -> None:
        load, begun = Load(), time.perf_counter()
        for client in range(CLIENTS):
            server = sides[name][client % len(sides[name])]
            load.add_client(server, _bodies(model, handles[name][client], client * 100))
        time.sleep(2.0 if bench.is_quick else 6.0)
        load.stop()
        rates[name].append(len(load.seconds) / (time.perf_counter() - begun))
        latencies[name].extend(load.seconds)

    parts = [partial(click_for_a_while, name) for name in sides]
    for number in range(-1, bench.rounds(quick=2, full=5)):
        for part in turned(parts, number):
            settle()
            part()
        if number < 0:
            rates.clear()
            latencies.clear()
    return rates, latencies


def _handles(servers: Sequence[Server], model: str) -> list[str]:
    """The photos' handles, dealt to the servers in turn."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for server in servers]
        return [
            image_id_of(connections[number % len(servers)], model, FIRST_PHOTO + number) for number in range(PHOTOS)
        ]


def _bodies(model: str, handle: str, first: int) -> Iterator[bytes]:
    for number in count(first):
        yield click_body(model, click(number), image_id=handle)


def _rows(
    label: str,
    sides: Mapping[str, Sequence[Server]],
    rates: Mapping[str, Sequence[float]],
    latencies: Mapping[str, Sequence[float]],
) -> list[Row]:
    def amounts(name: str) -> dict[str, str]:
        rate = figure(statistics.median(rates[name]))
        memory = size(sum(server.resident_bytes() for server in sides[name]))
        p50, p99 = (duration(percentile(latencies[name], share)) for share in (0.5, 0.99))
        return {name: f"{rate} /s, p50 {p50}, p99 {p99}, {memory}"}

    return [
        Row(
            f"{CLIENTS} clients on {PHOTOS} known photos, {label}, {name}: clicks a second",
            ratios(rates[name], rates[ONE]),
            "x",
            "of one process",
            amounts=amounts(name) | amounts(ONE),
        )
        for name in sides
        if name != ONE
    ]
