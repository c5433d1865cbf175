"""Label Studio's own decoder of brush masks, as it is."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from osamd.pixels.brush import encode_brush
from osamd.pixels.masks import mask_from_array

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-tools" / "label-studio" / "bin" / "python"

pytestmark = pytest.mark.tools


def test_the_sdk_decodes_brush_masks(tmp_path: Path) -> None:
    """Pixel for pixel: noise of many sizes, and runs that are longer than the format's longest."""
    assert PYTHON.exists(), "run make test-tools, which installs Label Studio"
    random = np.random.default_rng(1)
    insides = [random.random(random.integers(1, 60, 2)) < density for density in np.linspace(0.02, 1.0, 100)]
    large = np.zeros((900, 1200), np.bool_)
    large[100:700, 200:] = True
    large[300:500] = True
    insides = [inside for inside in [*insides, large] if inside.any()]
    masks = []
    for inside in insides:
        height, width = inside.shape
        mask = mask_from_array(inside, offset=(0, 0), height=height, width=width)
        assert mask is not None
        masks.append({"rle": encode_brush(mask), "height": height, "width": width})
    given, out = tmp_path / "masks.json", tmp_path / "masks.npz"
    given.write_text(json.dumps(masks), "utf-8")

    script = Path(__file__).with_name("label_studio_process.py")
    command = [str(part) for part in (PYTHON, script, given, out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert 0 == done.returncode, done.stderr[-4000:]
    found = np.load(out)
    for index, inside in enumerate(insides):
        assert (found[f"arr_{index}"] == inside[:, :, None] * 255).all()
