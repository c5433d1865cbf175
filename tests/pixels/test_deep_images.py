"""Samples of more than 8 bits, signed, floating point, and bands that no picture has."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiffs import DEFLATE, FLOATING_POINT, HORIZONTAL, tiff

from osamd.errors import ImageTooLargeError, InvalidImageError
from osamd.pixels.images import decode_image
from osamd.pixels.samples import Extent, choose_scale
from osamd.types import Picture

HEIGHT, WIDTH = 37, 50
Pixels = npt.NDArray[np.uint8]


def scene(bands: int = 3, *, low: int = 10, high: int = 240) -> Pixels:
    """Something of every brightness between the two, another in each band."""
    y, x, band = np.mgrid[0:HEIGHT, 0:WIDTH, 0:bands]
    wave = np.sin(x / (7 + band)) * np.cos(y / (5 + 2 * band)) * 0.5 + 0.5
    wave = (wave - wave.min()) / (wave.max() - wave.min())
    pixels: Pixels = np.rint(low + wave * (high - low)).astype(np.uint8)
    return pixels


def decoded(data: bytes, max_pixels: int = 10**6) -> Picture:
    """Decode; the size said is the size got."""
    picture = decode_image(data, max_pixels=max_pixels)
    assert (picture.height, picture.width, 3) == picture.pixels.shape
    return picture


def assert_close(expected: npt.NDArray[Any], picture: Picture, within: int = 1) -> None:
    """The picture is this one, (H, W) or (H, W, 3), up to rounding."""
    grey = expected[:, :, np.newaxis] if expected.ndim == 2 else expected
    assert np.abs(picture.pixels.astype(int) - np.broadcast_to(grey, picture.pixels.shape).astype(int)).max() <= within


def png(samples: npt.NDArray[Any]) -> bytes:
    """Grey, RGB or RGBA in a PNG of 16 bits."""
    order = {2: samples, 3: samples[..., [2, 1, 0]] if samples.shape[-1] == 3 else samples[..., [2, 1, 0, 3]]}
    done, data = cv2.imencode(".png", np.ascontiguousarray(order[samples.ndim]))
    assert done
    return data.tobytes()


def png_of_grey_with_alpha(grey: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> bytes:
    """A PNG of 16 bits that neither Pillow nor OpenCV writes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    both = np.stack([grey, alpha], axis=-1).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in both)
    head = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 16, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("bands", [1, 3])
def test_fewer_bits_than_the_container_has(bits: int, kind: str, bands: int) -> None:
    """A camera's 10 or 12 bits in 16 look as they do in 8, and what was done is said."""
    expected = scene(bands)
    samples = np.rint(expected * ((2**bits - 1) / 255)).astype(np.uint16)
    samples = samples[:, :, 0] if bands == 1 else samples

    picture = decoded(png(samples) if kind == "png" else tiff(samples, photometric=1 if bands == 1 else 2))

    assert_close(expected, picture)
    assert (f"samples 0 to {2**bits - 1} scaled to 0 to 255",) == picture.notes


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_the_whole_range_of_16_bits_is_taken_as_it_is(kind: str) -> None:
    """What uses the container is divided by 257, to the sample, and nothing is said."""
    samples = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 35

    picture = decoded(png(samples) if kind == "png" else tiff(samples))

    assert () == picture.notes
    np.testing.assert_array_equal(samples // 257, picture.pixels[:, :, 0])


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_colour_that_uses_16_bits_is_taken_as_it_is(kind: str) -> None:
    """RGB too."""
    samples = scene().astype(np.uint16) * 257

    picture = decoded(png(samples) if kind == "png" else tiff(samples, photometric=2))

    assert () == picture.notes
    assert_close(scene(), picture, within=0)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int16", -1024, 3071),
        ("int32", -(2**31), 2**31 - 1),
        ("int8", -100, 27),
        ("uint16", 31_744, 35_839),
        ("uint16", 7_000, 9_500),
        ("uint32", 0, 2**32 - 1),
        ("uint32", 4_000_000_000, 4_000_060_000),
        ("uint64", 10**18, 10**18 + 10**17),
        ("float32", -0.5, 0.5),
        ("float32", 250.0, 320.0),
        ("float64", -1e12, 1e12),
        ("float16", -100.0, 1000.0),
    ],
)
def test_a_part_of_the_range_is_stretched(dtype: str, low: float, high: float) -> None:
    """CT, thermal images, elevations: the smallest sample becomes black, the largest white."""
    expected = scene(1, low=0, high=255)[:, :, 0]
    samples = (low + expected.astype(np.float64) * ((high - low) / 255)).astype(dtype)

    picture = decoded(tiff(samples))

    assert_close(expected, picture, within=2 if dtype in {"float16", "int8"} else 1)
    assert picture.notes[0].startswith("samples ")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("top", "said"), [(1.0, 1), (255.0, 255)])
