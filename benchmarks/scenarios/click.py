"""The next click on an image the server has seen, EfficientSAM Ti, 2560 x 1600."""

import base64
import statistics
from collections import defaultdict

import cv2
import numpy as np

from benchmarks.bare import timed
from benchmarks.connection import Reply, click_body
from benchmarks.load import image_id_of
from benchmarks.photos import HEIGHT, WIDTH, click, photo, photo_base64
from benchmarks.rows import Outcome, Row, Target, duration, size
from benchmarks.servers import EFFICIENTSAM
from benchmarks.spread import ratios, spread
from benchmarks.workbench import Workbench, settle

PHOTO = 0
CLICKS_A_ROUND = 5
SIZE = (HEIGHT, WIDTH)
FASTER_THAN_OSAM, ENGINE_SHARE, ENGINE_SHARE_BY_ID, REPLY_PERCENT = 30.0, 1.3, 1.2, 1.0
STAGES_PERCENT, STAGES_MS = 5.0, 3.0


def measure(bench: Workbench) -> Outcome:
    """Compare with osam, and with the cut decoder plus resize plus PNG."""
    bare = bench.bare()
    pixels, _ = bare.prepare(photo(PHOTO))
    embedding = bare.encode(pixels)
    taken: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, list[float]] = defaultdict(list)
    shares = []
    stages: dict[str, list[float]] = defaultdict(list)
    with bench.osamd.connect() as osamd, bench.osam.connect() as osam:
        image = {"image": photo_base64(PHOTO)}
        handle = {"image_id": image_id_of(osamd, EFFICIENTSAM, PHOTO)}
        for number in range(-2, bench.rounds(quick=4, full=15)):
            point = click(number % 1000)
            now: dict[str, list[float]] = defaultdict(list)
            settle()
            peer = osam.post("/api/generate", click_body(EFFICIENTSAM, point, **image))
            for _ in range(CLICKS_A_ROUND):
                settle()
                by_image = osamd.post("/api/generate", click_body(EFFICIENTSAM, point, **image))
                settle()
                seconds, png = timed(bare.click, embedding, point, SIZE)
                now["bare"].append(seconds)
                settle()
                by_id = osamd.post("/api/generate", click_body(EFFICIENTSAM, point, **handle))
                settle()
                now["bare decoder as exported"].append(timed(bare.decode_whole, embedding, point, SIZE)[0])
                settle()
                now["bare cut decoder"].append(timed(bare.decode_low, embedding, point, SIZE)[0])
                for name, reply in (("by image", by_image), ("by image_id", by_id)):
                    now[name].append(reply.seconds)
                    now[f"{name}, server"].append(reply.server_s)
                now["untold"].append(by_id.untold_s)
                if number >= 0:
                    for stage, duration_s in by_id.stages_s.items():
                        stages[stage].append(duration_s)
            if number < 0:
                continue  # the first requests and what comes right after them
            taken["osam"].append(peer.seconds)
            for name, values in now.items():
                taken[name].append(statistics.median(values))
            sizes["osam"].append(len(peer.body))
            sizes["osamd"].append(len(by_image.body))
            sizes["bare PNG"].append(len(png))
            shares += [covered(peer), covered(by_image)]
    masks = (
        f"The masks cover {min(shares):.0%} to {max(shares):.0%} of the photo; osam and osamd answer with the same"
        " candidate."
    )
    told = ", ".join(f"{name} {duration(statistics.median(values))}" for name, values in stages.items())
    raw = {**taken, "reply bytes": dict(sizes), "covered shares": shares, "stages by image_id": dict(stages)}
    return Outcome(_rows(taken, sizes), raw, [masks, f"Stages of a click by image_id: {told}."])


def _rows(taken: dict[str, list[float]], sizes: dict[str, list[float]]) -> list[Row]:
    medians = {name: duration(statistics.median(values)) for name, values in taken.items()}
    rows = []
    for name, bound in (("by image", ENGINE_SHARE), ("by image_id", ENGINE_SHARE_BY_ID)):
        for place, suffix in (("at the client", ""), ("in the server", ", server")):
            ours = taken[name + suffix]
            what = f"next click {name}, {place}"
            amounts = {"osamd": medians[name + suffix], "osam": medians["osam"]}
            faster = Target("at least", FASTER_THAN_OSAM)
            rows.append(Row(f"{what}: faster", ratios(taken["osam"], ours), "x", "than osam", faster, amounts))
            amounts = {
                "osamd": medians[name + suffix],
                "bare": medians["bare"],
                "its decoder": medians["bare cut decoder"],
            }
            share = Target("at most", bound)
            rows.append(
                Row(f"{what}: cost", ratios(ours, taken["bare"]), "x", "of bare decoder + resize + PNG", share, amounts)
            )
    percent = [100 * ours / theirs for ours, theirs in zip(sizes["osamd"], sizes["osam"], strict=True)]
    amounts = {name: size(statistics.median(values)) for name, values in sizes.items()}
    rows.append(Row("reply to a click", spread(percent), "%", "of osam's", Target("at most", REPLY_PERCENT), amounts))
    allowed = max(STAGES_MS, STAGES_PERCENT / 100 * statistics.median(taken["by image_id, server"]) * 1e3)
    rows.append(
        Row(
            "the server's own time for a click by image_id that no stage of Server-Timing has",
            spread([abs(gap) * 1e3 for gap in taken["untold"]]),
            "ms",
            target=Target("at most", allowed),
        )
    )
    return rows


def covered(reply: Reply) -> float:
    """The share of the photo that the first mask of a reply covers, 0..1; whether cropped or not."""
    annotations = reply.json()["annotations"]
    if not annotations:
        return 0.0
    png = base64.b64decode(annotations[0]["mask"])
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    return float(np.count_nonzero(np.asarray(mask))) / (WIDTH * HEIGHT)
