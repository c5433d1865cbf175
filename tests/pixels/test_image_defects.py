"""Files with defects that do not touch their pixels: every browser shows them."""

import io
import random
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hostile_images import packed_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from osamd.errors import InvalidImageError, OsamdError
from osamd.pixels.images import decode_image
from osamd.pixels.png_chunks import without_remarks

WIDTH, HEIGHT = 24, 16
ORANGE = (230, 120, 30)
SIGNATURE = b"\x89PNG\r\n\x1a\n"

Pixels = npt.NDArray[np.uint8]


def decode(data: bytes) -> Pixels:
    """Decode."""
    return decode_image(data, max_pixels=10**6).pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image in a Pillow format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture() -> Image.Image:
    """Orange, with a dark corner at the top left."""
    image = Image.new("RGB", (WIDTH, HEIGHT), ORANGE)
    image.paste((20, 20, 20), (0, 0, 8, 8))
    return image


def chunk(name: bytes, content: bytes, *, length: int | None = None, checksum: int | None = None) -> bytes:
    """A chunk, or one that lies."""
    right = zlib.crc32(name + content)
    declared = len(content) if length is None else length
    return struct.pack(">I", declared) + name + content + struct.pack(">I", right if checksum is None else checksum)


def png_with(*chunks: bytes, behind: bytes = b"", image: Image.Image | None = None) -> bytes:
    """A PNG with these chunks between its head and its pixels, and some behind them."""
    data = encoded(image or picture(), "PNG")
    head_end = len(SIGNATURE) + 25
    return data[:head_end] + b"".join(chunks) + data[head_end:-12] + behind + data[-12:]


PROMPT = b"masterpiece, best quality, " * 100_000
PROFILE = zlib.compress(bytes(3_000_000))
REMARKS: dict[str, Callable[[], bytes]] = {
    "zTXt of 2.7 MB": lambda: png_with(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(PROMPT))),
    "iTXt of 2.7 MB": lambda: png_with(chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(PROMPT))),
    "iTXt of 2.7 MB as it is": lambda: png_with(chunk(b"iTXt", b"prompt\0\0\0\0\0" + PROMPT)),
    "iCCP of 3 MB": lambda: png_with(chunk(b"iCCP", b"profile\0\0" + PROFILE)),
    "many texts of 70 MB": lambda: png_with(*[chunk(b"tEXt", b"a\0" + bytes([98]) * 1_000_000)] * 70),
    "1 000 profiles": lambda: png_with(packed_chunk(b"iCCP", 1_000_000) * 1000),
    "1 000 packed texts": lambda: png_with(packed_chunk(b"zTXt", 1_000_000) * 1000),
    "1 000 packed Unicode texts": lambda: png_with(packed_chunk(b"iTXt", 1_000_000) * 1000),
    "text behind the pixels": lambda: png_with(behind=chunk(b"zTXt", b"parameters\0\0" + zlib.compress(PROMPT))),
    "zTXt that is not deflated": lambda: png_with(chunk(b"zTXt", b"a\0\0no deflate")),
    "iTXt without a keyword": lambda: png_with(chunk(b"iTXt", b"\0")),
    "iCCP with an unknown method": lambda: png_with(chunk(b"iCCP", b"profile\0\7" + PROFILE)),
    "iCCP without content": lambda: png_with(chunk(b"iCCP", b"")),
    "wrong checksum of text": lambda: png_with(chunk(b"tEXt", b"a\0b", checksum=1)),
    "wrong checksum of gAMA": lambda: png_with(chunk(b"gAMA", struct.pack(">I", 45455), checksum=1)),
    "wrong checksum of EXIF": lambda: png_with(chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0", checksum=1)),
    "wrong checksum of transparency": lambda: png_with(chunk(b"tRNS", struct.pack(">HHH", *ORANGE), checksum=1)),
    "wrong checksum of an unknown chunk": lambda: png_with(chunk(b"prIv", b"abc", checksum=1)),
    "short gAMA": lambda: png_with(chunk(b"gAMA", b"\0")),
    "short pHYs": lambda: png_with(chunk(b"pHYs", b"\0\1")),
    "short cHRM": lambda: png_with(chunk(b"cHRM", b"\0\1")),
    "empty sRGB": lambda: png_with(chunk(b"sRGB", b"")),
    "short tIME": lambda: png_with(chunk(b"tIME", b"")),
    "short acTL": lambda: png_with(chunk(b"acTL", b"\0")),
    "fcTL without acTL": lambda: png_with(chunk(b"fcTL", bytes(26))),
    "transparency of a wrong length": lambda: png_with(chunk(b"tRNS", b"\0")),
    "a length that is too long": lambda: png_with(chunk(b"tEXt", b"a\0b", length=40)),
    "a length that is too short": lambda: png_with(chunk(b"tEXt", b"a\0b and more", length=2)),
    "a length beyond the file": lambda: png_with(chunk(b"tEXt", b"a\0b", length=2**31 - 1)),
    "a length beyond everything": lambda: png_with(chunk(b"tEXt", b"a\0b", length=2**32 - 1)),
    "a length beyond the file, behind the pixels": lambda: png_with(behind=chunk(b"tEXt", b"a\0b", length=10**6)),
    "rubbish at the end": lambda: png_with() + b"PK\3\4 and a whole archive",
    "no end": lambda: png_with()[:-12],
}


