"""Coverage-guided bytes into the image decoder: python fuzz_images.py [libFuzzer's flags] [folder of seeds].

Whatever comes in, an image or one of the two documented refusals comes out.
"""

import sys

import atheris

with atheris.instrument_imports(include=["PIL", "osamd.pixels"]):
    from osamd.pixels.images import decode_image

from osamd.errors import ImageTooLargeError, InvalidImageError

MOST_PIXELS = 250_000


def decode(data: bytes) -> None:
    """One input."""
    try:
        picture = decode_image(data, max_pixels=MOST_PIXELS)
    except (InvalidImageError, ImageTooLargeError):
        return
    height, width, channels = picture.pixels.shape
    if channels != 3 or not 0 < height * width <= MOST_PIXELS or picture.pixels.dtype.name != "uint8":
        raise AssertionError((height, width, channels))


if __name__ == "__main__":
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
