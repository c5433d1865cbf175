"""Small images that are expensive to decode are refused by their structure; ordinary ones are not."""

import contextlib
import io
import struct

import pytest
from hostile_images import ABSURD, chunk, gif_with, jpeg_of_scans, jpeg_with, photo, png_with, tiff_of_strips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osamd.errors import InvalidImageError
from osamd.pixels.images import decode_image
from osamd.pixels.structure import MOST_PIECES, MOST_SCANS, check_structure


@pytest.mark.parametrize("name", list(ABSURD))
def test_absurd_structures_are_refused(name: str) -> None:
    """The message names what there is too much of and the limit, and nothing was decoded."""
    make, limit = ABSURD[name]
    data = make()

    with pytest.raises(InvalidImageError, match=limit) as caught:
        check_structure(data)

    assert "image" == caught.value.field
    with pytest.raises(InvalidImageError, match=limit):
        decode_image(data, max_pixels=50_000_000)


def animation(kind: str) -> bytes:
    """Of 20 frames."""
    frames = [Image.new("RGB", (40, 30), (shade, 9, 9)) for shade in range(20)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


USUAL = {
    **{kind: photo(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")},
    "progressive": photo("JPEG", progressive=True),
    "progressive and grey": photo("JPEG", 64, progressive=True, quality=100),
    "as many scans as allowed": jpeg_of_scans(MOST_SCANS - 10),
    "a film behind the photo": photo("JPEG", progressive=True) + b"\xff\xda" * 999,
    "a film behind a sequential photo": photo("JPEG") + b"\xff\xda" * 999,
    "large profiles": jpeg_with((b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\1\1" + bytes(65_519)) * 60),
    "EXIF in two pieces": jpeg_with((b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65_527)) * 2),
    "a fill byte": jpeg_with(b"\xff"),
    "a phone's second picture": animation("MPO"),
    "texts": png_with(chunk(b"tEXt", b"prompt\0" + bytes(9)) * 500),
    "animated PNG": animation("PNG"),
    "animated GIF": animation("GIF"),
    "animated WebP": animation("WEBP"),
    "a GIF's comments": gif_with(b"!\xfe" + (b"\xff" + bytes(255)) * 1000 + b"\0"),
    "a row a strip": tiff_of_strips(20_000),
    "as many strips as allowed": tiff_of_strips(MOST_PIECES, order=">"),
    "pages": animation("TIFF"),
    "JPEG in TIFF": photo("TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("name", list(USUAL))
def test_ordinary_files_pass(name: str) -> None:
    """Also what is large, old or has much attached to it."""
    check_structure(USUAL[name])

    assert 3 == decode_image(USUAL[name], max_pixels=50_000_000).pixels.shape[2]


@pytest.mark.parametrize("name", list(USUAL))
def test_truncated_files_raise_only_image_errors(name: str) -> None:
    """Wherever it ends."""
    data = USUAL[name]
    for end in [*range(min(len(data), 60)), *range(60, len(data), max(1, len(data) // 50))]:
        check_structure(data[:end])


@given(
    head=st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"BM"]),
    tail=st.binary(max_size=200),
)
def test_random_bytes_raise_only_image_errors(head: bytes, tail: bytes) -> None:
    """A refusal, or nothing."""
    with contextlib.suppress(InvalidImageError):
        check_structure(head + tail)


def test_pieces_are_counted_without_decoding() -> None:
    """A list of strips that the file does not even have costs nothing to refuse."""
    entry = struct.pack("<HHII", 273, 4, 0xFFFFFFFF, 8)

    with pytest.raises(InvalidImageError, match="65,536 strips"):
        check_structure(b"II*\0" + struct.pack("<IH", 8, 1) + entry)
