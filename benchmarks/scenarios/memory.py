"""Resident memory: after SAM ViT-B and many photos, and whether it stays flat once the cache is full."""

import time
from collections.abc import Iterable

from benchmarks.connection import click_body
from benchmarks.photos import click, photo_base64
from benchmarks.rows import Outcome, Row, Target, size
from benchmarks.servers import BUILTIN, EFFICIENTSAM, SAM, Server, run_osam, run_osamd
from benchmarks.spread import spread
from benchmarks.workbench import Workbench

LARGE = {"width": 1280, "height": 800}
SMALL = {"width": 640, "height": 400}
CLICKS_A_LOOK = 10
OSAM_SHARE = 1 / 3
# What a flat line may rise by. A leak of a mask's bytes a click would be a rise of several times that.
RISE_PERCENT = 3.0
# Room for about ten of the built-in model's embeddings, so that it is full at once.
SMALL_CACHE = str(16 * 1024 * 1024)
# By then the masks kept for refinement, 64 MB, are as many as there may be: 1 270 of the built-in model's.
BEFORE_FLAT = 0.3
# osamd gives back what an encoder worked in after ten seconds without work.
REST_S = 15.0


def measure(bench: Workbench) -> Outcome:
    """SAM for both servers; the built-in model, of which osam has none, for the flat line."""
    model = EFFICIENTSAM if bench.is_quick else SAM
    ours_count, peer_count = bench.rounds(quick=6, full=50), bench.rounds(quick=2, full=5)
    paths = {model: bench.paths[model]}
    with run_osamd(bench.folder / "memory-osamd", paths) as server:
        ours = _after_photos(server, model, range(8000, 8000 + ours_count))
    with run_osam(bench.folder / "memory-osam", paths) as server:
        peer = _after_photos(server, model, range(8000, 8000 + peer_count))
    settings = {"OSAMD_EMBEDDING_CACHE_BYTES": SMALL_CACHE, "OSAMD_REQUESTS_PER_MINUTE": "1000000"}
    with run_osamd(bench.folder / "flat", {}, settings) as server:
        # Clicks first: only then are the masks kept for refinement as many as there may be when photos come.
        clicks = _after_clicks(server, bench.rounds(quick=500, full=10_000))
        photos = _after_small_photos(server, range(bench.rounds(quick=50, full=500)))
    rows = [
        Row(
            f"resident memory after {model} and {ours_count} photos",
            spread([ours[-1] / peer[-1]]),
            "x",
            f"of osam's after {peer_count}, both at rest for {REST_S:g} s",
            Target("at most", OSAM_SHARE),
            {"osamd": size(ours[-1]), "osam": size(peer[-1])},
        ),
        Row(
            "the same right after the last photo",
            spread([ours[-2] / peer[-2]]),
            "x",
            "of osam's",
            amounts={"osamd": size(ours[-2]), "osam": size(peer[-2])},
        ),
        _flat_row(f"rise over {len(photos)} photos, cache full, built-in model", photos),
        _flat_row(f"rise over {CLICKS_A_LOOK * len(clicks)} clicks by image_id, built-in model", clicks),
    ]
    raw = {"osamd": ours, "osam": peer, "photos": photos, "clicks": clicks}
    return Outcome(rows, {name: [round(value / 1e6, 1) for value in values] for name, values in raw.items()})


def _after_photos(server: Server, model: str, numbers: Iterable[int]) -> list[float]:
    """Resident bytes after each photo, and once when idle."""
    found = []
    with server.connect() as connection:
        for number in numbers:
            body = click_body(model, click(number, **LARGE), image=photo_base64(number, **LARGE))
            connection.post("/api/generate", body)
            found.append(float(server.resident_bytes()))
    time.sleep(REST_S)
    found.append(float(server.resident_bytes()))
    return found


def _after_small_photos(server: Server, numbers: Iterable[int]) -> list[float]:
    found = []
    with server.connect() as connection:
        for number in numbers:
            body = click_body(BUILTIN, click(number, **SMALL), image=photo_base64(number, **SMALL))
            connection.post("/api/generate", body)
            found.append(float(server.resident_bytes()))
    return found


def _after_clicks(server: Server, number_of_clicks: int) -> list[float]:
    found = []
    with server.connect() as connection:
        body = click_body(BUILTIN, click(0, **SMALL), image=photo_base64(0, **SMALL))
        handle = connection.post("/api/generate", body).json()["image_id"]
        for number in range(number_of_clicks):
            connection.post("/api/generate", click_body(BUILTIN, click(number, **SMALL), image_id=handle))
            if number % CLICKS_A_LOOK == 0:
                found.append(float(server.resident_bytes()))
    return found


def _flat_row(what: str, resident: list[float]) -> Row:
    """How much higher the last tenth is than the tenth after the first fifth."""
    tenth = max(1, len(resident) // 10)
    start = int(len(resident) * BEFORE_FLAT)
    before = spread(resident[start : start + tenth]).middle
    after = spread(resident[-tenth:]).middle
    percent = 100 * (after - before) / before
    amounts = {"before": size(before), "after": size(after)}
    return Row(what, spread([percent]), "%", target=Target("at most", RISE_PERCENT), amounts=amounts)
