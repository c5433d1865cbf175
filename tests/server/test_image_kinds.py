"""Every kind of image, end to end, and bytes that are none."""

import struct
import zlib
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from asking import GENERATE, only_mask, refusal
from pictures import DISC_X, DISC_Y, HEIGHT, WIDTH, Inside, base64_of, disc_mask, disc_picture, encoded, iou
from PIL import Image, ImageCms
from tiffs import tiff

ORIENTATION_TAG = 0x0112
# For each EXIF orientation, how Pillow must store an upright picture so that the tag makes it upright again.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def oriented(orientation: int, file_format: str) -> bytes:
    """The disc stored turned or mirrored, with the EXIF tag that says so."""
    tags = Image.Exif()
    tags[ORIENTATION_TAG] = orientation
    turn = STORED_AS[orientation]
    picture = disc_picture() if turn is None else disc_picture().transpose(turn)
    return encoded(picture, file_format, exif=tags)


def sixteen_bit() -> Image.Image:
    """The disc in 16-bit grey; its high bytes alone hold the picture, the low ones are zero."""
    grey = np.asarray(disc_picture().convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 256)


def see_through() -> Image.Image:
    """The disc opaque and black, on ground that is black too but fully transparent: it is seen over white only."""
    alpha = Image.fromarray(np.where(disc_mask(), 255, 0).astype(np.uint8))
    picture = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), mask=alpha)
    return picture


def animated(file_format: str) -> bytes:
    """The disc, then an empty frame."""
    second = Image.new("RGB", (WIDTH, HEIGHT), (200, 0, 0))
    return encoded(disc_picture(), file_format, save_all=True, append_images=[second])


def palette_with_transparency() -> bytes:
    """A palette picture, all black, whose ground is declared transparent."""
    picture = Image.new("P", (WIDTH, HEIGHT), 0)
    picture.putpalette([0, 0, 0, 0, 0, 0])
    picture.paste(1, mask=Image.fromarray(np.where(disc_mask(), 255, 0).astype(np.uint8)))
    return encoded(picture, "PNG", transparency=0)


def deep(factor: int, offset: int) -> npt.NDArray[Any]:
    """The disc in grey, with larger samples."""
    return (np.asarray(disc_picture().convert("L")).astype(np.int64) * factor + offset).astype(
        np.uint16 if offset == 0 else np.int64
    )


KINDS: dict[str, bytes] = {
    **{f"JPEG with EXIF orientation {tag}": oriented(tag, "JPEG") for tag in STORED_AS},
    "PNG with EXIF orientation 6": oriented(6, "PNG"),
    "WebP with EXIF orientation 8": oriented(8, "WEBP"),
    "TIFF with orientation 3": oriented(3, "TIFF"),
    "JPEG": encoded(disc_picture(), "JPEG"),
    "JPEG, progressive": encoded(disc_picture(), "JPEG", progressive=True),
    "JPEG, CMYK": encoded(disc_picture().convert("CMYK"), "JPEG"),
    "JPEG, grey": encoded(disc_picture().convert("L"), "JPEG"),
    "MPO": encoded(disc_picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]),
    "PNG": encoded(disc_picture()),
    "PNG, palette": encoded(disc_picture().quantize(16)),
    "PNG, palette with transparency": palette_with_transparency(),
    "PNG, grey": encoded(disc_picture().convert("L")),
    "PNG, grey with alpha": encoded(see_through().convert("LA")),
    "PNG, 1 bit": encoded(Image.fromarray(disc_mask())),
    "PNG, 16 bit": encoded(sixteen_bit()),
    "PNG, alpha": encoded(see_through()),
    "PNG, colour profile": encoded(
        disc_picture(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ),
    "APNG": animated("PNG"),
    "WebP": encoded(disc_picture(), "WEBP"),
    "WebP, lossless with alpha": encoded(see_through(), "WEBP", lossless=True),
    "WebP, animated": animated("WEBP"),
    "GIF": encoded(disc_picture(), "GIF"),
    "GIF, animated": animated("GIF"),
    "TIFF": encoded(disc_picture(), "TIFF"),
    "TIFF, several pages": animated("TIFF"),
    "TIFF, 16 bit": encoded(sixteen_bit(), "TIFF"),
    "TIFF, CMYK, deflate": encoded(disc_picture().convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
    "BMP": encoded(disc_picture(), "BMP"),
    "AVIF": encoded(disc_picture(), "AVIF"),
    "AVIF, turned": oriented(6, "AVIF"),
    "JPEG 2000": encoded(disc_picture(), "JPEG2000"),
    "PNG, 10 bits of 16": encoded(Image.fromarray(np.asarray(disc_picture().convert("L")).astype(np.uint16) * 4)),
    "TIFF, 10 bits of 16": tiff(deep(4, 0)),
    "TIFF, signed": tiff(deep(16, -1024).astype(np.int16)),
    "TIFF, 32 bits": tiff(deep(1, 0).astype(np.uint32) * 4_000_000),
    "TIFF, half": tiff((deep(1, 0) / 255).astype(np.float16)),
    "TIFF, floating point": tiff((deep(1, 0) / 255).astype(np.float32)),
    "TIFF, five bands": tiff(np.dstack([deep(4, 0)] * 5), extras=(0, 0, 0, 0)),
    **{f"TIFF with orientation {tag}": oriented(tag, "TIFF") for tag in (5, 6, 7, 8)},
    "JPEG without its end": encoded(disc_picture(), "JPEG")[:-2],
}


SCALED = {
    "PNG, 10 bits of 16": "samples 0 to 1023 scaled to 0 to 255",
    "TIFF, five bands": "samples 0 to 1023 scaled to 0 to 255; bands 1 to 3 of 5 used",
    "TIFF, floating point": "samples 0 to 1 scaled to 0 to 255",
}


@pytest.mark.parametrize("kind", SCALED)
def test_what_was_done_to_the_samples_is_said(client: httpx2.Client, kind: str) -> None:
    """In a header, of a new image and of one that is remembered, and where it is embedded."""
    new, again = (client.post(GENERATE, content=KINDS[kind]) for _ in range(2))
    embedded = client.post("/api/embed", content=KINDS[kind])

    assert [SCALED[kind]] * 3 == [answer.headers["X-Osamd-Conversion"] for answer in (new, again, embedded)]
    assert "X-Osamd-Conversion" not in client.post(GENERATE, content=KINDS["PNG, 16 bit"]).headers


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_read_upright(client: httpx2.Client, kind: str) -> None:
    """The mask of every kind lies where the object is on the upright picture, at its size."""
    reply = client.post(GENERATE, params={"point": f"{DISC_X},{DISC_Y}"}, content=KINDS[kind])

    assert reply.status_code == 200, reply.text
    assert (WIDTH, HEIGHT) == (reply.json()["width"], reply.json()["height"])
    found: Inside = only_mask(reply.json())
    assert found.shape == (HEIGHT, WIDTH)
    assert iou(disc_mask(), found) > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3000, 2)])