@pytest.mark.parametrize("name", list(REMARKS))
def test_corrupt_png_metadata_is_ignored(name: str) -> None:
    """Text, profiles and chunks with lies about themselves are left out, and the pixels are all there."""
    np.testing.assert_array_equal(np.asarray(picture()), decode(REMARKS[name]()))


def test_chunks_that_pixels_need_are_kept() -> None:
    """Transparency, EXIF and XMP survive; a file with nothing to leave out is not even copied."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "PNG", exif=exif, transparency=ORANGE)
    assert without_remarks(data) is data
    remark = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b"))

    pixels = decode(data[:33] + remark + data[33:])

    assert (WIDTH, HEIGHT, 3) == pixels.shape
    assert [20, 20, 20] == pixels[0, -1].tolist()
    assert [255, 255, 255] == pixels[-1, 0].tolist()


def test_the_orientation_in_xmp_is_kept() -> None:
    """Where there is no EXIF."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

    pixels = decode(png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)))

    assert (WIDTH, HEIGHT, 3) == pixels.shape


def test_palettes_keep_their_transparency() -> None:
    """As many entries as the palette has."""
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([*ORANGE, 0, 0, 0])
    image.paste(1, (0, 0, 8, 8))
    data = encoded(image, "PNG", transparency=b"\xff\0")

    pixels = decode(data[:33] + chunk(b"tIME", b"") + data[33:])

    assert ([255, 255, 255], list(ORANGE)) == (pixels[0, 0].tolist(), pixels[-1, -1].tolist())


def test_a_wrong_checksum_of_the_head_is_refused() -> None:
    """What is broken in the picture itself is not guessed at."""
    data = bytearray(png_with())
    data[len(SIGNATURE) + 8 + 13] ^= 1

    with pytest.raises(InvalidImageError):
        decode(bytes(data))


def test_search_for_the_next_chunk_is_linear() -> None:
    """A file of nothing but lies is looked through once."""
    liar = chunk(b"tEXt", b"", length=2**31 - 1)
    data = SIGNATURE + png_with()[8:33] + liar * 500_000
    started = time.process_time()

    with pytest.raises(InvalidImageError):
        decode(data)

    assert time.process_time() - started < 10


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**31), changes=st.integers(1, 6), keep=st.floats(0.2, 1.0) | st.just(1.0))
@pytest.mark.filterwarnings("ignore")
def test_corrupted_metadata_raises_only_image_errors(seed: int, changes: int, keep: float) -> None:
    """Flipped bytes and cut ends in a PNG of many chunks give pixels or an error of the tree."""
    data = bytearray(
        png_with(
            chunk(b"tRNS", struct.pack(">HHH", *ORANGE)),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"),
            chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0"),
            chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 100)),
            behind=chunk(b"tEXt", b"a\0b"),
        )
    )
    rng = random.Random(seed)  # noqa: S311
    for _ in range(changes):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        pixels = decode(bytes(data[: int(len(data) * keep)]))
    except OsamdError:
        return
    assert 3 == pixels.shape[2]


