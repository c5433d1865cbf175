"""``POST /api/generate`` over a real socket: every shape of a reply, and its headers."""

import base64
import io
import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import httpx2
import numpy as np
import osam.types
import pytest
from asking import BOX, CLICK, GENERATE, ask, click, only_mask, refusal
from pictures import (
    DARK,
    DISC_X,
    DISC_Y,
    HEIGHT,
    WIDTH,
    Inside,
    base64_of,
    disc_box,
    disc_mask,
    disc_picture,
    encoded,
    inside_of,
    inside_of_runs,
    iou,
    png_pixels,
)
from PIL import Image
from serving import KEY, RunningServer, run_server
from shelf import Library

BESIDE = [20, 20]
STAGES = ["receive", "parse", "queue", "decode_image", "encode", "decode", "mask", "reply"]
IMAGE_STAGES = {"decode_image", "encode"}

counter = itertools.count()


def never_seen(photo: bytes) -> bytes:
    """The same picture in bytes the server has not met: decoders ignore what follows a JPEG's end."""
    return photo + f"never seen {next(counter)}".encode()


def test_reply_finds_the_object_where_it_is(client: httpx2.Client) -> None:
    """The mask lies on the object, at the image's own size."""
    picture = encoded(disc_picture())
    reply = ask(client, picture, prompt=click([DISC_X, DISC_Y]))

    assert (reply["width"], reply["height"]) == (WIDTH, HEIGHT)
    assert only_mask(reply).shape == (HEIGHT, WIDTH)
    assert iou(disc_mask(), only_mask(reply)) > 0.9


def test_bounding_box_is_inclusive(clicked: dict[str, Any]) -> None:
    """The box has the first and the last pixel of the mask, as osam counts."""
    rows, columns = np.nonzero(only_mask(clicked))
    expected = {
        "xmin": int(columns.min()),
        "ymin": int(rows.min()),
        "xmax": int(columns.max()),
        "ymax": int(rows.max()),
    }

    assert expected == clicked["annotations"][0]["bounding_box"]


def filled(annotation: dict[str, Any], height: int, width: int) -> Inside:
    """An annotation's polygons as a mask: exteriors with their rims, less the insides of holes."""
    inside = np.zeros((height, width), np.uint8)
    for part in annotation["mask"]:
        piece = np.zeros_like(inside)
        cv2.fillPoly(piece, [np.array(part["exterior"], np.int32)], 1)
        for hole in part["holes"]:
            ring = np.array(hole, np.int32)
            gap = np.zeros_like(inside)
            cv2.fillPoly(gap, [ring], 1)
            cv2.polylines(gap, [ring], isClosed=True, color=0)
            piece[gap > 0] = 0
        inside |= piece
    return inside > 0


@pytest.mark.parametrize("prompt", [click(CLICK), {"box": BOX}, {"points": [CLICK, [100, 250]], "labels": [1, 0]}])
def test_layouts_and_formats_agree(client: httpx2.Client, photo: bytes, prompt: dict[str, Any]) -> None:
    """Full or cropped, PNG, run lengths or polygons: the same pixels."""
    full = ask(client, photo, prompt=prompt, mask_layout="full")
    expected = only_mask(full)
    height, width = expected.shape
    box = full["annotations"][0]["bounding_box"]
    window = expected[box["ymin"] : box["ymax"] + 1, box["xmin"] : box["xmax"] + 1]

    def one(**options: str) -> dict[str, Any]:
        (annotation,) = ask(client, photo, prompt=prompt, **options)["annotations"]
        assert box == annotation["bounding_box"]
        return dict(annotation)

    runs, cropped_runs = one(mask_format="rle")["mask"], one(mask_format="rle", mask_layout="crop")["mask"]
    assert (height, width) == (300, 451)
    assert np.array_equal(window, inside_of(one(mask_layout="crop")))
    assert [height, width] == runs["size"]
    assert np.array_equal(expected, inside_of_runs(runs))
    assert list(window.shape) == cropped_runs["size"]
    assert np.array_equal(window, inside_of_runs(cropped_runs))
    assert np.array_equal(expected, filled(one(mask_format="polygon"), height, width))
    assert one(mask_format="none")["mask"] is None


def test_polygons_have_holes(client: httpx2.Client) -> None:
    """A ring's inside is a hole, not a second object."""
    picture = disc_picture()
    picture.paste(DARK, (DISC_X - 14, DISC_Y - 14, DISC_X + 15, DISC_Y + 15))
    prompt = {"box": disc_box(), "points": [[DISC_X, DISC_Y]], "labels": [0]}
    data = encoded(picture)
    expected = only_mask(ask(client, data, prompt=prompt))
    (annotation,) = ask(client, data, prompt=prompt, mask_format="polygon")["annotations"]

    assert not expected[DISC_Y, DISC_X]
    assert any(part["holes"] for part in annotation["mask"])
    assert np.array_equal(expected, filled(annotation, HEIGHT, WIDTH))


