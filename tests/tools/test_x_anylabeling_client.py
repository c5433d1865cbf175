"""X-AnyLabeling's own remote client against a real server."""

import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from asking import CLICK, GENERATE
from pictures import Inside, base64_of, inside_of, iou
from serving import KEY, clean_environment
from shelf import Library, run_library

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-tools" / "x-anylabeling" / "bin" / "python"

pytestmark = pytest.mark.tools


def mask_of(library: Library, photo: bytes, **prompt: Any) -> Inside:
    """The built-in network's mask by ``/api/generate``."""
    with library.server.client() as client:
        reply = client.post(GENERATE, json={"image": base64_of(photo), "prompt": prompt})
    assert 200 == reply.status_code, reply.text
    return inside_of(reply.json()["annotations"][0])


def filled(shapes: list[dict[str, Any]]) -> Inside:
    """What the client's polygons cover."""
    canvas = np.zeros((300, 451), np.uint8)
    for shape in shapes:
        cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], 1)
    return canvas > 0


def test_the_client_gets_the_masks_of_generate(photo: bytes, tmp_path: Path) -> None:
    """As polygons, by a click, a rectangle and words; models and errors arrive too, with a slash after the URL."""
    assert PYTHON.exists(), "run make test-tools, which installs X-AnyLabeling"
    with run_library(tmp_path) as library:
        url = f"{library.server.url}/x-anylabeling/"
        script = Path(__file__).with_name("x_anylabeling_process.py")
        done = subprocess.run(
            [*map(str, (PYTHON, script)), url, KEY, str(ROOT / "examples" / "cat.jpg"), str(tmp_path)],
            env=clean_environment({"HOME": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert 0 == done.returncode, done.stderr[-4000:]
        shown = json.loads(done.stdout.splitlines()[-1])
        by_click = mask_of(library, photo, points=[CLICK], point_labels=[1])
        by_box = mask_of(library, photo, box=[60, 20, 400, 290])

    assert next(iter(shown["models"])) == "sam2:tiny"
    assert {"AUTOLABEL_OBJECT"} == {shape["label"] for shape in shown["click"]}
    assert iou(by_click, filled(shown["click"])) >= 0.99
    assert iou(by_box, filled(shown["rectangle"])) >= 0.99
    assert {"cat", "dog"} >= {shape["label"] for shape in shown["words"]}
    assert ([], {}) == (shown["wrong model"], shown["wrong key"])
    assert ["422 Client Error", "401 Client Error"] == [
        message.removeprefix("Remote server error: ")[:16] for message in shown["messages"]
    ]
    assert KEY not in str(shown["messages"])
