"""The first request on a new image, EfficientSAM Ti, 2560 x 1600."""

import statistics
from collections import defaultdict

from benchmarks.bare import timed
from benchmarks.connection import Connection, click_body
from benchmarks.photos import HEIGHT, WIDTH, click, photo, photo_base64
from benchmarks.rows import Outcome, Row, Target, duration
from benchmarks.servers import EFFICIENTSAM
from benchmarks.spread import ratios
from benchmarks.workbench import Workbench, settle, turned

FIRST_PHOTO = 1000
ENGINE_SHARE = 1.05


def measure(bench: Workbench) -> Outcome:
    """Compare with osam, and with the bare encoder and cut decoder: no JPEG, no PNG."""
    bare = bench.bare()
    taken: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, list[float]] = defaultdict(list)

    def ask(connection: Connection, name: str, number: int) -> None:
        body = click_body(EFFICIENTSAM, click(number), image=photo_base64(number))
        reply = connection.post("/api/generate", body)
        taken[name].append(reply.seconds)
        for stage, seconds in reply.stages_s.items():
            stages[stage].append(seconds)

    def run_bare(number: int) -> None:
        prepare_s, (pixels, image_size) = timed(bare.prepare, photo(number))
        encode_s, embedding = timed(bare.encode, pixels)
        decode_s, _ = timed(bare.decode_low, embedding, click(number), image_size)
        taken["bare"].append(encode_s + decode_s)
        taken["bare encoder"].append(encode_s)
        taken["JPEG and resizing"].append(prepare_s)

    with bench.osamd.connect() as osamd, bench.osam.connect() as osam:
        parts = [lambda n: ask(osam, "osam", n), lambda n: ask(osamd, "osamd", n), run_bare]
        for number in range(-1, bench.rounds(quick=5, full=15)):
            for part in turned(parts, number):
                settle()
                part(FIRST_PHOTO + number)
            if number < 0:
                taken.clear()
                stages.clear()
    medians = {name: duration(statistics.median(values)) for name, values in taken.items()}
    rows = [
        Row(
            "first request on a new image: cost",
            ratios(taken["osamd"], taken["bare"]),
            "x",
            "of bare encoder + cut decoder",
            Target("at most", ENGINE_SHARE),
            {"osamd": medians["osamd"], "bare": medians["bare"]},
        ),
        Row(
            "first request on a new image: faster",
            ratios(taken["osam"], taken["osamd"]),
            "x",
            "than osam",
            Target("at least", 1.0),
            {"osamd": medians["osamd"], "osam": medians["osam"]},
        ),
    ]
    told = ", ".join(f"{stage} {duration(statistics.median(values))}" for stage, values in stages.items())
    note = (
        f"New image, {WIDTH} x {HEIGHT}: stages {told}. Decoding the JPEG and resizing it with OpenCV takes"
        f" {medians['JPEG and resizing']}, which is not in the bare time."
    )
    return Outcome(rows, {**taken, "stages": dict(stages)}, [note])