def test_png_is_the_mask(client: httpx2.Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """``Accept: image/png`` answers the mask itself."""
    response = client.post(GENERATE, params={"point": "225,150"}, content=photo, headers={"Accept": "image/png"})

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Vary"] == "Accept"
    assert np.array_equal(only_mask(clicked), png_pixels(response.content) == 255)


def test_png_is_the_union_of_several(client: httpx2.Client, photo: bytes) -> None:
    """Several masks become one picture."""
    body = {"image": base64_of(photo), "prompts": [click([315, 130]), click([100, 250])]}
    reply = client.post(GENERATE, json=body).json()
    masks = [inside_of(item) for item in reply["annotations"]]
    response = client.post(GENERATE, json=body, headers={"Accept": "image/png"})

    assert len(masks) == 2
    assert np.array_equal(masks[0] | masks[1], png_pixels(response.content) == 255)
    assert not np.array_equal(masks[0], masks[1])


def test_png_is_black_where_nothing_is_found(client: httpx2.Client, photo: bytes) -> None:
    """A prompt that finds nothing gives no annotation, and a black picture of the image's size."""
    background = {"image": base64_of(photo), "prompt": {"points": [BESIDE], "labels": [0]}}
    reply = client.post(GENERATE, json=background)
    picture = client.post(GENERATE, json=background, headers={"Accept": "image/png"})

    assert (reply.status_code, reply.json()["annotations"]) == (200, [])
    assert picture.status_code == 200
    pixels = png_pixels(picture.content)
    assert pixels.shape == (300, 451)
    assert not pixels.any()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("image/*, */*;q=0.8", "image/png"),
        ("image/avif,image/webp,image/apng,image/*,*/*;q=0.8", "image/png"),
        ("image/*;q=0.5, application/json", "application/json"),
        ("application/json, image/*", "application/json"),
        ("image/png, */*", "image/png"),
        ("*/*, image/png;q=0", "application/json"),
        ("image/*, image/png;q=0", "application/json"),
        ("application/*;q=0.2, */*", "image/png"),
        ("image/webp", "application/json"),
        ("image/png;q=nonsense", "application/json"),
        (",;,", "application/json"),
        ("application/json, image/png", "application/json"),
        ("image/png;q=0.9, application/json;q=0.1", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/png;q=0", "application/json"),
        ("image/png;q=0.1, application/json", "application/json"),
        ("application/json;q=0.2, image/png;q=0.9", "image/png"),
    ],
)
def test_accept_chooses_the_kind(client: httpx2.Client, photo: bytes, accept: str, kind: str) -> None:
    """PNG for those who prefer it, by its own name or as any image."""
    response = client.post(GENERATE, content=photo, headers={"Accept": accept})

    assert kind == response.headers["Content-Type"]


def test_a_model_without_masks_gives_no_picture(library: Library, photo: bytes) -> None:
    """Not a black one, which would look like "nothing found"."""
    query = {"model": "yoloworld", "text": "cat"}
    with library.server.client() as client:
        problem = refusal(client.post(GENERATE, params=query, content=photo, headers={"Accept": "image/png"}))
        boxes = client.post(GENERATE, params=query, content=photo, headers={"Accept": "application/json"})

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", "model")
    assert "request JSON" in problem["detail"]
    assert boxes.status_code == 200, boxes.text


