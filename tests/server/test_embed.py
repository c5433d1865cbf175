"""``POST /api/embed``, handles, and ``DELETE /api/images``."""

from datetime import UTC, datetime

import httpx2
import numpy as np
import pytest
from asking import CLICK, GENERATE, ask, click, only_mask
from pictures import HEIGHT, WIDTH, base64_of, disc_picture, encoded
from PIL import Image

EMBED = "/api/embed"
ROTATED = 6


def test_handle_answers_clicks(client: httpx2.Client, photo: bytes) -> None:
    """An image embedded ahead is clicked on by its handle alone, and the mask is the same."""
    embedded = client.post(EMBED, json={"model": "builtin", "image": base64_of(photo)})
    assert embedded.status_code == 200
    handle = embedded.json()
    response = client.post(GENERATE, json={"image_id": handle["image_id"], "prompt": click(CLICK)})

    assert {"model", "image_id", "width", "height", "expires_at"} == set(handle)
    assert (handle["model"], handle["width"], handle["height"]) == ("builtin:latest", 451, 300)
    assert response.headers["X-Osamd-Cache"] == "hit"
    assert handle["image_id"] == response.json()["image_id"]
    assert np.array_equal(only_mask(ask(client, photo, prompt=click(CLICK))), only_mask(response.json()))


def test_handle_expires_later(client: httpx2.Client, photo: bytes) -> None:
    """``expires_at`` is a time in UTC that is still to come."""
    expires_at = client.post(EMBED, content=photo).json()["expires_at"]

    assert expires_at.endswith("Z")
    assert datetime.fromisoformat(expires_at) > datetime.now(UTC)


def test_embed_takes_every_kind_of_body(client: httpx2.Client, photo: bytes) -> None:
    """JSON in both spellings, multipart and a bare image give one handle."""
    answers = [
        client.post(EMBED, json={"image": base64_of(photo)}),
        client.post(EMBED, json={"model_id": "builtin", "image_base64": base64_of(photo)}),
        client.post(EMBED, files={"image": ("cat.jpg", photo, "image/jpeg")}, data={"model": "builtin"}),
        client.post(EMBED, files={"image": photo, "request": (None, '{"model": "builtin"}', "application/json")}),
        client.post(EMBED, content=photo, headers={"Content-Type": "image/jpeg"}),
        client.post(EMBED, params={"model": "builtin:latest"}, content=photo),
    ]

    assert [200] * len(answers) == [answer.status_code for answer in answers]
    assert len({answer.json()["image_id"] for answer in answers}) == 1


def test_deleted_image_is_gone(client: httpx2.Client, photo: bytes) -> None:
    """After DELETE the handle answers 410, to clicks and to another DELETE, and the image may be sent again."""
    data = photo + b"to be forgotten"
    image_id = client.post(EMBED, content=data).json()["image_id"]
    forgotten = client.delete(f"/api/images/{image_id}")
    after = [
        client.post(GENERATE, json={"image_id": image_id, "prompt": click(CLICK)}),
        client.post(EMBED, json={"image_id": image_id}),
        client.delete(f"/api/images/{image_id}"),
    ]

    assert (forgotten.status_code, forgotten.content) == (204, b"")
    for response in after:
        assert (response.status_code, response.json()["code"]) == (410, "embedding_expired")
        assert response.json()["field"] == "image_id"
        assert "again" in response.json()["detail"]
    again = client.post(GENERATE, content=data)
    assert (again.status_code, again.headers["X-Osamd-Cache"]) == (200, "miss")


@pytest.mark.parametrize("image_id", ["img_0", "img_" + "0" * 32, "..%2f..%2fetc", "mask_1"])
def test_unknown_handle_is_gone(client: httpx2.Client, image_id: str) -> None:
    """A handle nobody was given answers 410."""
    response = client.post(GENERATE, json={"image_id": image_id})

    assert (response.status_code, response.json()["code"]) == (410, "embedding_expired")


def test_handle_belongs_to_its_model(client: httpx2.Client, photo: bytes) -> None:
    """A handle with another model's name is refused; with its own it is not."""
    image_id = client.post(EMBED, content=photo).json()["image_id"]
    other = client.post(GENERATE, json={"image_id": image_id, "model": "sam2:tiny"})
    own = client.post(GENERATE, json={"image_id": image_id, "model": "builtin"})

    assert (other.status_code, other.json()["code"], other.json()["field"]) == (422, "invalid_request", "model")
    assert "builtin:latest" in other.json()["detail"]
    assert own.status_code == 200


def test_size_is_the_upright_images(client: httpx2.Client) -> None:
    """A photo held sideways by its EXIF tag is measured upright."""
    tags = Image.Exif()
    tags[0x0112] = ROTATED
    handle = client.post(EMBED, content=encoded(disc_picture(), "JPEG", exif=tags)).json()

    assert (HEIGHT, WIDTH) == (handle["width"], handle["height"])


def test_embed_knows_no_prompt(client: httpx2.Client, photo: bytes) -> None:
    """A prompt given to embed is a mistake worth telling."""
    response = client.post(EMBED, json={"image": base64_of(photo), "prompt": click(CLICK)})

    assert (response.status_code, response.json()["code"], response.json()["field"]) == (
        422,
        "invalid_request",
        "prompt",
    )
