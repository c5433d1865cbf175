"""``mask_input`` in bodies: an id, a picture, or neither."""

import base64
import json

import pytest

from osamd.errors import RequestError
from osamd.settings import load_settings
from osamd.wire.json_bodies import from_json
from osamd.wire.schemas import GenerateBody

SETTINGS = load_settings()
ID = "mask_" + "0f" * 16


def asked(text: bytes) -> tuple[str | None, bytes | None]:
    """The mask of a JSON body with this string, quotation marks not included."""
    prompts = from_json(b'{"prompt": {"mask_input": "%s"}}' % text, GenerateBody).to_prompts(SETTINGS)
    assert prompts is not None
    return prompts[0].mask_id, prompts[0].mask_png


@pytest.mark.parametrize("text", [ID, ID.replace("mask_", "mask\\u005f"), "mask_", "mask_/"])
def test_id(text: str) -> None:
    """It begins with ``mask_``, however JSON writes that; the engine judges the rest."""
    assert (json.loads(f'"{text}"'), None) == asked(text.encode())


@pytest.mark.parametrize("data", [b"\x89PNG", b"\xff" * 100, bytes(100_000)])
def test_picture(data: bytes) -> None:
    """Base64 of any length, longer than other strings may be; with JSON's escapes too."""
    text = base64.b64encode(data)
    assert (None, data) == asked(text) == asked(text.replace(b"/", b"\\/"))


@pytest.mark.parametrize(
    "text", [b"\\q", b"\\", b"\\ud800", b"\xff", b"\n", b"\\u00", b"none", b"\xe2\x82\xac", b"maskless!", b"=" * 100]
)
def test_neither(text: bytes) -> None:
    """Refused with the field, also where the string is not valid JSON."""
    with pytest.raises(RequestError):
        asked(text + b" !")


def test_no_mask_is_an_empty_prompt() -> None:
    """An empty string is no mask."""
    with pytest.raises(RequestError, match="the prompt is empty"):
        asked(b"")
