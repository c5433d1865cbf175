from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from training.cutouts import LONGEST, cutouts_of, trimmed
from training.library import ByteArray
from training.sources import Source, Unpacked


def disc(size: int, radius: int, *, soft: int = 0) -> ByteArray:
    """A green disc on transparent yellow, RGBA."""
    rows, columns = np.ogrid[:size, :size]
    distance = np.hypot(rows - size / 2, columns - size / 2)
    alpha = np.clip(255 * (radius - distance) / (soft or 1), 0, 255)
    hidden = np.where(alpha > 0, 0, 255)
    return np.dstack([hidden, np.where(alpha > 0, 200, 255), 0 * hidden, alpha]).astype(np.uint8)


def test_a_cutout_is_cut_to_its_object_and_reduced() -> None:
    """Empty margins go, and the long side is at most 400 pixels; the colour stays what it was up to the rim."""
    small, _ = trimmed(disc(300, 60))
    large, _ = trimmed(disc(1300, 600))

    assert small is not None
    assert large is not None
    assert 118 <= small.shape[0] <= 121
    assert LONGEST == max(large.shape[:2])
    rim = large[large[..., 3] > 30].astype(int)
    assert np.abs(rim[:, :3] - (0, 200, 0)).max() < 10


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (disc(100, 10), "too small"),
        (disc(300, 140, soft=130), "too soft"),
        (np.full((100, 100, 4), 255, np.uint8), "fills its rectangle, or hardly any of it"),
        (np.hstack([disc(200, 60)] * 3), "many pieces"),
    ],
)
def test_unusable_pictures_are_skipped_with_a_reason(pixels: ByteArray, reason: str) -> None:
    """Each reason by an example."""
    assert (None, reason) == trimmed(pixels)


def test_a_package_is_searched(tmp_path: Path) -> None:
    """Files where they are expected count once, opaque ones and what is left out on purpose do not."""
    folder = tmp_path / "usr/share/openclipart/png"
    for name, pixels in {
        "animals/frog.png": disc(200, 80),
        "animals/same_frog.png": disc(200, 80),
        "animals/photo.png": disc(200, 80)[..., :3],
        "flags/flag.png": disc(200, 70),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), pixels)
    package = Unpacked(Source("openclipart-png", "public domain"), "1", tmp_path)
    left_out: Counter[str] = Counter()

    found = list(cutouts_of(package, left_out))

    assert [("clipart", "usr/share/openclipart/png/animals/frog.png")] == [(item.kind, item.name) for item in found]
    assert {"seen before": 1, "opaque or unreadable": 1} == dict(left_out)
    assert [0, 200, 0] == found[0].pixels[80, 80, :3].tolist()