def test_floating_point_of_the_usual_ranges(dtype: str, top: float, said: int) -> None:
    """0 to 1 and 0 to 255 are what they look like, wherever the picture's own darkest pixel lies."""
    expected = scene(1)[:, :, 0]

    picture = decoded(tiff((expected.astype(np.float64) / 255 * top).astype(dtype)))

    assert_close(expected, picture)
    assert (f"samples 0 to {said} scaled to 0 to 255",) == (picture.notes or ("samples 0 to 255 scaled to 0 to 255",))


def test_missing_samples_do_not_affect_the_range() -> None:
    """NaN, infinities, what fills gaps and the declared no-data value leave the rest of the picture as it is."""
    expected = scene(1, low=0, high=255)[:, :, 0]
    expected[:3] = 0
    expected[3] = 255
    samples = expected.astype(np.float32) * 10 - 700
    samples[0], samples[1], samples[2, ::2], samples[2, 1::2], samples[3] = np.nan, -np.inf, 3e38, -9999, np.inf

    picture = decoded(tiff(samples, no_data="-9999"))

    assert_close(expected, picture)
    assert ("samples -700 to 1850 scaled to 0 to 255",) == picture.notes


def test_the_no_data_value_of_whole_numbers() -> None:
    """65535 for no echo: the depths keep their contrast."""
    expected = scene(1)[:, :, 0]
    samples = expected.astype(np.uint16) * 4
    expected[0], samples[0] = 0, 65535

    assert_close(expected, decoded(tiff(samples, no_data="65535")))


@pytest.mark.parametrize("text", ["nan", "1e400", "-1e300", "70000", "-1", "none", ""])
def test_a_no_data_value_that_no_sample_has_is_ignored(text: str) -> None:
    """Whatever stands in the tag."""
    assert_close(scene(1), decoded(tiff(scene(1).astype(np.uint16) * 4, no_data=text)))


@pytest.mark.parametrize(
    ("value", "dtype", "grey"),
    [
        (0x8080, "uint16", 128),
        (257, "uint16", 1),
        (0, "int16", 128),
        (0, "uint32", 0),
        (0.5, "float32", 128),
        (1.0, "float16", 255),
        (300.0, "float32", 255),
        (np.nan, "float32", 0),
        (np.inf, "float32", 255),
    ],
)
def test_images_of_one_value(value: float, dtype: str, grey: int) -> None:
    """They have no range of their own: their type's counts."""
    assert_close(np.full((HEIGHT, WIDTH), grey), decoded(tiff(np.full((HEIGHT, WIDTH), value, dtype))), within=0)


@pytest.mark.parametrize("bands", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("is_separate", [False, True])
def test_bands_of_satellites(bands: int, dtype: str, *, is_separate: bool) -> None:
    """The first three bands are the picture, or the first of two; how many were left out is said."""
    expected = scene(bands)
    samples = expected.astype(dtype) * (257 if dtype == "uint16" else 1)

    picture = decoded(tiff(samples, extras=(0,) * (bands - 1), is_separate=is_separate))

    assert_close(expected[:, :, :3] if bands > 2 else expected[:, :, :1], picture)
    used = "band 1" if bands == 2 else "bands 1 to 3"
    assert (() if bands == 3 else (f"{used} of {bands} used",)) == picture.notes[-1:]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [4, 5, 7, 8])
