"""labelme itself, its window offscreen, with its AI models on a server."""

import base64
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import inside_of, iou
from PIL import Image, ImageDraw
from serving import KEY, RunningServer, clean_environment, run_server

from osamd.client import Client

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-tools" / "labelme" / "bin" / "python"
PHOTO = ROOT / "examples" / "cat.jpg"
NETWORK = ROOT / "src" / "osamd" / "models" / "builtin_net"
# The built-in network's files under labelme's first choice: real masks, without any download.
ROW = f"""
[[model]]
name = "sam2:latest"
family = "builtin"
[model.blobs.encoder]
url = "{(NETWORK / "encoder.onnx").as_uri()}"
[model.blobs.decoder]
url = "{(NETWORK / "decoder.onnx").as_uri()}"
"""


def drive(server: RunningServer, folder: Path, pictures: Path) -> dict[str, Any]:
    """What labelme's window shows after two clicks; its log must not have the key."""
    env = {
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(folder),
        "QT_QPA_PLATFORM": "offscreen",
        "OSAMD_URL": server.url,
        "OSAMD_API_KEY": KEY,
    }
    assert PYTHON.exists(), "run make test-tools, which installs labelme"
    ended = subprocess.run(
        [PYTHON, Path(__file__).with_name("labelme_window.py"), PHOTO, pictures],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert "error" not in told, told["error"]
    logs = "".join(log.read_text("utf-8", "replace") for log in (folder / ".cache").rglob("*.log"))
    assert "Starting" in logs + ended.stderr
    assert KEY not in logs + ended.stderr + ended.stdout
    return told


def test_clicks_in_the_window_become_a_polygon(tmp_path: Path) -> None:
    """Of the server's mask; labelme's own session gets the masks of ``/api/generate`` pixel for pixel."""
    rows = tmp_path / "models.toml"
    rows.write_text(ROW, "utf-8")
    with run_server(cache=tmp_path, env={"API_KEY": KEY, "OSAMD_CATALOG": str(rows)}) as server:
        told = drive(server, tmp_path, Path(os.environ.get("TOOLS_PICTURES") or tmp_path))
        requests = [json.loads(line) for line in server.log_text().splitlines() if "/api/generate" in line]
        with Client(server.url, api_key=KEY) as client:
            pixels = np.asarray(Image.open(PHOTO).convert("RGB"))
            asked: list[dict[str, Any]] = [
                {"points": [[225, 150]], "point_labels": [1]},
                {"points": [[225, 150], [315, 130]], "point_labels": [1, 0]},
                {"box": [60, 20, 400, 290]},
            ]
            ours = [
                client.segment(pixels, model="sam2:latest", prompts=[prompt], mask_layout="crop").raw["annotations"]
                for prompt in asked
            ]
            mask = inside_of(
                client.segment(pixels, model="sam2:latest", points=[[225, 150], [315, 130]], labels=[1, 1]).raw[
                    "annotations"
                ][0]
            )

    (outline,) = told["shapes"]
    drawn = Image.new("1", (pixels.shape[1], pixels.shape[0]))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in outline], fill=1)
    assert iou(np.asarray(drawn), mask) > 0.9  # labelme simplifies
    assert len(requests) >= 2
    for theirs, own in zip(told["session"], ours, strict=True):
        assert [item["bounding_box"] for item in theirs] == [item["bounding_box"] for item in own]
        for one, other in zip(theirs, own, strict=True):
            image = Image.open(io.BytesIO(base64.b64decode(one["mask"])))
            assert np.array_equal(np.asarray(image) > 0, inside_of(other))


def test_the_window_says_what_the_server_has_no_weights_for(tmp_path: Path) -> None:
    """In its status bar, and stays open."""
    with run_server(cache=tmp_path, env={"API_KEY": KEY}) as server:
        told = drive(server, tmp_path, tmp_path)

    assert told["shapes"] == []
    assert told["status"].startswith("AI inference failed: ModelUnavailableError: model: sam2:latest is not on this")
