"""Base64 in every spelling that clients send."""

import base64
import json
import textwrap
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.errors import InvalidRequestError
from osamd.wire.base64_text import decode_base64
from osamd.wire.json_bodies import from_json
from osamd.wire.pieces import PIECE_BYTES
from osamd.wire.schemas import GenerateBody


def of_json(raw: bytes) -> bytes:
    """The image of a JSON body."""
    image = from_json(raw, GenerateBody).image
    assert image is not None
    return decode_base64(image, field="image")


def as_php(text: str) -> str:
    """JSON as PHP writes it."""
    return json.dumps(text).replace("/", "\\/")


def as_dotnet(text: str) -> str:
    """JSON as System.Text.Json writes it."""
    return json.dumps(text).replace("+", "\\u002B").replace("=", "\\u003D")


def wrapped(text: str) -> str:
    """As ``base64`` prints it, between quotation marks of a shell."""
    return '"' + "\n".join(textwrap.wrap(text, 76)) + '\n"'


DATA = bytes(range(256)) * 3 + b"?>?"


@given(st.binary(min_size=1, max_size=100), st.booleans(), st.booleans(), st.sampled_from(["", "\n", " ", "\r\n\t"]))
def test_what_was_encoded_is_decoded(data: bytes, is_url_safe: bool, is_padded: bool, space: str) -> None:  # noqa: FBT001
    """Both alphabets, with and without padding, with white space anywhere."""
    text = (base64.urlsafe_b64encode if is_url_safe else base64.b64encode)(data).decode()
    spaced = space.join(text if is_padded else text.rstrip("="))

    assert data == decode_base64(f"{space}{spaced}{space}", field="image")
    assert data == decode_base64(spaced.encode(), field="image")


@pytest.mark.parametrize("write", [json.dumps, as_php, as_dotnet, wrapped])
@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,", "DATA:IMAGE/PNG;charset=utf-8;BASE64,"])
def test_json_of_every_language_is_read(write: object, prefix: str) -> None:
    """Escaped slashes and plus signs, and lines as the tool ``base64`` breaks them."""
    assert callable(write)
    text = write(prefix + base64.b64encode(DATA).decode())

    assert of_json(f'{{"image": {text}, "model": "builtin"}}'.encode()) == DATA
    assert of_json(f'{{"model":"builtin","image_base64"\n:\t{text}}}'.encode()) == DATA


@pytest.mark.parametrize("shift", range(8))
def test_no_escape_is_lost_where_pieces_meet(shift: int) -> None:
    """Large texts are decoded in pieces, wherever these end."""
    data = b"\xff" * (PIECE_BYTES // 2)
    text = " " * shift + base64.b64encode(data).decode()

    for write in (json.dumps, as_php, as_dotnet):
        assert of_json(f'{{"image": {write(text)}}}'.encode()) == data


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a", "not base64"),
        ("aaaaa", "not base64"),
        ("aGk=aGk=", "not base64"),
        ("aG=k", "not base64"),
        ("=", "not base64"),
        ("====", "not base64"),
        ("aGk*", "not base64"),
        ("aGk=\\", "not base64"),
        ("\u00e9", "not base64"),
        ("A" * PIECE_BYTES + "AA==" + "AAAA", "not base64"),
        ("A" * (PIECE_BYTES - 4) + "AA==" + "AAAA", "not base64"),
        ("A" * (PIECE_BYTES - 4) + "AA==" + "A", "not base64"),
        ("", "empty"),
        (" \n", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,aGk=", "expected a data URI in base64"),
        ("data:aGk=", "has no comma"),
    ],
)
def test_what_is_not_base64_is_refused(text: str, part: str) -> None:
    """As plain text and in JSON."""
    with pytest.raises(InvalidRequestError, match=part) as plain:
        decode_base64(text, field="image")
    with pytest.raises(InvalidRequestError, match=part) as in_json:
        of_json(json.dumps({"image": text}).encode())

    assert (plain.value.field, in_json.value.field) == ("image", "image")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["embedding", "extra_features"])
def test_an_embedding_has_finite_numbers(name: str, value: float) -> None:
    """Whichever array has another one; the body's own thread looks, not the event loop."""

    def array(number: float) -> dict[str, Any]:
        data = np.full((1, 1, 4), number, np.float32).tobytes()
        return {"shape": [1, 1, 4], "dtype": "float32", "data": base64.b64encode(data).decode()}

    arrays: dict[str, Any] = {"embedding": array(0.5), "extra_features": [array(0.5)]}
    arrays[name] = array(value) if name == "embedding" else [array(value)]
    body = json.dumps({"image_embedding": {"original_height": 1, "original_width": 1} | arrays}).encode()
    embedding = from_json(body, GenerateBody).image_embedding
    assert embedding is not None
    with pytest.raises(InvalidRequestError, match="expected finite numbers") as caught:
        embedding.to_exchanged()
    assert "image_embedding" == caught.value.field


def test_the_data_of_an_array_may_have_escapes() -> None:
    """Wherever base64 is taken, it is taken in every spelling."""
    array = {"shape": [1, 1, 4], "dtype": "float32", "data": base64.b64encode(b"\xff\xff\xff\x3e" * 4).decode()}
    body = json.dumps({"image_embedding": {"original_height": 1, "original_width": 1, "embedding": array}})
    embedding = from_json(body.replace("/", "\\/").encode(), GenerateBody).image_embedding

    assert embedding is not None
    (first,) = embedding.to_exchanged().arrays
    assert (1, 1, 4) == first.shape
