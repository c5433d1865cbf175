"""AVIF, JPEG 2000 and HEIC: what phones and archives have, under the same limits as everything else."""

import base64
import io
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from osamd.errors import ImageTooLargeError, InvalidImageError, OsamdError
from osamd.pixels import decoder
from osamd.pixels.careful_decoder import CarefulDecoder
from osamd.pixels.decoder import Decoder
from osamd.pixels.images import decode_image

WIDTH, HEIGHT = 24, 16
# Dark, with a bright mark of 8 x 8 in the top left corner, stored turned: upright it is 16 wide and 24 high, with the
# mark at the top right. Nothing here writes HEIC, so this one was made with pillow-heif.
TURNED_HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAcdtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAAB6wABAAAAAAAAADcAAgAAAAACIgABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABBmlwcnAAAADlaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/"
    "/wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xy"
    "bmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAAD"
    "CAgIAAAACWlyb3QDAAAAGWlwbWEAAAAAAAAAAQABBoECAwWEhgAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAAY21kYXQAAAAzKAGvBPIW5ixC"
    "qYhNf8W8xEF/novzaH8CtqcLENtDRtBXkJHF8nY0Yfu0SYkhRy6qq8AgAAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAAAQAGAAAAAAAA"
)
CODESTREAM = b"\xff\x4f\xff\x51"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image in a Pillow format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def marked(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Dark, with a bright mark in the top left corner."""
    image = Image.new("RGB", (width, height), (40, 40, 40))
    image.paste((250, 250, 250), (0, 0, width // 3, height // 2))
    return image


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_colour_modes(kind: str, mode: str) -> None:
    """Colour, grey, and transparency over white."""
    image = marked().convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.new("L", image.size, 255).point(lambda value: value))
        image.paste(0, (16, 8, 24, 16)) if mode == "LA" else image.paste((0, 0, 0, 0), (16, 8, 24, 16))
    options: dict[str, object] = {"quality": 90} if kind == "AVIF" else {}

    picture = decode_image(encoded(image, kind, **options), max_pixels=10**6)

    assert (HEIGHT, WIDTH, 3) == picture.pixels.shape
    assert np.abs(picture.pixels[2, 2].astype(int) - 250).max() <= 8
    expected = 255 if mode in {"RGBA", "LA"} else 40
    assert np.abs(picture.pixels[13, 21].astype(int) - expected).max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_avif(orientation: int) -> None:
    """AVIF has boxes of its own for this."""
    exif = Image.Exif()
    exif[0x0112] = orientation

    picture = decode_image(encoded(marked(), "AVIF", quality=90, exif=exif), max_pixels=10**6)

    turned = orientation >= 5
    assert ((WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH)) == (picture.height, picture.width)
    bright = np.argwhere(picture.pixels.min(axis=2) > 150).mean(axis=0) / picture.pixels.shape[:2]
    assert (bright[0] > 0.5, bright[1] > 0.5) == (orientation in {3, 4, 7, 8}, orientation in {2, 3, 6, 7})


def test_the_first_frame_of_an_avif_that_moves() -> None:
    """As of every animation."""
    others = [Image.new("RGB", (WIDTH, HEIGHT), (0, 200, 0))] * 2

    picture = decode_image(encoded(marked(), "AVIF", save_all=True, append_images=others), max_pixels=10**6)

    assert np.abs(picture.pixels[2, 2].astype(int) - 250).max() <= 12


def test_a_bare_codestream() -> None:
    """JPEG 2000 without a file around it."""
    data = encoded(marked(), "JPEG2000", no_jp2=True)
    assert data.startswith(CODESTREAM)

    np.testing.assert_array_equal(np.asarray(marked()), decode_image(data, max_pixels=10**6).pixels)


@pytest.mark.parametrize("top", [1023, 65535])
def test_a_jpeg_2000_of_16_bits(top: int) -> None:
    """By the rule for all samples of more than 8 bits."""
    grey = np.asarray(marked().convert("L"))
    samples = np.rint(grey * (top / 255)).astype(np.uint16)

    picture = decode_image(encoded(Image.fromarray(samples), "JPEG2000"), max_pixels=10**6)

    assert np.abs(picture.pixels[:, :, 0].astype(int) - grey).max() <= 1
    assert (top == 65535) == (picture.notes == ())


@pytest.mark.parametrize(
    ("wanted", "expected"), [((300, 400), (300, 400)), ((301, 400), (600, 800)), ((1, 1), (75, 100))]
)
def test_a_jpeg_2000_is_decoded_no_finer_than_wanted(wanted: tuple[int, int], expected: tuple[int, int]) -> None:
    """Like JPEG; the original size is returned."""
    data = encoded(marked(800, 600), "JPEG2000")

    picture = decode_image(data, max_pixels=10**6, wanted=lambda **_: wanted)

    assert (*expected, 3) == picture.pixels.shape
    assert (600, 800) == (picture.height, picture.width)


def test_the_memory_of_a_jpeg_2000_is_capped() -> None:
    """OpenJPEG decodes to 12 bytes a pixel: what is not wanted smaller must be smaller."""
    data = encoded(marked(80, 60), "JPEG2000")

    assert decode_image(data, max_pixels=80 * 60 * 3 // 2).pixels.shape == (60, 80, 3)
    with pytest.raises(ImageTooLargeError, match="takes 57,600 bytes"):
        decode_image(data, max_pixels=80 * 60)
    assert decode_image(data, max_pixels=80 * 60, wanted=lambda **_: (30, 40)).pixels.shape == (30, 40, 3)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_the_pixel_cap_counts(kind: str) -> None:
    """By the head, before anything is decoded."""
    data = encoded(marked(), kind)

    with pytest.raises(ImageTooLargeError, match="24 x 16 = 384 pixels; the limit is 383"):
        decode_image(data, max_pixels=383)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({4: (8000, "I"), 8: (8000, "I"), 20: (8000, "I"), 24: (8000, "I")}, "64,000,000 pixels"),
        ({4: (0, "I")}, "no pixels"),
        ({20: (1, "I"), 24: (1, "I"), 4: (80, "I"), 8: (80, "I")}, "6400 tiles"),
        ({20: (0, "I")}, "no head"),
    ],
)
def test_a_jpeg_2000_whose_codestream_is_another_size(change: dict[int, tuple[int, str]], message: str) -> None:
    """OpenJPEG believes the codestream, so that is what is checked."""
    data = bytearray(encoded(marked(), "JPEG2000"))
    start = data.index(CODESTREAM) + len(CODESTREAM)
    for offset, (value, kind) in change.items():
        struct.pack_into(f">{kind}", data, start + offset, value)

    with pytest.raises((ImageTooLargeError, InvalidImageError), match=message):
        decode_image(bytes(data), max_pixels=10**6)


def test_heic_with_the_extra() -> None:
    """Upright, as phones show it."""
    picture = decode_image(TURNED_HEIC, max_pixels=10**6)

    assert (WIDTH, HEIGHT, 3) == picture.pixels.shape
    bright = np.argwhere(picture.pixels.min(axis=2) > 150).mean(axis=0)
    assert np.abs(bright - (3.5, 11.5)).max() <= 1
    with pytest.raises(ImageTooLargeError, match="384 pixels"):
        decode_image(TURNED_HEIC, max_pixels=383)


def test_heic_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names it."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)

    with pytest.raises(InvalidImageError, match=r"this server cannot read HEIC images: .* osamd\[heic\]"):
        decode_image(TURNED_HEIC, max_pixels=10**6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIC"])
def test_truncated_files_are_refused(kind: str) -> None:
    """In the middle, and after the head."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    data = TURNED_HEIC if kind == "HEIC" else encoded(noise, kind)

    for cut in (12, 40, len(data) // 2):
        with pytest.raises(InvalidImageError):
            decode_image(data[:cut], max_pixels=10**6)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["AVIF", "JPEG2000"]),
    seed=st.integers(0, 2**31),
    changes=st.integers(1, 6),
)
@pytest.mark.filterwarnings("ignore")
def test_corrupted_files_raise_only_image_errors(kind: str, seed: int, changes: int) -> None:
    """Flipped bytes give pixels or an error of the tree."""
    try:
        pixels = decode_image(corrupted(encoded(marked(), kind), seed, changes), max_pixels=100_000).pixels
    except (OsamdError, MemoryError):
        return
    assert 3 == pixels.shape[2]


