"""labelme's own loader reads the files of ``osamd batch --format labelme``."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from data_sets import block, ring_and_dot, run_batch, write_boxes, write_photos

from osamd.dataset.planning import Prompts

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-tools" / "labelme" / "bin" / "python"

pytestmark = pytest.mark.tools


def test_labelme_reads_every_mask_exactly(tmp_path: Path) -> None:
    """With holes and parts, through the image that the file names."""
    assert PYTHON.exists(), "run make test-tools, which installs labelme"
    photos = write_photos(tmp_path / "photos", 2)
    prompts = Prompts(boxes_from=str(write_boxes(tmp_path / "boxes.json", photos)))
    run_batch(photos, tmp_path / "out", prompts=prompts, formats=["labelme"])
    out = tmp_path / "masks.npz"
    command = [str(PYTHON), str(Path(__file__).with_name("labelme_files_process.py"))]
    done = subprocess.run(
        [*command, str(tmp_path / "out" / "labelme"), str(out)], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    masks = np.load(out)
    assert 4 == len(masks.files)
    for name in masks.files:
        expected = ring_and_dot() if name.endswith("ring & dot") else block()
        np.testing.assert_array_equal(expected, masks[name])
