"""Coverage-guided bytes into the image decoder: python fuzz_images.py [libFuzzer's flags] [folder of seeds].

Whatever comes in, an image or one of the two documented refusals comes out, and soon.
"""

import sys
import time

import atheris

with atheris.instrument_imports(include=["PIL", "osamd.pixels"]):
    from osamd.pixels.images import decode_image

from osamd.errors import ImageTooLargeError, InvalidImageError

MOST_PIXELS = 250_000
# CPU time that an input may take: more than any image of so few pixels does under instrumentation, and far less than
# the limit of a server, which takes images of 250 times as many.
MOST_CPU_S = 0.5
MOST_CPU_S_A_BYTE = 5e-6


def decode(data: bytes) -> None:
    """One input."""
    most_s = MOST_CPU_S + MOST_CPU_S_A_BYTE * len(data)
    cpu_s = timed(data)
    # What was loaded or collected meanwhile is not the input's.
    if cpu_s > most_s and (again_s := timed(data)) > most_s:
        raise AssertionError(f"{len(data)} bytes took {again_s:.2f} s of CPU time; at most {most_s:.2f} are expected")


def timed(data: bytes) -> float:
    """Decode an input; seconds of CPU time that it took."""
    start = time.process_time()
    try:
        picture = decode_image(data, max_pixels=MOST_PIXELS)
    except (InvalidImageError, ImageTooLargeError):
        return time.process_time() - start
    taken_s = time.process_time() - start
    height, width, channels = picture.pixels.shape
    if channels != 3 or not 0 < height * width <= MOST_PIXELS or picture.pixels.dtype.name != "uint8":
        raise AssertionError((height, width, channels))
    return taken_s


if __name__ == "__main__":
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
