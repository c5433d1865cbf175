import io
import random
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from osamd.errors import ImageTooLargeError, InvalidImageError, OsamdError
from osamd.pixels.images import decode_image

MAX_PIXELS = 50_000_000
ORIENTATION_TAG = 0x0112
ORANGE = (230, 120, 30)
# What a lossy format may change of a flat colour.
LOSSY = 6
# A picture 24 wide and 16 high with a marked corner, top left, before any turning.
WIDTH, HEIGHT, MARK = 24, 16, 8

Pixels = npt.NDArray[np.uint8]

# Pillow warns of defects it can live with; a server, unlike these tests, does not turn warnings into exceptions.
AS_IN_PRODUCTION = pytest.mark.filterwarnings("ignore")


def decode(data: bytes) -> Pixels:
    """Decode within the default limit."""
    return decode_image(data, max_pixels=MAX_PIXELS).pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image in a Pillow format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def written_by_opencv(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], extension: str) -> bytes:
    """BGR or grey samples in a format OpenCV writes: it has 16-bit colour, which Pillow cannot write."""
    done, data = cv2.imencode(extension, pixels)
    assert done
    return data.tobytes()


def flat(color: tuple[int, int, int] = ORANGE) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (WIDTH, HEIGHT), color)


def assert_flat(color: tuple[int, int, int], pixels: Pixels, *, within: int = 0) -> None:
    """All pixels have this colour, in an array as the models want it."""
    assert (HEIGHT, WIDTH, 3) == pixels.shape
    assert np.uint8 == pixels.dtype
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - np.array(color)).max() <= within


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_lossless_colour(kind: str) -> None:
    """PNG, GIF, TIFF and BMP give back their colour exactly, red first."""
    assert_flat(ORANGE, decode(encoded(flat(), kind)))


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_lossy_colour(kind: str, options: dict[str, object]) -> None:
    """JPEG and WebP give back their colour, red first."""
    assert_flat(ORANGE, decode(encoded(flat(), kind, **options)), within=LOSSY)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_of_several(kind: str) -> None:
    """Of an animation or a document of pages, the first one is taken."""
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    others = [flat((10, 200, 10)), flat((10, 10, 200))]

    data = encoded(flat(), kind, save_all=True, append_images=others, **options)

    with Image.open(io.BytesIO(data)) as written:
        assert 3 == getattr(written, "n_frames", 1)
    assert_flat(ORANGE, decode(data))


