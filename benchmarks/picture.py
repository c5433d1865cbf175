"""Draw the results: latency by percentile and throughput by clients, ours and the peers'.

python -m benchmarks.picture [RESULTS] writes RESULTS/picture.svg, as each run of the benchmarks does.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.spread import percentile
from osamd.cli.bench.curves import height_of, label, panel
from osamd.cli.bench.report import duration

RESULTS = Path(__file__).parent / "results"
NAME = "picture.svg"
PERCENTILES = (50, 75, 90, 95, 99)
LEFT, TOP, STEP, MARGIN, SMALLEST = 90, 90, 420, 40, 560
# The sides of ``click.json``, whose names say how the photo was sent. osam is slow and gets one click a round; of the
# others a round keeps the median of five clicks, which hides the slowest of them.
SIDES_OF_A_CLICK = {
    "by image": "osamd, medians of 5",
    "osam": "osam",
    "bare": "bare decoder + resize + PNG, medians of 5",
}


def picture(results: Path) -> str | None:
    """The SVG; None if neither of the two scenarios has results.

    SAM ViT-B beside all peers once that was measured, else the clicks on EfficientSAM beside osam.
    """
    peers, click = (_read(results / f"{name}.json") for name in ("peers", "click"))
    document = peers or click
    if document is None:
        return None
    if peers is not None:
        model, latencies = "SAM ViT-B", peers["raw"]["latencies of one client"]
    else:
        model = "EfficientSAM Ti"
        latencies = {name: document["raw"][side] for side, name in SIDES_OF_A_CLICK.items()}
    curves = {
        f"{side} (n = {len(seconds)})": [percentile(seconds, share / 100) for share in PERCENTILES]
        for side, seconds in latencies.items()
    }
    places = [f"p{share}" for share in PERCENTILES]
    parts = panel(LEFT, TOP, "next click on a known photo, one client", places, curves, _one_digit)
    panels = 1
    if peers is not None:
        parts += _throughput(peers["raw"]["clicks a second"])
        panels = 2
    on = document["on"]
    title = f"{model}, 2560 x 1600, {on['cores']} cores, no GPU; {document['at'][:10]}"
    width, height = max(SMALLEST, panels * STEP + MARGIN), TOP + height_of(len(curves)) + 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, ground, label(16, 30, title, size=16), *parts, "</svg>", ""])


def _throughput(rates: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    counts = sorted({int(clients) for found in rates.values() for clients in found})
    curves = {
        side: [median(found[str(clients)]) if str(clients) in found else None for clients in counts]
        for side, found in rates.items()
    }
    places = [f"{clients} client{'s' if clients > 1 else ''}" for clients in counts]
    return panel(LEFT + STEP, TOP, "clicks a second, each client on a photo of its own", places, curves, "{:g}".format)


def _one_digit(seconds: float) -> str:
    return duration(seconds, digits=1)


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def write(results: Path) -> None:
    """Draw what there is."""
    drawn = picture(results)
    if drawn is not None:
        (results / NAME).write_text(drawn, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