def test_reply_has_no_embedding_by_itself(client: httpx2.Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """``image_embedding`` is there and null, unless it is asked for."""
    assert clicked["image_embedding"] is None
    embedding = ask(client, photo, include=["image_embedding"], mask_format="none")["image_embedding"]
    assert (embedding["original_height"], embedding["original_width"]) == (300, 451)
    first = np.array(embedding["embedding"], np.float32)
    assert first.ndim == 3
    assert first.any()
    for feature in embedding["extra_features"]:
        data = np.frombuffer(base64.b64decode(feature["data"]), feature["dtype"])
        assert int(np.prod(feature["shape"])) == data.size
        assert np.isfinite(data).all()


def test_score_is_a_confidence_or_absent(clicked: dict[str, Any]) -> None:
    """A score is null or within 0 to 1."""
    (annotation,) = clicked["annotations"]
    assert annotation["score"] is None or 0 <= annotation["score"] <= 1
    assert annotation["text"] is None


@pytest.fixture(scope="module")
def osam_like(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose operator set the defaults of osam >= 0.4."""
    env = {"API_KEY": KEY, "OSAMD_INCLUDE": "image_embedding", "OSAMD_MASK_LAYOUT": "crop"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env) as running:
        yield running


def test_reply_is_what_osam_clients_read(osam_like: RunningServer, photo: bytes) -> None:
    """With crops and embeddings by default, osam 0.8.1's own types represent the reply."""
    with osam_like.client() as client:
        reply = ask(client, photo, model="builtin", prompt=click(CLICK))
        full = ask(client, photo, model="builtin", prompt=click(CLICK), mask_layout="full")

    (annotation,) = reply["annotations"]
    with Image.open(io.BytesIO(base64.b64decode(annotation["mask"]))) as picture:
        mask = np.asarray(picture).astype(bool)
    fields = {name: annotation[name] for name in ("bounding_box", "text", "score")}
    # osam checks here that the mask is boolean and covers the box to the pixel.
    represented = osam.types.Annotation(**fields, mask=mask)
    embedding = osam.types.ImageEmbedding(**reply["image_embedding"])
    response = osam.types.GenerateResponse(model=reply["model"], image_embedding=embedding, annotations=[represented])
    assert response.annotations[0].mask is not None
    assert only_mask(full).sum() == response.annotations[0].mask.sum()
    assert (embedding.original_height, embedding.original_width) == (300, 451)
    assert embedding.embedding.dtype == np.float32


def test_request_wins_over_server_defaults(osam_like: RunningServer, photo: bytes) -> None:
    """What a request says about layout and embedding beats the operator's defaults."""
    with osam_like.client() as client:
        reply = ask(client, photo, prompt=click(CLICK), mask_layout="full", include=[])

    assert only_mask(reply).shape == (300, 451)
    assert reply["image_embedding"] is None


def durations_of(response: httpx2.Response) -> dict[str, float]:
    """Milliseconds by name in ``Server-Timing``."""
    parts = [part.strip().partition(";dur=") for part in response.headers["Server-Timing"].split(",")]
    return {name: float(duration) for name, _, duration in parts}


def stages_of(response: httpx2.Response) -> list[str]:
    """The stages in ``Server-Timing``, each with a duration."""
    durations = durations_of(response)
    assert all(duration >= 0 for duration in durations.values())
    *stages, total = durations
    assert "total" == total
    return stages


@pytest.mark.parametrize("by_handle", [False, True])
def test_the_stages_sum_to_the_servers_own_time(client: httpx2.Client, photo: bytes, *, by_handle: bool) -> None:
    """What no stage tells is at most 5 % or 3 ms, for the usual request: the one in the middle of nine."""
    data = never_seen(photo)
    image_id = ask(client, data)["image_id"]
    untold = []
    for _ in range(9):
        if by_handle:
            response = client.post(GENERATE, json={"image_id": image_id, "prompt": click(CLICK)})
        else:
            response = client.post(GENERATE, params={"point": "225,150"}, content=data)
        durations = durations_of(response)
        total = durations.pop("total")
        untold.append(abs(total - sum(durations.values())) - max(3.0, 0.05 * total))

    assert sorted(untold)[4] <= 0


def test_headers_tell_what_was_done(client: httpx2.Client, photo: bytes) -> None:
    """The first request encodes, the second finds the embedding; both say so, with times, device and licence."""
    data = never_seen(photo)
    first = client.post(GENERATE, params={"point": "225,150"}, content=data)
    second = client.post(GENERATE, params={"point": "225,150"}, content=data)

    assert (first.headers["X-Osamd-Cache"], second.headers["X-Osamd-Cache"]) == ("miss", "hit")
    assert stages_of(first) == STAGES
    assert stages_of(second) == [stage for stage in STAGES if stage not in IMAGE_STAGES]
    assert first.headers["X-Osamd-Device"] == "cpu"
    assert first.headers["X-Osamd-License"] == "Apache-2.0"
    assert first.json()["image_id"] == second.json()["image_id"]


def test_image_id_is_a_hit(client: httpx2.Client, photo: bytes) -> None:
    """A click by handle never encodes."""
    image_id = ask(client, never_seen(photo))["image_id"]
    response = client.post(GENERATE, json={"image_id": image_id, "prompt": click(CLICK)})

    assert response.headers["X-Osamd-Cache"] == "hit"
    assert "encode" not in stages_of(response)


def test_request_id_is_taken_over(server: RunningServer, client: httpx2.Client) -> None:
    """A caller's own id comes back, and names the request in the log and in errors."""
    response = client.post(GENERATE, json={}, headers={"X-Request-Id": "my-own.id_7"})

    assert response.headers["X-Request-Id"] == "my-own.id_7"
    assert response.json()["request_id"] == "my-own.id_7"
    assert server.log_line("my-own.id_7")


@pytest.mark.parametrize("given", ["two words", "x" * 129, "quote\"'<", ""])
def test_harmful_request_id_is_replaced(client: httpx2.Client, given: str) -> None:
    """An id that does not belong in a log line is replaced by one of ours."""
    response = client.get("/health", headers={"X-Request-Id": given})

    assert given != response.headers["X-Request-Id"]
    assert len(response.headers["X-Request-Id"]) == 32


def test_greeting_is_osams(client: httpx2.Client) -> None:
    """``GET /`` says what osam's clients look for, as text."""
    response = client.get("/")

    assert (response.status_code, response.text) == (200, "osam is running")
    assert response.headers["Content-Type"].startswith("text/plain")
