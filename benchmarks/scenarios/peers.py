"""Clicks on known photos by the number of clients, SAM ViT-B: osamd, and each of the servers people use instead.

osamd is asked by ``image_id``; the others have no such thing and get the photo with each click.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count, cycle, repeat

from benchmarks import rembg_peer
from benchmarks.connection import click_body
from benchmarks.load import Load, image_id_of
from benchmarks.photos import click, photo, photo_base64
from benchmarks.rows import Outcome, Row, duration
from benchmarks.servers import SAM, Server, run_loop, run_osam, run_rembg
from benchmarks.spread import ratios
from benchmarks.workbench import Workbench, settle, turned

FIRST_PHOTO = 9600
OURS, OSAM, REMBG, LOOP = "osamd", "osam", "rembg", "FastAPI + SamOnnxModel"
# Each has a photo of its own.
CLIENTS = (1, 2, 4)
# Different clicks of each client, if they come with the photo: written beforehand, as they take milliseconds.
CLICKS = 4
Bodies = Callable[[int], Iterator[bytes]]


def measure(bench: Workbench) -> Outcome:
    """Each peer runs alone with osamd, in turns, so that memory holds them and ratios are of the same minute."""
    model = {SAM: bench.paths[SAM]}
    folder = bench.folder
    peers = {
        OSAM: (run_osam(folder / "peers-osam", model), _with_image),
        LOOP: (run_loop(folder / "peers-loop", bench.paths[SAM]), _with_image),
    }
    if rembg_peer.REMBG.exists():
        peers[REMBG] = (run_rembg(folder / "peers-rembg", bench.paths[SAM]), _with_form)
    counts = CLIENTS[:2] if bench.is_quick else CLIENTS
    with bench.osamd.connect() as osamd:
        handles = [image_id_of(osamd, SAM, FIRST_PHOTO + number) for number in range(max(counts))]

    def by_handle(client: int) -> Iterator[bytes]:
        return (click_body(SAM, click(number), image_id=handles[client]) for number in count())

    rates: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    alone: dict[str, list[float]] = defaultdict(list)
    rows: list[Row] = []
    window_s = 0.5 if bench.is_quick else 4.0
    for name, (running, bodies) in peers.items():
        beside: dict[str, list[float]] = defaultdict(list)
        with running as server:
            sides = [(OURS, bench.osamd, by_handle), (name, server, bodies)]
            for number in range(bench.rounds(quick=1, full=3)):
                for clients in counts:
                    for side, asked, requests in turned(sides, number):
                        settle()
                        seconds, rate = _burst(asked, requests, clients, window_s)
                        rates[side][clients].append(rate)
                        if clients == 1:
                            alone[side] += seconds
                            beside[side].append(statistics.median(seconds))
        rows.append(_row(name, beside))
    if REMBG not in peers:
        rows[0] = replace(rows[0], amounts={**rows[0].amounts, REMBG: rembg_peer.NOT_INSTALLED})
    notes = [
        "SAM ViT-B beside other servers: every client clicks on a photo of its own again and again.",
        "There osamd is asked by image_id, and the others get the photo each time.",
        f"{LOOP} remembers one photo: with several clients it encodes for each click.",
    ]
    if REMBG in peers:
        notes.append("rembg gets the same click each time: for a new one it loads the model again and keeps both.")
    return Outcome(rows, {"clicks a second": _by_clients(rates), "latencies of one client": dict(alone)}, notes)


def _by_clients(rates: Mapping[str, Mapping[int, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {side: {str(clients): values for clients, values in found.items()} for side, found in rates.items()}


def _burst(server: Server, bodies: Bodies, clients: int, window_s: float) -> tuple[list[float], float]:
    """Seconds of each click, and clicks a second, of clients that ask at least once and until the window is over."""
    if clients == 1:
        # Who remembers a single photo knows this one from now on.
        with server.connect() as connection:
            connection.post(server.path, next(bodies(0)))
    asked = [bodies(client) for client in range(clients)]
    load, begun = Load(), time.perf_counter()
    for items in asked:
        load.add_client(server, items, until_s=window_s)
    load.wait()
    return load.seconds, len(load.seconds) / (time.perf_counter() - begun)


def _with_image(client: int) -> Iterator[bytes]:
    image = photo_base64(FIRST_PHOTO + client)
    return cycle([click_body(SAM, click(number), image=image) for number in range(CLICKS)])


def _with_form(client: int) -> Iterator[bytes]:
    return repeat(rembg_peer.click_form(photo(FIRST_PHOTO + client), click(0)))


def _row(name: str, beside: Mapping[str, list[float]]) -> Row:
    medians = {side: duration(statistics.median(values)) for side, values in beside.items()}
    return Row(
        f"next click, SAM ViT-B, one client: faster than {name}",
        ratios(beside[name], beside[OURS]),
        "x",
        amounts=medians,
    )