def test_colour_with_bands_beside_it(dtype: str, bands: int) -> None:
    """RGB with near infrared is RGB."""
    expected = scene(bands)
    samples = expected.astype(dtype) * (257 if dtype == "uint16" else 1)

    picture = decoded(tiff(samples, photometric=2, extras=(0,) * (bands - 3)))

    assert_close(expected[:, :, :3], picture, within=0)
    assert (f"bands 1 to 3 of {bands} used",) == picture.notes


@pytest.mark.parametrize("top", [1023, 65535])
@pytest.mark.parametrize("kind", ["png", "tiff", "tiff, premultiplied"])
@pytest.mark.parametrize("bands", [1, 3])
def test_alpha_of_16_bits(top: int, kind: str, bands: int) -> None:
    """Transparency has the colours' range: opaque keeps its colour, half is blended with white."""
    expected = scene(bands)
    colors = np.rint(expected * (top / 255))
    alpha = np.full((HEIGHT, WIDTH, 1), top)
    alpha[:4], alpha[4:8] = 0, round(top / 2)
    expected[4:8] = np.rint(expected[4:8] / 2 + 127.5)
    expected[:4] = 255
    if kind.endswith("premultiplied"):
        colors = np.rint(colors * alpha / top)
    samples = np.concatenate([colors, alpha], axis=2).astype(np.uint16)

    if kind != "png":
        data = tiff(samples, photometric=1 if bands == 1 else 2, extras=(1 if kind.endswith("premultiplied") else 2,))
    else:
        data = png(samples) if bands == 3 else png_of_grey_with_alpha(samples[:, :, 0], samples[:, :, 1])
    picture = decoded(data)

    assert_close(expected, picture, within=2)
    assert (top == 65535) == (picture.notes == ())


def test_inverted_grey() -> None:
    """Scans store black as the largest value."""
    samples = 65535 - scene(1)[:, :, 0].astype(np.uint16) * 257

    assert_close(scene(1), decoded(tiff(samples, photometric=0)), within=0)


