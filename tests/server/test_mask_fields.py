"""What is done to masks before they are written, in every kind of body, format and layout."""

import base64
import io
import json
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import GENERATE, refusal
from pictures import DISC_X, DISC_Y, disc_picture, encoded, inside_of, inside_of_runs, png_pixels
from PIL import Image

from osamd.pixels.cleaning import clean
from osamd.pixels.masks import full_array, mask_from_array
from osamd.types import Cleaning

POINT = f"{DISC_X},{DISC_Y}"
PROMPT = {"points": [[DISC_X, DISC_Y]], "point_labels": [1]}
PHOTO = encoded(disc_picture(), "JPEG", quality=20)
HOW: dict[str, float] = {"smooth": 4, "fill_holes": 50, "drop_islands": 20}


@pytest.fixture
def image_id(client: httpx2.Client) -> str:
    """The photo's handle."""
    return str(client.post("/api/embed", content=PHOTO).json()["image_id"])


def asked(client: httpx2.Client, image_id: str, **fields: Any) -> dict[str, Any]:
    """The one annotation of a JSON request."""
    reply = client.post(GENERATE, json={"image_id": image_id, "prompt": PROMPT, **fields})
    assert reply.status_code == 200, reply.text
    (annotation,) = reply.json()["annotations"]
    found: dict[str, Any] = annotation
    return found


def expected(client: httpx2.Client, image_id: str) -> Any:
    """The cleaned mask, made from the plain one."""
    inside = inside_of(asked(client, image_id))
    mask = mask_from_array(inside, offset=(0, 0), height=inside.shape[0], width=inside.shape[1])
    assert mask is not None
    return clean(mask, Cleaning(**HOW))


def test_every_kind_of_body_takes_them(client: httpx2.Client, image_id: str) -> None:
    """JSON, multipart as JSON and as plain fields, and the query."""
    texts = {name: str(value) for name, value in HOW.items()}
    answers = [
        client.post(GENERATE, json={"image_id": image_id, "prompt": PROMPT, **HOW}),
        client.post(GENERATE, data={"request": json.dumps({"prompt": PROMPT, **HOW})}, files={"image": PHOTO}),
        client.post(GENERATE, data={"point": POINT, **texts}, files={"image": PHOTO}),
        client.post(GENERATE, params={"point": POINT, **texts}, content=PHOTO),
    ]
    mask = expected(client, image_id)

    for reply in answers:
        (annotation,) = reply.json()["annotations"]
        np.testing.assert_array_equal(full_array(mask) > 0, inside_of(annotation))
        box = annotation["bounding_box"]
        assert (mask.box.xmin, mask.box.ymin, mask.box.xmax, mask.box.ymax) == tuple(
            box[side] for side in ("xmin", "ymin", "xmax", "ymax")
        )


def test_every_format_is_of_the_cleaned_mask(client: httpx2.Client, image_id: str) -> None:
    """Run lengths, the cropped PNG, and the union as an image."""
    whole = full_array(expected(client, image_id)) > 0

    runs = asked(client, image_id, mask_format="rle", **HOW)
    union = client.post(GENERATE, json={"image_id": image_id, "prompt": PROMPT, **HOW}, headers={"Accept": "image/png"})

    np.testing.assert_array_equal(whole, inside_of_runs(runs["mask"]))
    np.testing.assert_array_equal(whole, png_pixels(union.content) > 0)
    cropped = inside_of(asked(client, image_id, mask_layout="crop", **HOW))
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    np.testing.assert_array_equal(whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], cropped)


def test_defaults_change_nothing(client: httpx2.Client, image_id: str) -> None:
    """0 and null are as good as not given."""
    plain = asked(client, image_id)

    for value in (0, None):
        same = asked(client, image_id, **dict.fromkeys([*HOW, "simplify"], value))
        assert (plain["mask"], plain["bounding_box"]) == (same["mask"], same["bounding_box"])