def corrupted(data: bytes, seed: int, changes: int) -> bytes:
    """A file with flipped bytes."""
    rng = random.Random(seed)  # noqa: S311
    changed = bytearray(data)
    for _ in range(changes):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def test_corrupted_heic_never_ends_the_server() -> None:
    """What reads HEIC crashes on some of them: its process ends, and the image is called broken."""
    decoder = Decoder(cpu_s=20)
    answers = []
    try:
        for seed in range(200):
            try:
                decoder(corrupted(TURNED_HEIC, seed, 1 + seed % 6), max_pixels=100_000)
            except OsamdError as error:
                answers.append(error.code)
        assert decoder(TURNED_HEIC, max_pixels=100_000).pixels.size
    finally:
        decoder.close()
    assert {"invalid_image", "image_too_large"} >= set(answers)


def test_format_plugins_are_imported_on_first_use() -> None:
    """What opens them is imported with the first such file."""
    program = "import sys, osamd.pixels.images; print(*sys.modules)"

    imported = subprocess.check_output([sys.executable, "-c", program], text=True).split()

    assert not {"PIL.AvifImagePlugin", "PIL.Jpeg2KImagePlugin", "pi_heif", "cv2"} & set(imported)


def test_all_formats_within_the_limits_of_the_decoding_process() -> None:
    """Their threads and tables fit into its memory, and what was done to the samples arrives."""
    decoder = Decoder(cpu_s=20)
    try:
        for data in (encoded(marked(), "AVIF"), encoded(marked(), "JPEG2000"), TURNED_HEIC):
            assert 24 * 16 == decoder(data, max_pixels=10**6).pixels[:, :, 0].size
        deep = Image.fromarray(np.asarray(marked().convert("L")).astype(np.uint16) * 4)
        assert ("samples 0 to 1023 scaled to 0 to 255",) == decoder(encoded(deep, "PNG"), max_pixels=10**6).notes
        cut = encoded(marked(), "JPEG")[:-2]
        assert (16, 24, 3) == decoder(
            cut, max_pixels=10**6, wanted=lambda *, height, width: (height, width)
        ).pixels.shape
    finally:
        decoder.close()


def test_heic_of_ones_own_is_decoded_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same picture as here; other formats need no process."""
    monkeypatch.setattr(decoder, "PROGRAM", "raise SystemExit(1)")
    with CarefulDecoder() as decode:
        for kind in ("PNG", "AVIF", "JPEG2000"):
            assert (HEIGHT, WIDTH, 3) == decode(encoded(marked(), kind), max_pixels=10**6).pixels.shape
    monkeypatch.undo()
    with CarefulDecoder() as decode:
        apart = decode(TURNED_HEIC, max_pixels=10**6)
        with pytest.raises(ImageTooLargeError, match="384 pixels"):
            decode(TURNED_HEIC, max_pixels=383)

    np.testing.assert_array_equal(decode_image(TURNED_HEIC, max_pixels=10**6).pixels, apart.pixels)
