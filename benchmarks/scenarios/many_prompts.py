"""Fifty prompts on one image in one request, EfficientSAM Ti, 2560 x 1600."""

import json
import statistics
from collections import defaultdict

from benchmarks.bare import timed
from benchmarks.load import image_id_of
from benchmarks.photos import HEIGHT, WIDTH, click, photo
from benchmarks.rows import Outcome, Row, Target, duration
from benchmarks.servers import EFFICIENTSAM
from benchmarks.spread import ratios
from benchmarks.workbench import Workbench, settle

PHOTO = 2000
PROMPTS = 50
SIZE = (HEIGHT, WIDTH)
ENGINE_SHARE = 1.1


def measure(bench: Workbench) -> Outcome:
    """Compare one request with as many clicks on the bare sessions."""
    bare = bench.bare()
    embedding = bare.encode(bare.prepare(photo(PHOTO))[0])
    points = [click(number) for number in range(PROMPTS)]
    taken: dict[str, list[float]] = defaultdict(list)
    with bench.osamd.connect() as osamd:
        fields = {"model": EFFICIENTSAM, "image_id": image_id_of(osamd, EFFICIENTSAM, PHOTO)}
        prompts = [{"points": [point], "point_labels": [1]} for point in points]
        body = json.dumps(fields | {"prompts": prompts}).encode()
        for number in range(-1, bench.rounds(quick=2, full=6)):
            settle()
            whole = osamd.post("/api/generate", body)
            settle()
            low = [timed(bare.decode_low, embedding, point, SIZE) for point in points]
            pictures = [timed(bare.mask_png, mask, SIZE)[0] for _, mask in low]
            if number < 0:
                continue
            taken["osamd"].append(whole.seconds)
            taken["osamd, decode stage"].append(whole.stages_s["decode"])
            taken["bare decoder"].append(sum(seconds for seconds, _ in low))
            taken["bare decoder + resize + PNG"].append(sum(seconds for seconds, _ in low) + sum(pictures))
    medians = {name: duration(statistics.median(values)) for name, values in taken.items()}
    target = Target("at most", ENGINE_SHARE)
    whole_bare = "bare decoder + resize + PNG"
    rows = [
        Row(
            f"{PROMPTS} prompts in one request",
            ratios(taken["osamd"], taken[whole_bare]),
            "x",
            f"of {PROMPTS} x {whole_bare}",
            target,
            {"osamd": medians["osamd"], "bare": medians[whole_bare]},
        ),
        Row(
            f"{PROMPTS} prompts in one request, decode stage",
            ratios(taken["osamd, decode stage"], taken["bare decoder"]),
            "x",
            f"of {PROMPTS} x bare cut decoder",
            target,
            {"osamd": medians["osamd, decode stage"], "bare": medians["bare decoder"]},
        ),
    ]
    return Outcome(rows, taken)