def test_tiny_and_thin_images_are_answered(client: httpx2.Client, size: tuple[int, int]) -> None:
    """An image of one pixel, and one of a single row, are images."""
    response = client.post(GENERATE, content=encoded(Image.new("RGB", size, (200, 10, 10))))

    assert response.status_code == 200, response.text
    assert size == (response.json()["width"], response.json()["height"])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file of a hundred bytes that says it is this large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 64)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"\x00\x01 this is no image", "not an image"),
        (b"%PDF-1.7\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"\xff\xd8\xff\xe0", ""),
        (encoded(disc_picture(), "JPEG")[:900], "truncated"),
        (encoded(disc_picture(), "PNG")[:-40], "truncated"),
        (encoded(disc_picture(), "WEBP")[:-40], ""),
        (encoded(disc_picture(), "TIFF")[:5000], "truncated"),
        (encoded(disc_picture(), "PPM"), "not an image"),
        (png_claiming(0, 0), ""),
        (png_claiming(5, 0), ""),
        (b"GIF89a" + bytes(6) + b";", ""),
    ],
    ids=["noise", "pdf", "svg", "four bytes", "jpeg", "png", "webp", "tiff", "ppm", "0 x 0", "5 x 0", "gif of 0 x 0"],
)
def test_no_image_is_refused(client: httpx2.Client, data: bytes, part: str) -> None:
    """Bytes that are no image, a broken one or one without pixels answer 422 in every kind of body."""
    answers = [
        client.post(GENERATE, content=data),
        client.post(GENERATE, json={"image_base64": base64_of(data)}),
        client.post(GENERATE, files={"image": data}),
    ]

    for response in answers:
        problem = refusal(response)
        assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_image", "image")
        assert part in problem["detail"]


@pytest.mark.parametrize("size", [(8_000, 8_001), (14_000, 14_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb_is_refused_by_its_header(client: httpx2.Client, size: tuple[int, int]) -> None:
    """A file that claims too many pixels answers 413. Decoded first, this one would be a broken image."""
    problem = refusal(client.post(GENERATE, content=png_claiming(*size)))

    assert (problem["status"], problem["code"], problem["field"]) == (413, "image_too_large", "image")
    assert "64,000,000" in problem["detail"]
    assert refusal(client.post(GENERATE, content=png_claiming(8_000, 8_000)))["code"] == "invalid_image"
