import io
import math
from unittest.mock import patch

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from osamd.pixels.masks import (
    COLORS,
    Polygon,
    cropped_array,
    encode_color_png,
    encode_png,
    full_array,
    mask_from_array,
    mask_from_logits,
    mask_png,
    overlay,
    paint,
    polygons,
)
from osamd.types import Box, Mask, MaskLogits

Bools = npt.NDArray[np.bool_]
# OpenCV interpolates in float32: pixels whose exact value is this close to the threshold may fall on either side.
CLOSE = 1e-4


def whole(inside: Bools) -> Mask:
    """The mask of an image that ``inside`` covers entirely; at least one pixel of it must be set."""
    mask = mask_from_array(inside, offset=(0, 0), height=inside.shape[0], width=inside.shape[1])
    assert mask is not None
    return mask


def upsampled(logits: MaskLogits, *, height: int, width: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation with half-pixel centres, written out in float64 over the whole image."""

    def taps(
        length: int, valid: float, size: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        last = min(size, math.ceil(valid)) - 1
        place = np.clip((np.arange(length) + 0.5) * valid / length - 0.5, 0, last)
        low = np.floor(place).astype(np.intp)
        return low, np.minimum(low + 1, last), place - low

    values = logits.values.astype(np.float64)
    top, bottom, down = taps(height, logits.valid_height, values.shape[0])
    left, right, across = taps(width, logits.valid_width, values.shape[1])
    above = values[top][:, left] * (1 - across) + values[top][:, right] * across
    below = values[bottom][:, left] * (1 - across) + values[bottom][:, right] * across
    mixed: npt.NDArray[np.float64] = above * (1 - down)[:, None] + below * down[:, None]
    return mixed


def assert_same_mask(exact: npt.NDArray[np.float64], threshold: float, mask: Mask | None) -> None:
    """The mask is where the exact logits are above the threshold, but for values that are equal to it in float32."""
    height, width = exact.shape
    found = np.zeros((height, width), np.bool_) if mask is None else full_array(mask) > 0
    clear = np.abs(exact - threshold) > CLOSE
    assert 0 == np.count_nonzero((found != (exact > threshold)) & clear)


def smooth_logits(seed: int, shape: tuple[int, int], *, offset: float, blur: float) -> npt.NDArray[np.float32]:
    """Random blobs of values around ``offset``, about -1..1."""
    noise = np.random.default_rng(seed).normal(size=shape)
    values = cv2.GaussianBlur(noise, (0, 0), blur)
    scaled: npt.NDArray[np.float32] = (values / np.abs(values).max() + offset).astype(np.float32)
    return scaled


@settings(deadline=None, max_examples=300)
@example(seed=0, shape=(4, 4), padding=(0.0, 0.0625), image=(4, 4), threshold=0.0, offset=0.0, blur=0.3)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    padding=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    image=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    threshold=st.sampled_from([0.0, 0.3, -0.4]),
    offset=st.sampled_from([0.0, -0.6, -0.9]),
    blur=st.sampled_from([0.3, 1.0, 4.0]),
)
def test_upsampling_a_region_equals_upsampling_everything(
    seed: int,
    shape: tuple[int, int],
    padding: tuple[float, float],
    image: tuple[int, int],
    threshold: float,
    offset: float,
    blur: float,
) -> None:
    """At every size, with any fraction of padding, the mask is the full bilinear upsampling's, thresholded."""
    height, width = image
    valid_height = max(0.5, shape[0] * (1 - padding[0]))
    valid_width = max(0.5, shape[1] * (1 - padding[1]))
    values = smooth_logits(seed, shape, offset=offset + threshold, blur=blur)
    logits = MaskLogits(values, valid_height, valid_width, threshold)

    mask = mask_from_logits(logits, height=height, width=width)

    assert_same_mask(upsampled(logits, height=height, width=width), threshold, mask)


@pytest.mark.parametrize(
    ("shape", "valid", "image"),
    [
        ((64, 96), (64.0, 96.0), (300, 451)),
        ((256, 256), (170.6640625, 256.0), (1200, 1800)),
        ((256, 256), (256.0, 144.25), (2048, 1154)),
        ((80, 80), (80.0, 80.0), (3000, 4000)),
        ((288, 288), (288.0, 288.0), (37, 41)),
        ((96, 64), (96.0, 64.0), (1999, 30)),
        ((32, 200), (32.0, 200.0), (20, 40_000)),
    ],
)
def test_upsampling_agrees_with_opencv_resize(
    shape: tuple[int, int], valid: tuple[float, float], image: tuple[int, int]
) -> None:
    """Photos of real size get the mask that ``cv2.resize`` would give, where it can: up to whole rows and columns."""
    height, width = image
    logits = MaskLogits(smooth_logits(1, shape, offset=-0.1, blur=3.0), *valid)

    mask = mask_from_logits(logits, height=height, width=width)

    assert_same_mask(upsampled(logits, height=height, width=width), 0.0, mask)
    if np.array_equal(valid, shape):
        resized = cv2.resize(logits.values, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float64)
        assert_same_mask(resized, 0.0, mask)


def test_a_single_low_resolution_pixel_keeps_its_whole_reach() -> None:
    """One pixel above the threshold reaches its neighbours' centres; nothing of that is cut off."""
    values = np.full((16, 16), -0.01, np.float32)
    values[5, 9] = 10.0
    logits = MaskLogits(values, 16.0, 16.0)

    mask = mask_from_logits(logits, height=1600, width=1600)

    assert mask is not None
    assert 190 <= mask.box.xmax - mask.box.xmin <= 200
    assert_same_mask(upsampled(logits, height=1600, width=1600), 0.0, mask)


def test_logits_in_the_padding_are_ignored() -> None:
    """What the model says about its padding is no object."""
    values = np.full((8, 8), -1.0, np.float32)
    values[5:, :] = 1.0
    logits = MaskLogits(values, valid_height=5.0, valid_width=8.0)

    assert mask_from_logits(logits, height=50, width=80) is None


def test_nothing_above_the_threshold_is_no_mask() -> None:
    """An empty answer is None; a value equal to the threshold is not above it."""
    logits = MaskLogits(np.full((8, 8), 0.5, np.float32), 8.0, 8.0, threshold=0.5)

    assert mask_from_logits(logits, height=50, width=80) is None


def test_a_full_mask_covers_the_image() -> None:
    """Everything above the threshold is every pixel of the image, the corners included."""
    logits = MaskLogits(np.ones((8, 8), np.float32), 7.3, 5.1)

    mask = mask_from_logits(logits, height=53, width=31)

    assert mask is not None
    assert Box(0, 0, 30, 52) == mask.box
    assert mask.inside.all()


masks = hnp.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(inside=masks, margins=st.tuples(*[st.integers(0, 5)] * 4))
def test_a_mask_is_its_tight_box_and_what_is_inside(inside: Bools, margins: tuple[int, int, int, int]) -> None:
    """The box touches the object on all four sides, and the full array is the object at its place."""
    left, top, right, bottom = margins
    image = np.pad(inside, ((top, bottom), (left, right)))
    mask = mask_from_array(inside, offset=(left, top), height=image.shape[0], width=image.shape[1])
    if not inside.any():
        assert mask is None
        return
    assert mask is not None
    ys, xs = np.nonzero(image)

    assert Box(xs.min(), ys.min(), xs.max(), ys.max()) == mask.box
    np.testing.assert_array_equal(image.astype(np.uint8) * 255, full_array(mask))
    box = mask.box
    np.testing.assert_array_equal(
        full_array(mask)[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1], cropped_array(mask)
    )


def test_painting_adds_up() -> None:
    """The union of masks: painting one does not erase another's pixels in its box."""
    canvas = np.zeros((3, 3), np.uint8)

    paint(canvas, whole(np.eye(3, dtype=np.bool_)))
    paint(canvas, whole(np.eye(3, dtype=np.bool_)[::-1]))

    np.testing.assert_array_equal(np.array([[255, 0, 255], [0, 255, 0], [255, 0, 255]], np.uint8), canvas)


@settings(deadline=None, max_examples=50)
@given(inside=masks)
def test_png_reads_back_as_0_and_255(inside: Bools) -> None:
    """Pillow and OpenCV read an 8-bit grey picture of 0 and 255, equal to the mask."""
    pixels = inside.astype(np.uint8) * 255

    data = encode_png(pixels)

    with Image.open(io.BytesIO(data)) as picture:
        assert ("PNG", "L") == (picture.format, picture.mode)
        np.testing.assert_array_equal(pixels, np.asarray(picture))
    np.testing.assert_array_equal(pixels, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


@settings(deadline=None, max_examples=50)
@given(
    inside=masks,
    margins=st.tuples(*[st.integers(0, 30)] * 4),
    is_whole=st.booleans(),
    block=st.sampled_from([1, 7, 40, 1 << 20]),
)
def test_the_png_of_a_mask_is_that_of_its_pixels(
    inside: Bools, margins: tuple[int, int, int, int], *, is_whole: bool, block: int
) -> None:
    """At the size of the image or of the box; a small mask, one block, gives the same bytes."""
    left, top, right, bottom = margins
    height, width = inside.shape[0] + top + bottom, inside.shape[1] + left + right
    mask = mask_from_array(inside, offset=(left, top), height=height, width=width)
    if mask is None:
        return
    pixels = full_array(mask) if is_whole else cropped_array(mask)

    with patch("osamd.pixels.masks.BLOCK_PIXELS", block):
        data = b"".join(mask_png(mask, is_whole=is_whole))
        encoded = encode_png(pixels)

    for png in (data, encoded):
        with Image.open(io.BytesIO(png)) as picture:
            assert ("PNG", "L") == (picture.format, picture.mode)
            np.testing.assert_array_equal(pixels, np.asarray(picture))
    if pixels.size <= block:
        assert encoded == data


def test_color_png_is_rgb() -> None:
    """Red stays red: the picture is not written as BGR."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :, 0] = 200

    with Image.open(io.BytesIO(encode_color_png(pixels))) as picture:
        np.testing.assert_array_equal(pixels, np.asarray(picture))


def filled(parts: tuple[Polygon, ...], height: int, width: int) -> Bools:
    """Fill polygons as their docstring says a reader must: on or in the exterior, not strictly in a hole."""
    result = np.zeros((height, width), np.bool_)
    for part in parts:
        canvas = np.zeros((height, width), np.uint8)
        cv2.fillPoly(canvas, [np.array(part.exterior, np.int32)], 1)
        for hole in part.holes:
            vertices = [np.array(hole, np.int32)]
            area, rim = np.zeros_like(canvas), np.zeros_like(canvas)
            cv2.fillPoly(area, vertices, 1)
            cv2.polylines(rim, vertices, isClosed=True, color=1)
            canvas[(area > 0) & (rim == 0)] = 0
        result |= canvas > 0
    return result


@st.composite
def shapes(draw: st.DrawFn) -> Bools:
    """Masks that are hard on contours: noise of any density, lines, rings with islands, things at the border."""
    height, width = draw(st.integers(1, 48)), draw(st.integers(1, 48))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    canvas = (rng.random((height, width)) < draw(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.7, 0.97]))).astype(np.uint8)
    place = st.tuples(st.integers(-5, width + 5), st.integers(-5, height + 5))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["line", "ring", "disc", "gap"]))
        if kind == "line":
            cv2.line(canvas, draw(place), draw(place), 1, 1)
        elif kind == "ring":
            center = draw(place)
            cv2.circle(canvas, center, draw(st.integers(3, 20)), 1, draw(st.integers(1, 3)))
            cv2.circle(canvas, center, 1, 1, -1)
        else:
            cv2.circle(canvas, draw(place), draw(st.integers(1, 15)), int(kind == "disc"), -1)
    return canvas.astype(np.bool_)


@settings(deadline=None, max_examples=400)
@given(inside=shapes())
def test_filling_the_polygons_gives_the_mask_back(inside: Bools) -> None:
    """To the pixel, for noise, thin lines, holes with islands, and objects at the border."""
    if not inside.any():
        return
    height, width = inside.shape

    np.testing.assert_array_equal(inside, filled(polygons(whole(inside)), height, width))


def test_polygons_are_in_image_pixels() -> None:
    """A rectangle away from the corner has its own corner pixels' centres as vertices."""
    mask = mask_from_array(np.ones((3, 5), np.bool_), offset=(20, 10), height=100, width=100)
    assert mask is not None

    (part,) = polygons(mask)

    assert {(20, 10), (24, 10), (24, 12), (20, 12)} == set(map(tuple, part.exterior.tolist()))
    assert () == part.holes


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    """The largest part comes first, its hole is its own, the island stands alone."""
    inside = np.ones((9, 9), np.bool_)
    inside[2:7, 2:7] = False
    inside[4, 4] = True

    ring, island = polygons(whole(inside))

    assert 1 == len(ring.holes)
    assert [[4, 4]] == island.exterior.tolist()
    assert () == island.holes


def test_overlay_tints_the_mask_and_leaves_the_rest() -> None:
    """Inside turns towards the mask's colour, far from it nothing changes, and the image given is not written to."""
    image = np.full((60, 80, 3), 128, np.uint8)
    inside = np.ones((20, 20), np.bool_)
    first = mask_from_array(inside, offset=(5, 5), height=60, width=80)
    second = mask_from_array(inside, offset=(50, 30), height=60, width=80)
    assert first is not None
    assert second is not None

    drawn = overlay(image, [first, second])

    assert (128 * 0.55 + np.array(COLORS[0]) * 0.45).astype(np.uint8).tolist() == drawn[15, 15].tolist()
    assert (128 * 0.55 + np.array(COLORS[1]) * 0.45).astype(np.uint8).tolist() == drawn[40, 60].tolist()
    assert list(COLORS[0]) == drawn[5, 15].tolist()
    assert [128, 128, 128] == drawn[50, 10].tolist()
    assert (image == 128).all()


def test_overlay_of_nothing_is_the_image() -> None:
    """No masks, no change."""
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)

    np.testing.assert_array_equal(image, overlay(image, []))
