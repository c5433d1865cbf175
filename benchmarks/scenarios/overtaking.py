"""A click on a known image while another image is encoded, EfficientSAM Ti."""

import statistics
from itertools import count

from benchmarks.connection import click_body
from benchmarks.load import Load, clicks_during, image_id_of, new_images
from benchmarks.photos import click
from benchmarks.rows import Outcome, Row, Target, duration
from benchmarks.servers import EFFICIENTSAM
from benchmarks.spread import percentile, ratios, spread
from benchmarks.workbench import Workbench

PHOTO = 3000
CLICKS_A_ROUND = 20
SLOWER, ENCODE_SHARE = 3.0, 1.0


def measure(bench: Workbench) -> Outcome:
    """Click while nothing else happens, then while one client sends new images without a pause."""
    idle: list[list[float]] = []
    busy: list[list[float]] = []
    encodes: list[float] = []
    photos = count(PHOTO + 1)
    with bench.osamd.connect() as osamd:
        handle = image_id_of(osamd, EFFICIENTSAM, PHOTO)
        for _ in range(bench.rounds(quick=3, full=8)):
            bodies = [click_body(EFFICIENTSAM, click(number), image_id=handle) for number in range(CLICKS_A_ROUND)]
            others = new_images(EFFICIENTSAM, next(photos) * 10, 8)
            idle.append([osamd.post("/api/generate", body).seconds for body in bodies])
            load = Load()
            load.add_client(bench.osamd, iter(others))
            busy.append(clicks_during(load, osamd, bodies))
            encodes += load.seconds
    idle_s = [statistics.median(values) for values in idle]
    busy_s = [statistics.median(values) for values in busy]
    worst = max(max(values) for values in busy)
    encode_s = statistics.median(encodes)
    every = [value for values in busy for value in values]
    rows = [
        Row(
            "click on a known image while another encodes: slower",
            ratios(busy_s, idle_s),
            "x",
            "than idle",
            Target("at most", SLOWER),
            {
                "idle": duration(statistics.median(idle_s)),
                "busy": duration(statistics.median(busy_s)),
                "busy p95": duration(percentile(every, 0.95)),
            },
        ),
        Row(
            "the worst such click",
            spread([worst / encode_s]),
            "x",
            "of the other's request",
            Target("at most", ENCODE_SHARE),
            {"worst": duration(worst), "the other's request": duration(encode_s)},
        ),
    ]
    return Outcome(rows, {"idle": idle, "busy": busy, "encodes": encodes})
