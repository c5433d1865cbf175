"""CVAT's door, with the requests that its server sends to nuclio's dashboard, header by header."""

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import CLICK, ask, only_mask
from pictures import DISC_X, DISC_Y, Inside, base64_of, disc_picture, encoded, inside_of, iou
from serving import KEY, RunningServer
from shelf import Library

from osamd.library.catalog import load_catalog
from osamd.segment_requests import ImageHandle, SegmentResult
from osamd.server.asks import Ask
from osamd.server.doors.cvat.functions import functions
from osamd.server.doors.cvat.replies import write_mask, write_objects
from osamd.settings import Settings
from osamd.wire.replies import finish, no_limit

WIDTH, HEIGHT = 451, 300
BASIC = {"Authorization": "Basic " + base64.b64encode(f"osamd:{KEY}".encode()).decode()}


def invoke(client: httpx2.Client, function: str, **body: Any) -> httpx2.Response:
    """Call a function as CVAT does, with the key from a netrc."""
    headers = {
        **BASIC,
        "x-nuclio-project-name": "cvat",
        "x-nuclio-function-name": function,
        "x-nuclio-invoke-via": "domain-name",
        "X-Nuclio-Invoke-Timeout": "120s",
        "x-nuclio-path": "/",
    }
    return client.post("/api/function_invocations", headers=headers, json=body)


def interact(client: httpx2.Client, photo: bytes, **prompt: Any) -> dict[str, Any]:
    """The reply of the built-in interactor."""
    empty: dict[str, Any] = {"pos_points": [], "neg_points": [], "obj_bbox": []}
    reply = invoke(client, "builtin", image=base64_of(photo), **(empty | prompt))
    assert 200 == reply.status_code, reply.text
    found: dict[str, Any] = reply.json()
    return found


def whole_mask(reply: dict[str, Any], width: int = WIDTH, height: int = HEIGHT) -> Inside:
    """The mask at image size, put where CVAT's page puts it."""
    inside = np.array(reply["mask"])
    assert set(np.unique(inside)) <= {0, 1}
    left, top, right, bottom = reply["bounds"]
    assert (bottom - top + 1, right - left + 1) == inside.shape
    full = np.zeros((height, width), np.bool_)
    full[top : bottom + 1, left : right + 1] = inside == 1
    return full


@pytest.fixture
def anonymous(server: RunningServer) -> Iterator[httpx2.Client]:
    """A client without the key, which requests bring themselves."""
    with server.client(headers={}) as opened:
        yield opened


def test_the_list_has_the_models_on_this_server(anonymous: httpx2.Client) -> None:
    """As strings where CVAT expects them; one function alone is the same."""
    listed = anonymous.get("/api/functions", headers=BASIC).json()
    assert ["builtin"] == list(listed)
    metadata = listed["builtin"]["metadata"]
    assert "builtin" == metadata["name"]
    annotations = metadata["annotations"]
    assert "interactor" == annotations["type"]
    assert ("0", "0", "true") == tuple(
        annotations[name] for name in ("min_pos_points", "min_neg_points", "startswith_box_optional")
    )
    assert "startswith_box" not in annotations
    assert {"state": "ready", "httpPort": 0} == listed["builtin"]["status"]
    assert listed["builtin"] == anonymous.get("/api/functions/builtin", headers=BASIC).json()
    assert 404 == anonymous.get("/api/functions/nothing", headers=BASIC).status_code


@pytest.mark.parametrize(
    ("prompt", "own"),
    [
        ({"pos_points": [CLICK]}, {"points": [CLICK], "point_labels": [1]}),
        (
            {"pos_points": [CLICK], "neg_points": [[10.4, 10.2]], "obj_bbox": [[455.5, 299], [20, -3]]},
            {"points": [CLICK, [10.4, 10.2]], "point_labels": [1, 0], "box": [20, 0, 451, 299]},
        ),
        ({"obj_bbox": [[60, 20], [400, 290]]}, {"box": [60, 20, 400, 290]}),
    ],
)
def test_clicks_and_boxes(
    anonymous: httpx2.Client, client: httpx2.Client, photo: bytes, prompt: dict[str, Any], own: dict[str, Any]
) -> None:
    """The mask is that of ``/api/generate``, pixel for pixel; the outline is its largest part, roughly."""
    reply = interact(anonymous, photo, **prompt)
    expected = only_mask(ask(client, photo, prompt=own))
    assert (whole_mask(reply) == expected).all()
    points = np.array(reply["points"])
    assert len(points) >= 3
    left, top, right, bottom = reply["bounds"]
    assert ((points >= [left, top]) & (points <= [right, bottom])).all()