def test_polygons_with_fewer_vertices(client: httpx2.Client, image_id: str) -> None:
    """Of the exact ones, those that matter."""
    exact = asked(client, image_id, mask_format="polygon")["mask"][0]["exterior"]

    simple = asked(client, image_id, mask_format="polygon", simplify=1.5)["mask"][0]["exterior"]

    assert 3 <= len(simple) < len(exact) / 2
    assert {tuple(vertex) for vertex in simple} <= {tuple(vertex) for vertex in exact}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"fill_holes": -1}, "fill_holes"),
        ({"drop_islands": "many"}, "drop_islands"),
        ({"drop_islands": True}, "drop_islands"),
        ({"smooth": 51}, "smooth"),
        ({"smooth": 1e400}, "smooth"),
        ({"simplify": -0.5, "mask_format": "polygon"}, "simplify"),
        ({"simplify": 1}, "simplify"),
        ({"simplify": 1, "mask_format": "rle"}, "simplify"),
    ],
)
def test_what_makes_no_sense_is_refused(
    client: httpx2.Client, image_id: str, fields: dict[str, Any], field: str
) -> None:
    """With the field and what was expected of it."""
    body = json.dumps({"image_id": image_id, "prompt": PROMPT, **fields}).replace("Infinity", "1e400")

    problem = refusal(client.post(GENERATE, content=body, headers={"Content-Type": "application/json"}))

    assert (422, field) == (problem["status"], problem["field"])


def rgba(data: bytes) -> Any:
    """The pixels of a PNG with alpha."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        assert "RGBA" == image.mode
        return np.asarray(image)


def cut_from(photo: bytes, inside: Any) -> Any:
    """The decoded photo where the mask is."""
    with Image.open(io.BytesIO(photo)) as image:
        pixels = np.asarray(image.convert("RGB"))
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]) * inside[:, :, np.newaxis]


@pytest.mark.parametrize("how", [{}, HOW])
def test_the_cut_out_object(client: httpx2.Client, image_id: str, how: dict[str, float]) -> None:
    """The photo's own colours, transparent around the mask; in JSON and as an image, whole and cropped."""
    inside = inside_of(asked(client, image_id, **how))
    whole = cut_from(PHOTO, inside)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    cropped = whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    for layout, cut in (("full", whole), ("crop", cropped)):
        fields: dict[str, Any] = {"point": POINT, "mask_format": "cutout", "mask_layout": layout, **how}
        reply = client.post(GENERATE, params=fields, content=PHOTO)
        assert 200 == reply.status_code, reply.text
        union = client.post(GENERATE, params=fields, content=PHOTO, headers={"Accept": "image/png"})
        assert "image/png" == union.headers["Content-Type"]

        np.testing.assert_array_equal(cut, rgba(base64.b64decode(reply.json()["annotations"][0]["mask"])))
        np.testing.assert_array_equal(cut, rgba(union.content))


def test_a_cut_out_of_a_large_photo_has_its_size(client: httpx2.Client) -> None:
    """The model looks at a smaller version; the cut-out does not."""
    photo = encoded(disc_picture().resize((2400, 1600)), "JPEG")
    params = {"point": f"{DISC_X * 10},{DISC_Y * 10}", "mask_format": "cutout"}

    cut = rgba(client.post(GENERATE, params=params, content=photo, headers={"Accept": "image/png"}).content)

    assert (1600, 2400, 4) == cut.shape
    assert np.abs(cut[DISC_Y * 10, DISC_X * 10].astype(int) - (236, 180, 60, 255)).max() <= 6


def test_a_cut_out_needs_the_image(client: httpx2.Client, image_id: str) -> None:
    """The server does not keep the image itself: a handle is refused, before anything is decoded."""
    for headers in ({}, {"Accept": "image/png"}):
        body = {"image_id": image_id, "prompt": PROMPT, "mask_format": "cutout"}
        problem = refusal(client.post(GENERATE, json=body, headers=headers))

        assert (422, "mask_format") == (problem["status"], problem["field"])
        assert "needs the image itself: send it" in problem["detail"]
