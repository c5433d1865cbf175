"""Roboflow's inference-sdk and supervision, as they are, against a real server."""

import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from asking import CLICK, GENERATE
from pictures import Inside, base64_of, inside_of
from serving import KEY
from shelf import Library, run_library

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-tools" / "roboflow" / "bin" / "python"
BOX = [60, 20, 400, 290]

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with a model of each family."""
    with run_library(tmp_path_factory.mktemp("roboflow")) as running:
        yield running


def masks_of(library: Library, photo: bytes, model: str, **fields: Any) -> np.ndarray[Any, Any]:
    """All masks of ``/api/generate``, (N, height, width)."""
    with library.server.client() as client:
        reply = client.post(GENERATE, json={"image": base64_of(photo), "model": model, **fields})
    assert 200 == reply.status_code, reply.text
    return np.stack([inside_of(annotation) for annotation in reply.json()["annotations"]])


def filled(mask: Inside) -> Inside:
    """A mask without its holes."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    canvas = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(canvas, contours, -1, (1,), cv2.FILLED)
    return canvas > 0


def test_the_sdk_gets_the_masks_of_generate(library: Library, photo: bytes, tmp_path: Path) -> None:
    """Pixel for pixel, by clicks, boxes and words, with the key in the body and in a header; errors have words."""
    assert PYTHON.exists(), "run make test-tools, which installs the SDK"
    out = tmp_path / "masks.npz"
    command = [PYTHON, Path(__file__).with_name("roboflow_process.py"), library.server.url, KEY]
    done = subprocess.run(
        [*map(str, command), str(ROOT / "examples" / "cat.jpg"), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    found = np.load(out)

    by_click = {"prompt": {"points": [CLICK], "point_labels": [1]}, "multimask": True}
    click = masks_of(library, photo, "builtin", **by_click)[0]
    box = masks_of(library, photo, "builtin", prompt={"box": BOX}, multimask=True)[0]
    words = masks_of(library, photo, "sam3", prompt={"texts": ["cat"], "score_threshold": 0.2})
    for name in ("click", "bearer", "default"):
        assert (found[name] == click[np.newaxis]).all(), name
    assert (found["box"] == box[np.newaxis]).all()
    assert (found["two"] == np.stack([click, box])).all()
    assert (found["click_sam2"] == masks_of(library, photo, "sam2:tiny", **by_click)[:1]).all()
    assert (found["words"] == words).all()
    # This tool's polygons have no holes.
    assert (found["detections"] == filled(click)).all()
    assert (found["words_polygons"] == np.stack([filled(mask) for mask in words])).all()
    wrong, unknown = found["errors"]
    assert "api_key to InferenceHTTPClient" in wrong
    assert "hiera_huge" in unknown
