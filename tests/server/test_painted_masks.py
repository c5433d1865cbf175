"""Masks to refine that callers send as pictures: by every kind of body, the client and the command line."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import GENERATE, ask, click, only_mask, refusal
from commands import Osamd
from pictures import (
    HEIGHT,
    WIDTH,
    Inside,
    base64_of,
    disc_mask,
    disc_picture,
    encoded,
    inside_of,
    iou,
)
from PIL import Image
from serving import KEY, RunningServer
from shelf import Library

from osamd.client import Client

PHOTO = encoded(disc_picture())
# Besides the disc, which the model would find by itself.
PAINTED = np.zeros((HEIGHT, WIDTH), bool)
PAINTED[90:140, 150:220] = True
MASK = encoded(Image.fromarray(PAINTED))
MIDDLE = [185, 115]

Send = Callable[[httpx2.Client], httpx2.Response]


def by_json(text: str) -> Send:
    """As a string."""
    return lambda client: client.post(
        GENERATE, json={"image": base64_of(PHOTO), "prompt": click(MIDDLE) | {"mask_input": text}}
    )


def by_part(client: httpx2.Client) -> httpx2.Response:
    """As a file beside plain fields."""
    return client.post(
        GENERATE, files={"image": PHOTO, "mask_input": ("mask.png", MASK)}, data={"point": "{},{}".format(*MIDDLE)}
    )


def by_field(client: httpx2.Client) -> httpx2.Response:
    """As a plain field of a multipart body."""
    return client.post(
        GENERATE, files={"image": PHOTO}, data={"point": "{},{}".format(*MIDDLE), "mask_input": base64_of(MASK)}
    )


@pytest.mark.parametrize(
    "send",
    [by_json(base64_of(MASK)), by_json(f"data:image/png;base64,{base64_of(MASK)}"), by_part, by_field],
    ids=["json", "data URI", "part", "field"],
)
def test_answer_continues_from_the_mask(client: httpx2.Client, send: Send) -> None:
    """A click on the painted area keeps it, which a click alone does not find; all spellings give the same."""
    alone = only_mask(ask(client, PHOTO, prompt=click(MIDDLE)))
    response = send(client)

    assert response.status_code == 200, response.text
    refined = inside_of(response.json()["annotations"][0])
    assert iou(PAINTED, alone) + 0.3 < iou(PAINTED, refined)
    expected = by_json(base64_of(MASK))(client).json()["annotations"][0]
    assert np.array_equal(inside_of(expected), refined)
    # It is an answer like any other.
    assert response.json()["annotations"][0]["mask_id"]


def test_mask_of_a_reply_may_come_back_as_a_picture(client: httpx2.Client) -> None:
    """It refines about as its ``mask_id`` does, by handle too, and beside others in one request."""
    first = ask(client, PHOTO, prompt=click([70, 50]))
    found = first["annotations"][0]
    prompts = [click([90, 50]) | {"mask_input": mask} for mask in (found["mask_id"], found["mask"])]
    response = client.post(GENERATE, json={"image_id": first["image_id"], "prompts": prompts})

    assert response.status_code == 200, response.text
    by_id, by_picture = (inside_of(one) for one in response.json()["annotations"])
    assert iou(by_id, by_picture) > 0.9
    assert iou(disc_mask(), by_picture) > 0.9


@pytest.mark.parametrize(
    ("mask", "detail"),
    [
        ("not base64!", "expected a mask_id, or a mask as a PNG in base64: not base64"),
        (base64_of(b"GIF89a" + bytes(90)), "expected a mask_id, or a mask as a PNG"),
        (base64_of(encoded(Image.fromarray(PAINTED).resize((20, 10)))), "the mask has 20 x 10 pixels"),
        (base64_of(encoded(Image.fromarray(PAINTED).convert("RGB"))), "greyscale PNG"),
        (base64_of(encoded(Image.new("L", (WIDTH, HEIGHT)))), "the mask is empty"),
        (base64_of(MASK[:60]), "corrupt"),
        (base64_of(MASK + bytes(8_000_000)), "the limit is 8,000,000"),
    ],
)
def test_unusable_mask_is_refused_with_its_field(client: httpx2.Client, mask: str, detail: str) -> None:
    """422, in words that say what is expected."""
    response = by_json(mask)(client)

    assert (422, "invalid_prompt", "prompt.mask_input") == (
        response.status_code,
        *(refusal(response)[name] for name in ("code", "field")),
    )
    assert detail in response.json()["detail"]


def test_mask_in_two_places_is_refused(client: httpx2.Client) -> None:
    """Beside a request part it belongs into that part; two files are one too many."""
    beside = client.post(GENERATE, files={"image": PHOTO, "mask_input": ("m.png", MASK), "request": "{}"})
    twice = client.post(GENERATE, files=[("image", PHOTO), ("mask_input", ("a", MASK)), ("mask_input", ("b", MASK))])

    assert "request" == refusal(beside)["field"]
    assert "mask_input" == refusal(twice)["field"]


def test_models_that_take_no_masks_say_so(library: Library) -> None:
    """With what they take instead, before anything is decoded."""
    with library.server.client() as client:
        for model, takes in (("efficientsam:10m", "points, one box"), ("sam3", "up to 64 boxes")):
            prompt: dict[str, Any] = {"box": [10, 10, 90, 90], "mask_input": base64_of(MASK)}
            response = client.post(GENERATE, json={"model": model, "image": base64_of(PHOTO), "prompt": prompt})
            assert "prompt.mask_input" == refusal(response)["field"]
            assert takes in response.json()["detail"]


@pytest.mark.parametrize("model", ["sam:300m", "sam2:tiny", "yoloworld+sam2:tiny"])
def test_sam_families_take_painted_masks(library: Library, model: str) -> None:
    """Another mask gives another answer."""
    with library.server.client() as client:
        replies = [
            ask(client, PHOTO, model=model, prompt=click(MIDDLE) | ({"mask_input": mask} if mask else {}))
            for mask in (None, base64_of(MASK), base64_of(encoded(Image.fromarray(~PAINTED))))
        ]
    assert 3 == len({one["annotations"][0]["mask"] for one in replies})


@pytest.mark.parametrize("kind", ["array", "grey array", "Pillow", "bytes", "path", "file"])
def test_client_sends_masks_of_all_kinds(server: RunningServer, tmp_path: Path, kind: str) -> None:
    """What masks are in Python programs; a text is sent as it is."""
    (tmp_path / "mask.png").write_bytes(MASK)
    masks: dict[str, Any] = {
        "array": PAINTED,
        "grey array": PAINTED.astype(np.uint8) * 255,
        "Pillow": Image.fromarray(PAINTED),
        "bytes": MASK,
        "path": tmp_path / "mask.png",
        "file": io.BytesIO(MASK),
    }
    with Client(server.url, api_key=KEY) as client:
        found = client.segment(PHOTO, points=MIDDLE, mask_input=masks[kind])
        text = client.segment(PHOTO, points=MIDDLE, mask_input=base64.b64encode(MASK).decode())
    assert text.annotations[0].mask == found.annotations[0].mask


def test_command_line(osamd: Osamd, tmp_path: Path) -> None:
    """``osamd run --mask-input`` reads a file."""
    (tmp_path / "photo.png").write_bytes(PHOTO)
    (tmp_path / "mask.png").write_bytes(MASK)
    arguments = ["--image", str(tmp_path / "photo.png"), "--point", "{},{}".format(*MIDDLE)]

    done = osamd("run", *arguments, "--mask-input", str(tmp_path / "mask.png"), "-o", "-")

    assert 0 == done.returncode, done.stderr
    found: Inside = np.asarray(Image.open(io.BytesIO(done.stdout))) > 127
    assert iou(PAINTED, found) > 0.4
