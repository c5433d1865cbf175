"""Masks that callers send: where they land in each model's frame, and what is refused."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pictures import Inside, encoded, iou
from PIL import Image, ImageDraw

from osamd.errors import InvalidPromptError
from osamd.models.builtin import Builtin
from osamd.models.efficientsam import EfficientSam
from osamd.models.sam import Sam
from osamd.models.sam2 import Sam2
from osamd.models.sam3 import Sam3
from osamd.models.yoloworld import YoloWorld
from osamd.pixels.mask_pictures import SURE, MaskFrame, check_header, logits_of_picture
from osamd.pixels.masks import full_array, mask_from_logits

WITH_MASKS: list[Any] = [Builtin, Sam, Sam2]
SIDES = st.integers(24, 700)


def frame_of(kind: Any, height: int, width: int) -> MaskFrame:
    """A family's frame, which depends on no weights."""
    frame = object.__new__(kind).mask_frame(height=height, width=width)
    assert isinstance(frame, MaskFrame)
    return frame


def ellipse(height: int, width: int, box: tuple[float, float, float, float]) -> Inside:
    """An ellipse in a box given in fractions of the image."""
    picture = Image.new("L", (width, height))
    x1, y1, x2, y2 = box
    ImageDraw.Draw(picture).ellipse((x1 * width, y1 * height, x2 * width, y2 * height), fill=255)
    return np.asarray(picture) > 127


@given(
    st.sampled_from(WITH_MASKS),
    SIDES,
    SIDES,
    st.tuples(st.floats(0, 0.7), st.floats(0, 0.7), st.floats(0.3, 0.6), st.floats(0.3, 0.6)),
)
def test_mask_keeps_its_place_in_every_frame(
    kind: Any, height: int, width: int, place: tuple[float, float, float, float]
) -> None:
    """Turned into logits and back, a mask is the same but for pixels at its outline; padding is background."""
    x, y, columns, rows = place
    mask = ellipse(height, width, (x, y, min(1.0, x + columns), min(1.0, y + rows)))
    frame = frame_of(kind, height, width)
    # Otherwise the object is smaller than a few low-resolution pixels.
    assume(min(frame.valid_height, frame.valid_width) >= 24)

    logits = logits_of_picture(mask.astype(np.uint8) * np.uint8(255), frame)

    assert (frame.rows, frame.columns) == logits.values.shape
    assert np.float32 == logits.values.dtype
    assert np.abs(logits.values).max() <= SURE
    padding = np.ones(logits.values.shape, bool)
    padding[: int(np.ceil(frame.valid_height)), : int(np.ceil(frame.valid_width))] = False
    assert (logits.values[padding] == -SURE).all()
    back = mask_from_logits(logits, height=height, width=width)
    assert back is not None
    assert iou(mask, full_array(back) > 0) > 0.9


@pytest.mark.parametrize("kind", WITH_MASKS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9000), (9000, 1), (3, 5), (300, 451)])
def test_extreme_sizes_have_a_frame(kind: Any, height: int, width: int) -> None:
    """A mask that covers the image covers all of the frame's valid part."""
    frame = frame_of(kind, height, width)

    logits = logits_of_picture(np.full((height, width), 255, np.uint8), frame)

    rows, columns = int(np.ceil(frame.valid_height)), int(np.ceil(frame.valid_width))
    assert (logits.values[:rows, :columns] == SURE).all()


@pytest.mark.parametrize("kind", [EfficientSam, Sam3, YoloWorld])
def test_other_families_have_no_frame(kind: Any) -> None:
    """They take no masks."""
    assert object.__new__(kind).mask_frame(height=30, width=40) is None
    assert not kind.capabilities.mask_input


def test_empty_mask_is_refused() -> None:
    """One whose pixels are 1 instead of 255, too, with the limit in the message."""
    with pytest.raises(InvalidPromptError, match="no pixel above 127"):
        logits_of_picture(np.ones((30, 40), np.uint8), MaskFrame(30, 40, 30.0, 40.0))


GREY = Image.new("L", (40, 30), 255)


def transparent_grey() -> bytes:
    """A greyscale PNG one of whose shades is transparent."""
    buffer = io.BytesIO()
    GREY.save(buffer, "PNG", transparency=255)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "1", "I;16"])
def test_greyscale_png_is_accepted(mode: str) -> None:
    """Of any depth."""
    check_header(encoded(Image.new(mode, (40, 30))), height=30, width=40)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a mask_id, or a mask as a PNG"),
        (encoded(GREY)[:20], "expected a mask_id, or a mask as a PNG"),
        (encoded(GREY, "JPEG"), "expected a mask_id, or a mask as a PNG"),
        (encoded(GREY.convert("RGB")), "greyscale PNG without transparency"),
        (encoded(GREY.convert("RGBA")), "greyscale PNG without transparency"),
        (encoded(GREY.convert("LA")), "greyscale PNG without transparency"),
        (encoded(GREY.convert("P")), "greyscale PNG without transparency"),
        (transparent_grey(), "greyscale PNG without transparency"),
        (encoded(GREY.rotate(90, expand=True)), "the mask has 30 x 40 pixels; expected 40 x 30, as the image"),
    ],
)
def test_other_pictures_are_refused(data: bytes, message: str) -> None:
    """From the first bytes, before anything is decoded."""
    with pytest.raises(InvalidPromptError, match=message):
        check_header(data, height=30, width=40)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(rest: bytes) -> None:
    """Whatever follows a PNG's signature."""
    data = b"\x89PNG\r\n\x1a\n" + rest
    is_header = len(data) >= 26 and data[12:16] == b"IHDR" and struct.unpack_from(">II", data, 16) == (40, 30)
    assume(not is_header)
    with pytest.raises(InvalidPromptError):
        check_header(data, height=30, width=40)
