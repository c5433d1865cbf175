"""What decoding takes at its peak, measured in processes of their own by the high-water mark of their memory."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tiffs import DEFLATE, tiff

WIDTH, HEIGHT = 4000, 3000
# Strips in conversion, the encoded file and Pillow's own buffers.
SLACK_BYTES = 12_000_000
PROGRAM = """
import resource, sys
from pathlib import Path
from typing import Any
from osamd.pixels.images import decode_image
data, warm_up = (Path(path).read_bytes() for path in sys.argv[1:])
decode_image(warm_up, max_pixels=10**9)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = decode_image(data, max_pixels=10**9)
assert picture.pixels.shape[2] == 3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@cache
def colour() -> npt.NDArray[np.uint8]:
    """A smooth picture, which compresses well."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 0] = np.arange(WIDTH) * 255 // WIDTH
    picture[..., 1] = (np.arange(HEIGHT) * 255 // HEIGHT)[:, None]
    picture[..., 2] = 90
    return picture


def rgb(path: Path, **options: Any) -> None:
    """8-bit RGB in the format that the path names."""
    Image.fromarray(colour()).save(path, **{"compress_level": 1} | options)


def turned(path: Path) -> None:
    """A photo that the camera was held upright for."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb(path, exif=exif)


def rgba(path: Path) -> None:
    """With alpha."""
    Image.fromarray(colour()).convert("RGBA").save(path, compress_level=1)


def grey_16(path: Path) -> None:
    """16-bit grey."""
    assert cv2.imwrite(str(path), colour()[:, :, 0].astype(np.uint16) * 257)


def colour_16(path: Path) -> None:
    """16-bit colour."""
    assert cv2.imwrite(str(path), colour().astype(np.uint16) * 257)


def ten_bits(path: Path) -> None:
    """10 bits of 16 in colour, for which the file is read twice."""
    assert cv2.imwrite(str(path), colour().astype(np.uint16) * 4)


def one_strip(path: Path) -> None:
    """Floating point, packed in one piece."""
    path.write_bytes(tiff(colour()[:, :, 0].astype(np.float32), compression=DEFLATE))


def without_its_end(path: Path) -> None:
    """A JPEG that is repaired and decoded again."""
    rgb(path)
    path.write_bytes(path.read_bytes()[:-2])


CASES: dict[str, tuple[Callable[[Path], None], int]] = {
    "rgb.jpg": (rgb, 7),
    "rgb.png": (rgb, 7),
    "rgb.bmp": (rgb, 7),
    "turned.jpg": (turned, 7),
    "rgba.png": (rgba, 7),
    "grey-16.png": (grey_16, 8),
    "colour-16.png": (colour_16, 8),
    "ten-bits.png": (ten_bits, 8),
    "one-strip.tiff": (one_strip, 4),
    "without-its-end.jpg": (without_its_end, 7),
}


@pytest.mark.skipif(sys.platform == "darwin", reason="ru_maxrss is in bytes there")
@pytest.mark.parametrize("name", list(CASES))
def test_decoding_takes_few_bytes_a_pixel(name: str, tmp_path: Path, photo: bytes) -> None:
    """At most 7 bytes a pixel for 8-bit images and 8 for 16-bit ones, the result's 3 included."""
    write, most = CASES[name]
    write(tmp_path / name)
    (tmp_path / "warm-up.jpg").write_bytes(photo)

    printed = subprocess.check_output([sys.executable, "-c", PROGRAM, tmp_path / name, tmp_path / "warm-up.jpg"])

    assert int(printed) * 1024 <= most * WIDTH * HEIGHT + SLACK_BYTES
