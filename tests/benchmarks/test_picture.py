import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from benchmarks import picture

REDRAW = "draw it again: python -m benchmarks.picture"


def test_the_picture_in_the_readme_shows_the_results() -> None:
    """It must not show older numbers than the table beside it."""
    assert picture.picture(picture.RESULTS) == (picture.RESULTS / picture.NAME).read_text("utf-8"), REDRAW


def test_peers_are_drawn_by_percentile_and_by_clients(tmp_path: Path) -> None:
    """A peer that was not measured with as many clients ends earlier."""
    shutil.copy(picture.RESULTS / "click.json", tmp_path)
    raw = {
        "clicks a second": {"osamd": {"1": [20.0], "2": [30.0, 32.0]}, "rembg": {"1": [0.1]}},
        "latencies of one client": {"osamd": [0.05, 0.06], "rembg": [12.0]},
    }
    document = {"raw": raw, "on": {"cores": 2}, "at": "2026-11-29T02:00:00+00:00"}
    (tmp_path / "peers.json").write_text(json.dumps(document), "utf-8")

    picture.write(tmp_path)

    words = list(ET.parse(tmp_path / picture.NAME).getroot().itertext())  # noqa: S314 - our own
    assert {"SAM ViT-B, 2560 x 1600, 2 cores, no GPU; 2026-11-29", "osamd (n = 2)", "rembg (n = 1)"} <= set(words)
    assert {"1 client", "2 clients", "p50", "p99", "10 s"} <= set(words)


@pytest.mark.parametrize("left", ["", "health.json"])
def test_nothing_is_drawn_without_clicks(tmp_path: Path, left: str) -> None:
    """A first run of another scenario."""
    if left:
        (tmp_path / left).write_text("{}", "utf-8")

    picture.write(tmp_path)

    assert not (tmp_path / picture.NAME).exists()
