"""A click on a known image while everything is searched in another, of 24 megapixels, EfficientSAM Ti."""

import json
import statistics

from benchmarks.connection import click_body
from benchmarks.load import Load, clicks_during, image_id_of
from benchmarks.photos import click, photo_base64
from benchmarks.rows import Outcome, Row, Target, duration
from benchmarks.servers import EFFICIENTSAM
from benchmarks.spread import percentile, ratios
from benchmarks.workbench import Workbench

PHOTO = 4000
WIDTH, HEIGHT = 6000, 4000
CLICKS_A_ROUND = 20
SLOWER = 3.0
# Random weights: no mask is refused, and no point skipped, so that the search lasts and cuts masks all the time.
EVERYTHING = {
    "points_per_side": 64,
    "pred_iou_thresh": 0,
    "stability_score_thresh": 0,
    "box_nms_thresh": 1,
    "max_masks": 1000,
    "max_seconds": 90,
    "skip_explained": False,
}


def measure(bench: Workbench) -> Outcome:
    """Click while nothing else happens, then while a search runs whose client has the same key."""
    idle: list[list[float]] = []
    busy: list[list[float]] = []
    with bench.osamd.connect() as osamd:
        handle = image_id_of(osamd, EFFICIENTSAM, PHOTO)
        large = {"model": EFFICIENTSAM, "image": photo_base64(PHOTO + 1, width=WIDTH, height=HEIGHT)}
        other = str(osamd.post("/api/embed", json.dumps(large).encode()).json()["image_id"])
        fields = {"image_id": other, "mask_format": "rle", "mask_layout": "crop"}
        for _ in range(bench.rounds(quick=2, full=6)):
            bodies = [click_body(EFFICIENTSAM, click(number), image_id=handle) for number in range(CLICKS_A_ROUND)]
            idle.append([osamd.post("/api/generate", body).seconds for body in bodies])
            # Longer than the clicks take; the round ends with it.
            seconds = max(2.0, 4 * SLOWER * sum(idle[-1]))
            everything = fields | {"prompt": {"everything": EVERYTHING | {"max_seconds": min(90.0, seconds)}}}
            load = Load()
            load.add_client(bench.osamd, iter([json.dumps(everything).encode()]))
            busy.append(clicks_during(load, osamd, bodies))
    idle_s = [statistics.median(values) for values in idle]
    busy_s = [statistics.median(values) for values in busy]
    every = [value for values in busy for value in values]
    row = Row(
        "click on a known image while everything is searched in 24 megapixels: slower",
        ratios(busy_s, idle_s),
        "x",
        "than idle",
        Target("at most", SLOWER),
        {
            "idle": duration(statistics.median(idle_s)),
            "busy": duration(statistics.median(busy_s)),
            "busy p95": duration(percentile(every, 0.95)),
        },
    )
    return Outcome([row], {"idle": idle, "busy": busy})
