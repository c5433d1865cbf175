"""Health probes while four clients have new images encoded, EfficientSAM Ti."""

import time

from benchmarks.load import Load, dealt, new_images
from benchmarks.rows import Outcome, Row, Target, duration
from benchmarks.servers import EFFICIENTSAM, Server
from benchmarks.spread import percentile, spread
from benchmarks.workbench import Workbench

FIRST_PHOTO = 6000
CLIENTS, IMAGES_A_CLIENT = 4, 6
PROBES, PAUSE_S = 500, 0.01
PEER_S = 10.0
P99_MS, WORST_MS = 20.0, 50.0


def measure(bench: Workbench) -> Outcome:
    """Probe ``/health`` of osamd, and of osam what answers as soon as it can: ``/``."""
    bodies = new_images(EFFICIENTSAM, FIRST_PHOTO, CLIENTS * IMAGES_A_CLIENT)
    with bench.osamd.connect() as warm:
        warm.post("/api/generate", new_images(EFFICIENTSAM, FIRST_PHOTO - 1, 1)[0])
    ours = _probe(bench.osamd, "/health", bodies, seconds=60.0)
    peer = [] if bench.is_quick else _probe(bench.osam, "/", bodies, seconds=PEER_S)
    p99, worst = percentile(ours, 0.99) * 1e3, max(ours) * 1e3
    amounts = {"p50": duration(percentile(ours, 0.5)), "probes": str(len(ours))}
    if peer:
        amounts["osam's worst"] = duration(max(peer))
    what = f"/health while {CLIENTS} images encode"
    rows = [
        Row(f"{what}, p99", spread([p99]), "ms", target=Target("at most", P99_MS), amounts=amounts),
        Row(f"{what}, worst", spread([worst]), "ms", target=Target("at most", WORST_MS), amounts=amounts),
    ]
    return Outcome(rows, {"osamd": ours, "osam": peer})


def _probe(server: Server, path: str, bodies: list[bytes], *, seconds: float) -> list[float]:
    """Seconds of each probe; ``count`` of them, or as many as fit into the time."""
    taken: list[float] = []
    load = Load()
    until = time.perf_counter() + seconds
    with server.connect() as connection:
        connection.get(path)
        for hand in dealt(bodies, CLIENTS):
            load.add_client(server, hand)
        try:
            while len(taken) < PROBES and time.perf_counter() < until and load.is_running:
                time.sleep(PAUSE_S)
                taken.append(connection.get(path).seconds)
        finally:
            load.stop()
    return taken