@settings(deadline=None, max_examples=60)
@example(bands=1, dtype="uint8", compression=1, predictor=2, order="<", cut=(1, None), is_separate=False, is_big=False)
@example(bands=1, dtype="uint16", compression=1, predictor=2, order="<", cut=(1, None), is_separate=False, is_big=False)
@given(
    bands=st.integers(1, 5),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]),
    compression=st.sampled_from([1, DEFLATE]),
    is_separate=st.booleans(),
    predictor=st.integers(1, 3),
    order=st.sampled_from("<>"),
    is_big=st.booleans(),
    cut=st.one_of(st.integers(1, HEIGHT).map(lambda n: (n, None)), st.sampled_from([(16, 16), (32, 16), (64, 48)])),
)
def test_every_way_to_store_samples(
    bands: int,
    dtype: str,
    compression: int,
    predictor: int,
    order: str,
    cut: tuple[int, int | None],
    *,
    is_separate: bool,
    is_big: bool,
) -> None:
    """Strips or tiles, packed or not, with differences, in both byte orders, with offsets of 32 and 64 bits."""
    if predictor == FLOATING_POINT and not dtype.startswith("float"):
        predictor = HORIZONTAL
    expected = scene(bands)
    columns_or_rows, tile_rows = cut

    data = tiff(
        expected.astype(dtype),
        compression=compression,
        predictor=predictor,
        order=order,
        is_big=is_big,
        is_separate=is_separate,
        rows_per_strip=columns_or_rows if tile_rows is None else None,
        tile=None if tile_rows is None else (columns_or_rows, tile_rows),
        # Else two bands would be grey with transparency for some.
        extras=(0,) * (bands - 1),
    )

    assert_close(expected[:, :, :3] if bands > 2 else expected[:, :, :1], decoded(data))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_lzw(dtype: str) -> None:
    """What Python cannot unpack, libtiff does; OpenCV packs it."""
    samples = scene().astype(dtype) * 4
    done, data = cv2.imencode(".tiff", samples, [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 8])
    assert done

    assert_close(scene()[:, :, ::-1], decoded(data.tobytes()))


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
def test_packed_by_pillow(compression: str) -> None:
    """Grey of 10 bits, in many strips."""
    buffer = io.BytesIO()
    Image.fromarray(np.tile(scene(1)[:, :, 0].astype(np.uint16) * 4, (9, 9))).save(
        buffer, "TIFF", compression=compression
    )

    assert_close(np.tile(scene(1)[:, :, 0], (9, 9)), decoded(buffer.getvalue()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_turned_tiff_has_its_upright_size(orientation: int, dtype: str) -> None:
    """Pillow reports the upright size of a TIFF; it is not rotated twice."""
    samples = scene(3)
    turned = {
        1: samples,
        2: samples[:, ::-1],
        3: samples[::-1, ::-1],
        4: samples[::-1],
        5: samples.swapaxes(0, 1),
        6: samples.swapaxes(0, 1)[:, ::-1],
        7: samples.swapaxes(0, 1)[::-1, ::-1],
        8: samples.swapaxes(0, 1)[::-1],
    }[orientation]

    picture = decoded(
        tiff(samples.astype(dtype) * (257 if dtype == "uint16" else 1), photometric=2, orientation=orientation)
    )

    assert_close(turned, picture, within=0)


def test_the_bytes_to_unpack_are_capped() -> None:
    """Eight bytes for each pixel of the largest image: more bands mean fewer pixels."""
    data = tiff(scene(8).astype(np.float32))

    assert decoded(data, max_pixels=HEIGHT * WIDTH * 4).notes
    with pytest.raises(ImageTooLargeError, match=r"take 59,200 bytes; the limit is 14,800"):
        decode_image(data, max_pixels=HEIGHT * WIDTH)
    with pytest.raises(ImageTooLargeError, match="1,850 pixels"):
        decode_image(data, max_pixels=HEIGHT * WIDTH - 1)


BROKEN: dict[str, dict[int, list[int]]] = {
    "strips outside the file": {273: [10**9]},
    "no strips": {273: []},
    "a length that is a lie": {279: [1]},
    "no rows": {257: [0]},
    "a row too many": {257: [HEIGHT * 40]},
}


@pytest.mark.parametrize("name", list(BROKEN))
@pytest.mark.filterwarnings("ignore")
def test_broken_tiffs_are_refused(name: str) -> None:
    """Broken directories are the caller's mistake; a length alone that is too short is known not to matter."""
    data = tiff(scene(5).astype(np.uint16), changed=BROKEN[name])

    if name == "a length that is a lie":
        assert decoded(data).notes
        return
    with pytest.raises(InvalidImageError):
        decode_image(data, max_pixels=10**6)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_read_is_refused_with_the_reason() -> None:
    """A TIFF is an image; the message says what is unusual about this one."""
    with pytest.raises(InvalidImageError, match=r"not supported \(24 bits, 1 bands, photometric 1, compression 1\)"):
        decode_image(tiff(scene(1).astype(np.uint16), changed={258: [24]}), max_pixels=10**6)
    with pytest.raises(InvalidImageError, match="compression 34887"):
        decode_image(tiff(scene(1).astype(np.float32), changed={259: [34887]}), max_pixels=10**6)


@settings(deadline=None)
@given(
    low=st.integers(0, 65534),
    span=st.integers(1, 65535),
)
def test_the_rule_in_numbers(low: int, span: int) -> None:
    """At least a quarter of 2^n - 1 is taken as it is; less is stretched."""
    high = min(65535, low + span)

    scale = choose_scale(Extent(low, high), np.dtype(np.uint16))

    whole = 255
    while whole < high:
        whole = 2 * whole + 1
    expected = (0, whole) if high - low >= whole / 4 else (low, high)
    assert expected == (scale.low, scale.high)
