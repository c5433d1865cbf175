"""Every kind of image that ``segment`` takes, and what it says of the others."""

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving import KEY, RunningServer, clean_environment

from osamd.client import AsyncClient, Client
from osamd.client.arguments import embed_call, segment_call
from osamd.client.pictures import sent_image
from osamd.client.png import array_to_png
from osamd.errors import InvalidImageError, OsamdError
from osamd.pixels.images import decode_image
from osamd.types import ByteArray


def sent(image: object) -> bytes:
    """The bytes of the image in a request."""
    return base64.b64decode(sent_image(image).fields["image"])


def pixels_of(data: bytes) -> "np.ndarray[Any, Any]":
    """The pixels of an encoded image."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_encoded_images_are_sent_as_they_are(photo: bytes, tmp_path: Path) -> None:
    """Bytes in any wrapping, files by path or open, a path as text."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(photo)
    with path.open("rb") as file:
        images = [
            photo,
            bytearray(photo),
            memoryview(photo),
            memoryview(photo)[:],
            io.BytesIO(photo),
            file,
            path,
            str(path),
        ]
        assert {photo} == {sent(image) for image in images}


def test_every_kind_of_image_gets_the_same_answer(server: RunningServer, photo: bytes, tmp_path: Path) -> None:
    """The same pixels in a file, in memory, as an array, as a Pillow image and as a data URI give one mask."""
    with Image.open(io.BytesIO(photo)) as opened:
        picture = opened.convert("RGB")
    array = np.asarray(picture)
    path = tmp_path / "cat.png"
    picture.save(path)
    uri = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    images = [path, path.read_bytes(), array, array[:, ::-1][:, ::-1], picture, uri, uri.replace("data:", "DATA:", 1)]
    with Client(server.url, api_key=KEY) as client:
        masks = {client.segment(image, points=[(225, 150)]).annotations[0].mask for image in images[:-1]}  # type: ignore[arg-type] # images of several types
    assert 1 == len(masks)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
def test_arrays_are_sent_without_loss(dtype: Any, channels: tuple[int, ...]) -> None:
    """Grey, RGB and RGBA, 8 and 16 bits of either byte order, and slices of larger arrays."""
    most = np.iinfo(np.dtype(dtype)).max
    whole = np.random.default_rng(1).integers(0, most, (14, 18, *channels), endpoint=True).astype(dtype)
    for array in (whole, whole[::2, 1:6], whole[:1, :1]):
        read = cv2.imdecode(np.frombuffer(sent(array), np.uint8), cv2.IMREAD_UNCHANGED)
        assert read is not None
        # OpenCV has blue first, and no grey with alpha.
        if channels == (2,):
            read = read[..., 2:]
        elif channels in {(3,), (4,)}:
            read = read[..., [2, 1, 0, 3][: channels[0]]]
        assert np.array_equal(array.squeeze(-1) if channels == (1,) else array, read)


@given(st.data())
def test_any_array_of_bytes_survives(data: st.DataObject) -> None:
    """Width, height, channels and contents make no difference."""
    height, width, channels = (data.draw(st.integers(1, most)) for most in (9, 9, 4))
    values = data.draw(st.binary(min_size=height * width * channels, max_size=height * width * channels))
    array = np.frombuffer(values, np.uint8).reshape(height, width, channels)
    assert np.array_equal(array.squeeze(-1) if channels == 1 else array, pixels_of(array_to_png(array)))


def test_masks_and_lookalikes_of_arrays_are_images_too() -> None:
    """Bool is black and white; whatever NumPy can make an array of is one."""

    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> ByteArray:
            return np.full((2, 3), 7, np.uint8)

    assert [[0, 255]] == pixels_of(sent(np.array([[False, True]]))).tolist()
    assert np.array_equal(np.full((2, 3), 7), pixels_of(sent(Tensor())))


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "PA", "La", "RGBa", "RGBX", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_pillow_images_of_every_mode_are_sent(mode: str) -> None:
    """What PNG has no mode for is converted; the server reads all of them."""
    if mode in {"La", "RGBa"}:
        image = Image.new({"La": "LA", "RGBa": "RGBA"}[mode], (5, 4), 0).convert(mode)
    elif mode == "LAB":
        image = Image.new("LAB", (5, 4))
    else:
        image = Image.new(mode, (5, 4))
    picture = decode_image(sent(image), max_pixels=100)
    assert (4, 5) == (picture.height, picture.width)


