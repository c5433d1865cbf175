"""Numbers in files of boxes and clicks, checked before a run begins and not at each photo."""

from typing import Final

# Larger than any photo, and far from the limits of float32, in which prompts are computed.
MOST_PIXELS: Final = 1e9
# Boxes may reach over the edge of a photo, but pixel values are not fractions.
LEAST_FRACTION: Final = -1.0
MOST_FRACTION: Final = 2.0


def pixels(text: str) -> float:
    """A coordinate in pixels; raises ``ValueError``."""
    return _between(text, -MOST_PIXELS, MOST_PIXELS)


def fraction(text: str) -> float:
    """A coordinate or side as a fraction of the photo's size; raises ``ValueError``."""
    return _between(text, LEAST_FRACTION, MOST_FRACTION)


def _between(text: str, least: float, most: float) -> float:
    number = float(text)
    # Also refuses NaN.
    if not least <= number <= most:
        raise ValueError(f"{text} is not from {least:g} to {most:g}")
    return number