def test_nothing_found_is_an_empty_mask() -> None:
    """Which CVAT's page reports in its own words."""
    handle = ImageHandle("id", "builtin:latest", 8, 8, datetime.now(UTC))
    nothing = SegmentResult(handle, (), None, cache_hit=False, device="cpu", license="")
    ask_nothing: Ask[None] = Ask(image=None, how=None)
    content = finish(write_mask(nothing, ask_nothing, Settings(), no_limit, is_compressed=True))
    assert {"mask": [], "bounds": [0, 0, 0, 0], "points": []} == json.loads(gzip.decompress(b"".join(content.pieces)))
    content = finish(write_objects(nothing, ask_nothing, Settings(), no_limit, is_compressed=False))
    assert b"[]" == b"".join(content.pieces)


def test_a_large_mask_is_small_on_the_wire(anonymous: httpx2.Client) -> None:
    """A mask of 12 megapixels, within its box, takes less than a megabyte, and does not without compression."""
    width, height = 4000, 3000
    photo = encoded(disc_picture().resize((width, height)), "JPEG", quality=80)
    x, y = DISC_X * width / 240, DISC_Y * height / 160
    body = {"image": base64_of(photo), "pos_points": [[x, y]], "neg_points": [], "obj_bbox": []}
    reply = invoke(anonymous, "builtin", **body)
    plain = anonymous.post(
        "/api/function_invocations",
        headers={**BASIC, "x-nuclio-function-name": "builtin", "Accept-Encoding": "identity"},
        json=body,
    )
    assert "gzip" == reply.headers["Content-Encoding"]
    assert reply.num_bytes_downloaded < 1_000_000
    assert "Content-Encoding" not in plain.headers
    assert plain.json() == reply.json()
    assert len(plain.content) > 10 * reply.num_bytes_downloaded
    disc = np.asarray(disc_picture().resize((width, height)))[:, :, 0] > 128
    assert iou(whole_mask(reply.json(), width, height), disc) > 0.9


def test_words_are_a_detector(library: Library, photo: bytes) -> None:
    """Each model that takes words offers the configured ones; its objects are those of ``/api/generate``."""
    with library.server.client() as client:
        listed = client.get("/api/functions").json()
        spec = {name: json.loads(one["metadata"]["annotations"]["spec"] or "[]") for name, one in listed.items()}
        assert [{"id": 0, "name": "cat", "type": "mask"}, {"id": 1, "name": "dog", "type": "mask"}] == spec["sam3"]
        assert "rectangle" == spec["yoloworld"][0]["type"]
        assert [] == spec["sam2-tiny"]

        found = invoke(client, "sam3", image=base64_of(photo), threshold=0.2).json()
        prompt = {"texts": ["cat", "dog"], "score_threshold": 0.2}
        expected = ask(client, photo, model="sam3", prompt=prompt, mask_layout="crop")["annotations"]
        assert [item["text"] for item in expected] == [item["label"] for item in found]
        for item, own in zip(found, expected, strict=True):
            *pixels, left, top, right, bottom = item["mask"]
            box = own["bounding_box"]
            assert [box["xmin"], box["ymin"], box["xmax"], box["ymax"]] == [left, top, right, bottom]
            assert (inside_of(own).ravel() == (np.array(pixels) == 1)).all()
            assert len(item["points"]) >= 6
            assert f"{own['score']:.4f}" == item["confidence"]

        boxes = invoke(client, "yoloworld", image=base64_of(photo), threshold=0.01).json()
        assert {"rectangle"} == {item["type"] for item in boxes}
        assert all(4 == len(item["points"]) for item in boxes)


@pytest.mark.parametrize(
    ("function", "body", "status", "word"),
    [
        ("", {}, 422, "x-nuclio-function-name"),
        ("nothing", {}, 404, "nothing"),
        ("builtin", {"image": "AAAA"}, 422, "prompt is empty"),
        ("builtin", {"pos_points": [[1, 1]]}, 422, "image"),
        ("builtin", {"image": "AAAA", "pos_points": [[1, 1]]}, 422, "image"),
        ("builtin", {"image": "AAAA", "pos_points": "x"}, 422, "pos_points"),
        ("builtin", {"image": "AAAA", "obj_bbox": [[1, 1]]}, 422, "two corners"),
        ("builtin", {"image": "AAAA", "pos_points": [[1e99, 1]]}, 422, "finite"),
    ],
)
def test_what_is_wrong_is_refused_in_words(
    anonymous: httpx2.Client, function: str, body: dict[str, Any], status: int, word: str
) -> None:
    """CVAT shows only the status, but its log has the words."""
    reply = invoke(anonymous, function, **body)
    assert status == reply.status_code
    assert word in json.dumps(reply.json())


def test_ids_are_what_cvat_takes() -> None:
    """Of letters, digits, dots, dashes and underscores, and not the one that CVAT's page answers itself."""
    found = functions(load_catalog(), Settings(cvat_texts=("cat",)))
    assert {"sam2", "sam2-tiny", "sam3", "builtin"} <= set(found)
    assert not [name for name in found if set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789._-")]
    assert "sam3" not in functions(load_catalog(), Settings())
