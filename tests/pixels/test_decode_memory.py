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
# Imports once, and forks for each file before anything is decoded.
PROGRAM = """
import os, resource, sys
from pathlib import Path
from osamd.pixels.images import decode_image
warm_up, *paths = map(Path, sys.argv[1:])
for path in paths:
    if os.fork():
        os.wait()
        continue
    data = path.read_bytes()
    decode_image(warm_up.read_bytes(), max_pixels=10**9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    picture = decode_image(data, max_pixels=10**9)
    assert picture.pixels.shape[2] == 3
    print(path.name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
    os._exit(0)
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


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory, photo: bytes) -> dict[str, int]:
    """Kibibytes that decoding each file took at its peak."""
    folder = tmp_path_factory.mktemp("memory")
    (folder / "warm-up.jpg").write_bytes(photo)
    for name, (write, _) in CASES.items():
        write(folder / name)
    command = [sys.executable, "-c", PROGRAM, *(str(folder / name) for name in ("warm-up.jpg", *CASES))]
    printed = subprocess.check_output(command, text=True)
    return {name: int(kibibytes) for name, kibibytes in map(str.split, printed.splitlines())}


@pytest.mark.skipif(sys.platform == "darwin", reason="ru_maxrss is in bytes there")
@pytest.mark.parametrize("name", list(CASES))
def test_decoding_takes_few_bytes_a_pixel(name: str, taken: dict[str, int]) -> None:
    """At most 7 bytes a pixel for 8-bit images and 8 for 16-bit ones, the result's 3 included."""
    _, most = CASES[name]

    assert WIDTH * HEIGHT < taken[name] * 1024 <= most * WIDTH * HEIGHT + SLACK_BYTES