def test_a_phones_jpeg_with_a_second_picture() -> None:
    """MPO, the JPEG with a depth map or a preview behind it, gives its first picture."""
    data = encoded(flat(), "MPO", save_all=True, append_images=[flat((0, 0, 200))], quality=95)

    assert_flat(ORANGE, decode(data), within=LOSSY)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_grey(kind: str) -> None:
    """Grey becomes three equal channels."""
    data = encoded(Image.new("L", (WIDTH, HEIGHT), 77), kind)

    assert_flat((77, 77, 77), decode(data), within=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette(kind: str) -> None:
    """Palette indices become the palette's colours."""
    image = flat().quantize(4)
    assert "P" == image.mode

    assert_flat(ORANGE, decode(encoded(image, kind)))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(kind: str) -> None:
    """A transparent palette entry turns white, the others stay."""
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([*ORANGE, 0, 0, 0])
    image.paste(1, (0, 0, MARK, MARK))

    pixels = decode(encoded(image, kind, transparency=1))

    assert [255, 255, 255] == pixels[0, 0].tolist()
    assert list(ORANGE) == pixels[-1, -1].tolist()


def test_palette_with_partial_transparency() -> None:
    """A palette with an alpha for each entry is blended with white, not cut off."""
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([0, 0, 0])

    assert_flat((127, 127, 127), decode(encoded(image, "PNG", transparency=bytes([128]))), within=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    """Print colours become screen colours, and are not inverted."""
    assert_flat(ORANGE, decode(encoded(flat().convert("CMYK"), kind)), within=LOSSY)


@pytest.mark.parametrize(("sample", "grey"), [(0, 0), (257, 1), (0x8080, 128), (51_210, 199), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits(kind: str, sample: int, grey: int) -> None:
    """The whole 16-bit range is mapped to 8 bits; nothing is clipped to white."""
    image = Image.fromarray(np.full((HEIGHT, WIDTH), sample, np.uint16))

    assert_flat((grey, grey, grey), decode(encoded(image, kind)))


def test_big_endian_tiff_of_16_bits() -> None:
    """The file's byte order is honoured."""
    image = Image.frombytes("I;16B", (WIDTH, HEIGHT), struct.pack(">H", 0x8001) * (WIDTH * HEIGHT))

    assert_flat((127, 127, 127), decode(encoded(image, "TIFF")), within=1)


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_colour_of_16_bits(extension: str) -> None:
    """16-bit RGB keeps its colours."""
    pixels = np.full((HEIGHT, WIDTH, 3), np.array(ORANGE[::-1]) * 257, np.uint16)

    assert_flat(ORANGE, decode(written_by_opencv(pixels, extension)))


def test_alpha_of_16_bits_goes_over_white() -> None:
    """16-bit RGBA: transparent is white, opaque keeps its colour."""
    pixels = np.full((HEIGHT, WIDTH, 4), [*(np.array(ORANGE[::-1]) * 257), 65535], np.uint16)
    pixels[:MARK, :MARK, 3] = 0

    decoded = decode(written_by_opencv(pixels, ".png"))

    assert [255, 255, 255] == decoded[0, 0].tolist()
    assert list(ORANGE) == decoded[-1, -1].tolist()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_goes_over_white(kind: str) -> None:
    """Transparent black is white, half of it is grey, and the opaque part keeps its colour."""
    image = Image.new("RGBA", (WIDTH, HEIGHT), (*ORANGE, 255))
    image.paste((0, 0, 0, 0), (0, 0, MARK, MARK))
    image.paste((0, 0, 0, 128), (MARK, 0, 2 * MARK, MARK))
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}

    pixels = decode(encoded(image, kind, **options))

    assert [255, 255, 255] == pixels[0, 0].tolist()
    assert [127, 127, 127] == pixels[0, MARK].tolist()
    assert list(ORANGE) == pixels[-1, -1].tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_alpha_goes_over_white(kind: str) -> None:
    """Grey with alpha is blended with white too."""
    assert_flat((155, 155, 155), decode(encoded(Image.new("LA", (WIDTH, HEIGHT), (55, 128)), kind)), within=1)


@pytest.mark.parametrize(("mode", "color"), [("RGB", ORANGE), ("L", 90), ("1", 0)])
def test_a_transparent_colour_without_a_palette(mode: str, color: tuple[int, int, int] | int) -> None:
    """A PNG that declares one of its colours transparent shows white there."""
    data = encoded(Image.new(mode, (WIDTH, HEIGHT), color), "PNG", transparency=color)

    assert_flat((255, 255, 255), decode(data))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit(kind: str) -> None:
    """One-bit pictures are black and white, not black and almost black."""
    image = Image.new("1", (WIDTH, HEIGHT), 0)
    image.paste(1, (0, 0, MARK, MARK))

    pixels = decode(encoded(image, kind))

    assert [255, 255, 255] == pixels[0, 0].tolist()
    assert [0, 0, 0] == pixels[-1, -1].tolist()


def marked(mode: str) -> Image.Image:
    """Dark, with a bright mark in the top left corner; transparent modes have it opaque."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (40, 40, 40))
    image.paste((250, 250, 250), (0, 0, MARK, MARK))
    return image.convert(mode, dither=Image.Dither.NONE)


def with_orientation(image: Image.Image, kind: str, orientation: int) -> bytes:
    """The image with the EXIF tag a camera writes."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    return encoded(image, kind, exif=exif, **options)


# Where EXIF says that the stored top left corner belongs, as (top or bottom, left or right) of the upright picture, and
# whether rows and columns change places (Exif 2.32, tag 274).
CORNERS = {
    1: ("top", "left", False),
    2: ("top", "right", False),
    3: ("bottom", "right", False),
    4: ("bottom", "left", False),
    5: ("top", "left", True),
    6: ("top", "right", True),
    7: ("bottom", "right", True),
    8: ("bottom", "left", True),
}
EXIF_KINDS = [
    ("JPEG", "RGB"),
    ("JPEG", "L"),
    ("JPEG", "CMYK"),
    ("PNG", "RGB"),
    ("PNG", "RGBA"),
    ("PNG", "LA"),
    ("PNG", "L"),
    ("PNG", "P"),
    ("PNG", "1"),
    ("PNG", "I;16"),
    ("WEBP", "RGB"),
    ("WEBP", "RGBA"),
    ("TIFF", "RGB"),
    ("TIFF", "L"),
    ("TIFF", "RGBA"),
]


@pytest.mark.parametrize("orientation", list(CORNERS))
@pytest.mark.parametrize(("kind", "mode"), EXIF_KINDS)
def test_exif_orientation(kind: str, mode: str, orientation: int) -> None:
    """In every format and colour mode the mark ends up where a photo viewer shows it."""
    image = marked("L").convert("I").point(lambda value: value * 257).convert("I;16") if mode == "I;16" else None
    vertical, horizontal, is_turned = CORNERS[orientation]

    pixels = decode(with_orientation(image or marked(mode), kind, orientation))

    assert ((WIDTH, HEIGHT) if is_turned else (HEIGHT, WIDTH)) == pixels.shape[:2]
    bright = np.argwhere(pixels.min(axis=2) > 150)
    center = bright.mean(axis=0) / pixels.shape[:2]
    assert abs(MARK * MARK - len(bright)) <= MARK
    assert ("top" if center[0] < 0.5 else "bottom", "left" if center[1] < 0.5 else "right") == (vertical, horizontal)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_mean_upright(orientation: int) -> None:
    """A number that EXIF does not define turns nothing."""
    picture = decode_image(with_orientation(marked("RGB"), "PNG", orientation), max_pixels=MAX_PIXELS)
    pixels = picture.pixels
    assert (HEIGHT, WIDTH) == (picture.height, picture.width)

    assert (HEIGHT, WIDTH, 3) == pixels.shape
    assert [250, 250, 250] == pixels[0, 0].tolist()


@AS_IN_PRODUCTION
@pytest.mark.parametrize("exif", [b"garbage, no TIFF header", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b""])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_ignored(kind: str, exif: bytes) -> None:
    """The pixels are read when only the remarks beside them are corrupt."""
    assert_flat(ORANGE, decode(encoded(flat(), kind, exif=exif)), within=LOSSY)


def png_chunk(name: bytes, content: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with_a_broken_chunk() -> bytes:
    """A PNG whose pixels are followed, before they are complete, by a chunk with an impossible name."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 50, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + png_chunk(b"IDAT", zlib.compress(bytes(7650))[:20])
        + png_chunk(b"\x01\x02\x03\x04", b"")
    )


def png_declaring(width: int, height: int) -> bytes:
    """A PNG with an honest header and next to no pixels behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def gif_declaring(width: int, height: int, *, frame: tuple[int, int]) -> bytes:
    """A GIF whose first frame may be larger than the screen it declares."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00;"


@AS_IN_PRODUCTION
@pytest.mark.parametrize("side", [7_100, 10_000, 60_000, 0x7FFFFFFF])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small header that declares gigabytes does not make us allocate them, at Pillow's own limits and beyond."""
    data = png_declaring(side, side)
    assert len(data) < 1000

    def load(_: ImageFile.ImageFile) -> None:
        raise RuntimeError("the pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)

    with pytest.raises(ImageTooLargeError):
        decode(data)


def test_a_gif_frame_larger_than_its_screen_is_counted() -> None:
    """The size that would be decoded counts, not the one the header declares."""
    with pytest.raises(ImageTooLargeError):
        decode(gif_declaring(10, 10, frame=(60_000, 60_000)))


def test_the_pixel_cap_is_exact_and_counts_pixels() -> None:
    """An image of exactly the cap is read, one row more is not, and the message has both numbers."""
    data = encoded(flat(), "PNG")

    assert_flat(ORANGE, decode_image(data, max_pixels=WIDTH * HEIGHT).pixels)
    with pytest.raises(ImageTooLargeError, match="24 x 16 = 384 pixels; the limit is 383") as caught:
        decode_image(data, max_pixels=WIDTH * HEIGHT - 1)
    assert "image" == caught.value.field


def middle_of(kind: str) -> bytes:
    """A real picture of noise, cut off in the middle."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    return data[: len(data) // 2]


REFUSED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"this is no image",
    "html": lambda: b"<!doctype html><title>404</title>",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "pdf": lambda: b"%PDF-1.7\n1 0 obj\n",
    "a format that is not promised": lambda: encoded(flat(), "PPM"),
    "a truncated JPEG": lambda: middle_of("JPEG"),
    "a truncated PNG": lambda: middle_of("PNG"),
    "a truncated WebP": lambda: middle_of("WEBP"),
    "a truncated GIF": lambda: middle_of("GIF"),
    "a truncated TIFF": lambda: middle_of("TIFF"),
    "a truncated BMP": lambda: middle_of("BMP"),
    "a JPEG's first two bytes": lambda: b"\xff\xd8",
    "a PNG's signature": lambda: b"\x89PNG\r\n\x1a\n",
    "a PNG without pixels": lambda: png_declaring(0, 5),
    "a GIF without pixels": lambda: gif_declaring(0, 0, frame=(0, 0)),
    "a PNG with a broken chunk": png_with_a_broken_chunk,
    "a PNG whose pixels are missing": lambda: png_declaring(50, 50),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_non_images_are_refused(name: str) -> None:
    """Broken and foreign bytes are the caller's mistake, in a sentence that names the field."""
    with pytest.raises(InvalidImageError) as caught:
        decode(REFUSED[name]())

    assert (422, "image") == (caught.value.status, caught.value.field)
    assert len(str(caught.value)) < 120


@AS_IN_PRODUCTION
@settings(deadline=None, max_examples=300)
@given(
    head=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0*", b"BM", b"RIFF"]),
    tail=st.binary(max_size=300),
)
def test_random_bytes_raise_only_image_errors(head: bytes, tail: bytes) -> None:
    """Whatever the bytes, the answer is pixels or an error of the tree."""
    try:
        pixels = decode_image(head + tail, max_pixels=100_000).pixels
    except OsamdError:
        return
    assert (3, 3) == (pixels.ndim, pixels.shape[2])


CORRUPTIBLE = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]


@AS_IN_PRODUCTION
@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(CORRUPTIBLE),
    seed=st.integers(0, 2**31),
    changes=st.integers(1, 8),
    keep=st.floats(0.1, 1.0) | st.just(1.0),
)
def test_corrupted_images_raise_only_image_errors(kind: str, seed: int, changes: int, keep: float) -> None:
    """Real files with flipped bytes and cut ends give pixels or an error of the tree."""
    rng = random.Random(seed)  # noqa: S311
    data = bytearray(with_orientation(marked("RGB"), kind, 6) if kind in {"JPEG", "PNG"} else encoded(flat(), kind))
    for _ in range(changes):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        pixels = decode_image(bytes(data[: max(1, int(len(data) * keep))]), max_pixels=100_000).pixels
    except OsamdError:
        return
    assert (3, 3) == (pixels.ndim, pixels.shape[2])


def shades(width: int, height: int) -> Image.Image:
    """A picture whose red grows to the right and whose green grows downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((400, 600), (400, 600)),
        ((401, 600), (800, 1200)),
        ((201, 300), (400, 600)),
        ((200, 300), (200, 300)),
        ((100, 150), (100, 150)),
        ((1, 1), (100, 150)),
        ((100, 301), (400, 600)),
        ((5000, 5000), (800, 1200)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_no_finer_than_wanted(
    wanted: tuple[int, int], expected: tuple[int, int], orientation: int
) -> None:
    """At a half, a quarter or an eighth, if both sides stay large enough; the original size is returned."""
    stored = shades(1200, 800) if orientation == 1 else shades(1200, 800).transpose(Image.Transpose.ROTATE_90)
    data = with_orientation(stored, "JPEG", orientation)
    asked: list[tuple[int, int]] = []

    def wants(*, height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return wanted

    picture = decode_image(data, max_pixels=MAX_PIXELS, wanted=wants)

    assert [(800, 1200)] == asked
    assert (800, 1200) == (picture.height, picture.width)
    assert (*expected, 3) == picture.pixels.shape
    exact = np.asarray(shades(expected[1], expected[0])).astype(int)
    assert np.abs(picture.pixels.astype(int) - exact).max() <= 8


def test_other_formats_are_decoded_as_they_are() -> None:
    """Only JPEG can be decoded smaller."""
    data = encoded(shades(640, 480), "PNG")

    picture = decode_image(data, max_pixels=MAX_PIXELS, wanted=lambda *, height, width: (height // 4, width // 4))

    assert (480, 640, 3) == picture.pixels.shape
    assert (480, 640) == (picture.height, picture.width)


def test_out_of_memory_is_not_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine frees memory and retries; a good image is not reported as corrupt."""

    def fail(*_: object) -> Pixels:
        raise MemoryError

    monkeypatch.setattr("osamd.pixels.images._strip_to_rgb", fail)
    with pytest.raises(MemoryError):
        decode(encoded(Image.new("RGB", (WIDTH, HEIGHT)), "PNG"))