def bmp(image: Image.Image, *, version: int, alpha: int) -> bytes:
    """A BMP of 32 bits with masks for four channels: as graphics programs and clipboards write it."""
    rgba = np.dstack([np.asarray(image)[:, :, ::-1], np.full((image.height, image.width), alpha, np.uint8)])
    pixels = np.ascontiguousarray(rgba[::-1]).tobytes()
    size = {4: 108, 5: 124}[version]
    head = struct.pack("<IiiHHIIiiII", size, image.width, image.height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = head.ljust(size, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + size + len(pixels), 0, 0, 14 + size) + head + pixels


@pytest.mark.parametrize("version", [4, 5])
def test_a_bmp_whose_alpha_was_never_set_is_opaque(version: int) -> None:
    """Where all of it is 0, all programs show the picture; with one pixel set it means what it says."""
    np.testing.assert_array_equal(np.asarray(picture()), decode(bmp(picture(), version=version, alpha=0)))
    np.testing.assert_array_equal(np.asarray(picture()), decode(bmp(picture(), version=version, alpha=255)))
    half = decode(bmp(picture(), version=version, alpha=128))
    assert np.abs(half[-1, -1].astype(int) - (np.array(ORANGE) + 255) / 2).max() <= 1
    one = bytearray(bmp(picture(), version=version, alpha=0))
    one[-1] = 255
    assert [255, 255, 255] == decode(bytes(one))[-1, -1].tolist()


def photo_like() -> Image.Image:
    """Something with detail in every block."""
    noise = np.random.default_rng(3).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC)


JPEGS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 7},
    "best": {"quality": 100, "subsampling": 0},
}


@pytest.mark.parametrize("name", list(JPEGS))
@pytest.mark.parametrize("end", [b"", b"\xff", b"\0" * 40], ids=["nothing", "half a marker", "zeros"])
def test_a_jpeg_that_lacks_only_its_end(name: str, end: bytes) -> None:
    """The pixels are those of the whole file."""
    data = encoded(photo_like(), "JPEG", **JPEGS[name])
    assert data.endswith(b"\xff\xd9")

    np.testing.assert_array_equal(decode(data), decode(data[:-2] + end))


@pytest.mark.parametrize("name", list(JPEGS))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97, 0.995])
def test_a_jpeg_that_lacks_more_is_refused(name: str, share: float) -> None:
    """Pixels are not made up."""
    data = encoded(photo_like(), "JPEG", **JPEGS[name])

    with pytest.raises(InvalidImageError, match="truncated"):
        decode(data[: int(len(data) * share)])


def test_a_grey_jpeg_of_one_colour_without_its_end() -> None:
    """Where made-up pixels would look like the real ones."""
    data = encoded(Image.new("L", (64, 64), 128), "JPEG")

    np.testing.assert_array_equal(decode(data), decode(data[:-2]))


def test_the_real_photo_without_its_end(photo: bytes) -> None:
    """A camera's JPEG."""
    np.testing.assert_array_equal(
        decode_image(photo, max_pixels=10**8).pixels, decode_image(photo[:-2], max_pixels=10**8).pixels
    )


def other_formats() -> dict[str, bytes]:
    """Remarks in other formats that are broken."""
    image, rubbish = picture(), b"\xff\x13rubbish" * 30
    jpeg = encoded(image, "JPEG", quality=95)

    def with_segment(marker: int, content: bytes) -> bytes:
        return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + jpeg[2:]

    return {
        "JPEG, EXIF": with_segment(0xE1, b"Exif\0\0" + rubbish),
        "JPEG, XMP": with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + rubbish),
        "JPEG, ICC": with_segment(0xE2, b"ICC_PROFILE\0\5\1" + rubbish),
        "JPEG, ICC without numbers": with_segment(0xE2, b"ICC_PROFILE\0"),
        "JPEG, MPF": with_segment(0xE2, b"MPF\0" + rubbish),
        "JPEG, Photoshop": with_segment(0xED, b"Photoshop 3.0\x008BIM\4\4" + rubbish),
        "JPEG, Adobe": with_segment(0xEE, b"Adobe"),
        "JPEG, JFIF": with_segment(0xE0, b"JFIF"),
        "JPEG, comment": with_segment(0xFE, rubbish),
        "WebP, EXIF": encoded(image, "WEBP", lossless=True, exif=b"Exif\0\0" + rubbish),
        "WebP, ICC": encoded(image, "WEBP", lossless=True, icc_profile=rubbish),
        "WebP, XMP": encoded(image, "WEBP", lossless=True, xmp=rubbish),
        "GIF, comment": encoded(image, "GIF", comment=rubbish),
        "TIFF, ICC": encoded(image, "TIFF", icc_profile=rubbish),
    }


@pytest.mark.filterwarnings("ignore")
def test_metadata_of_other_formats_is_ignored() -> None:
    """They are as little reason to refuse a picture."""
    for name, data in other_formats().items():
        pixels = decode(data)
        assert (HEIGHT, WIDTH, 3) == pixels.shape, name
        assert np.abs(pixels[-1, -1].astype(int) - ORANGE).max() <= 6, name