def test_pillow_image_is_its_pixels_in_memory() -> None:
    """EXIF would rotate it again: points refer to ``image.size``."""
    image = Image.new("RGB", (6, 4))
    image.getexif()[0x0112] = 6
    written = io.BytesIO()
    image.save(written, "JPEG", exif=image.getexif())
    with Image.open(written) as opened:
        picture = decode_image(sent(opened), max_pixels=100)
    assert (6, 4) == (picture.width, picture.height)


@pytest.mark.parametrize("url", ["https://example.com/cat.jpg", "http://example.com/a b.png", "HTTPS://EXAMPLE.COM/"])
def test_urls_are_for_the_server_to_fetch(url: str) -> None:
    """As ``image_url``, of segment and embed."""
    assert {"image_url": url} == segment_call(url, {}).body == embed_call(url, None).body


def test_url_that_the_server_does_not_fetch_is_said_so(server: RunningServer) -> None:
    """Its operator decides; the error is the typed one and names the field."""
    with Client(server.url, api_key=KEY) as client, pytest.raises(OsamdError, match="image_url") as caught:
        client.segment("https://example.com/cat.jpg")
    assert "url_refused" == caught.value.code


class Text(io.StringIO):
    """An open text file."""


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: np.zeros((4, 4)), "expected an array of uint8 or uint16, got float64: scale it first"),
        (lambda: np.zeros((4, 4), np.int16), "got int16"),
        (lambda: np.zeros((4, 4), complex), "got complex128"),
        (lambda: np.zeros((3, 4, 4), np.uint8)[None], r"expected an array of shape \(H, W\)"),
        (lambda: np.zeros((4, 4, 5), np.uint8), r"got \(4, 4, 5\)"),
        (lambda: np.zeros(5, np.uint8), r"got \(5,\)"),
        (lambda: np.zeros((0, 4), np.uint8), "no pixels"),
        (lambda: np.array([["a"]]), "got <U1"),
        (lambda: Image.new("F", (2, 2)), "mode F have no defined range"),
        (lambda: Image.new("I", (2, 2)), "mode I have no defined range"),
        (lambda: Text("x"), "binary mode"),
        (io.BytesIO, r"at its end: call seek\(0\)"),
        (lambda: "s3://bucket/cat.jpg", "s3:// URLs are not supported"),
        (lambda: "file:///cat.jpg", "file:// URLs are not supported"),
        (lambda: base64.b64encode(bytes(9000)).decode(), "prefix base64 text with data:image/...;base64,"),
        (lambda: "cat\0.jpg", "not a path"),
        (lambda: 5, "got int"),
        (lambda: [[1, 2]], "got list"),
        (dict, "got dict"),
    ],
)
def test_other_images_are_refused_in_clear_words(make: Callable[[], object], part: str) -> None:
    """The message says what was given and what is expected, and nothing was sent."""
    with pytest.raises(InvalidImageError, match=part) as caught:
        sent_image(make())
    assert "image" == caught.value.field


def test_a_file_object_that_was_written_has_to_be_rewound(photo: bytes) -> None:
    """Reading from its end would send nothing."""
    written = io.BytesIO()
    written.write(photo)
    with pytest.raises(InvalidImageError, match="seek"):
        sent_image(written)
    written.seek(0)
    assert photo == sent(written)


def test_missing_files_and_folders_are_pythons_own_errors(tmp_path: Path) -> None:
    """As from ``open``."""
    with pytest.raises(FileNotFoundError):
        sent_image(tmp_path / "missing.jpg")
    with pytest.raises(IsADirectoryError):
        sent_image(str(tmp_path))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_embed_takes_them_as_well(kind: type) -> None:
    """Both clients share what they send."""
    assert hasattr(kind, "embed")
    body = embed_call(np.zeros((2, 2), np.uint8), "builtin").body
    assert body is not None
    assert {"image", "model"} == set(body)


def test_paths_need_neither_numpy_nor_pillow(photo: bytes, tmp_path: Path) -> None:
    """They are only imported by callers who have something of theirs."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(photo)
    script = f"""
import io, json, sys
from osamd.client.arguments import segment_call
for image in ({str(path)!r}, io.BytesIO(b"x"), b"x", "data:,"):
    segment_call(image, dict(points=[(1, 2)]))
print(json.dumps(sorted({{"numpy", "PIL"}} & set(sys.modules))))
"""
    ended = subprocess.run([sys.executable, "-c", script], env=clean_environment({}), capture_output=True, check=True)
    assert [] == json.loads(ended.stdout)
