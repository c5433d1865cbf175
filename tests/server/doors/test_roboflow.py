"""Roboflow's inference-sdk 1.8.3: requests as recorded from it, and masks pixel for pixel those of ``/api/generate``.

The SDK itself is driven in ``tests/tools``.
"""

import asyncio
import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import CLICK, GENERATE
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import Inside, base64_of, inside_of, inside_of_runs
from pydantic import SecretStr
from serving import KEY, RunningServer
from shelf import Library
from waiting import WAIT_S

from osamd.errors import RequestError
from osamd.segment_requests import ImageHandle, SegmentResult
from osamd.server.app import create_app
from osamd.server.asks import Ask
from osamd.server.bodies import RawBody
from osamd.server.doors.roboflow import bodies
from osamd.server.doors.roboflow.replies import write_clicks
from osamd.settings import Settings
from osamd.wire.replies import finish, no_limit

# x1, y1, x2, y2, and the same as this tool's two endpoints have it.
BOX = (60, 20, 400, 290)
CENTRED = {"x": 230, "y": 155, "width": 340, "height": 270}
CORNERED = {"x": 60, "y": 20, "width": 340, "height": 270}
SAM2, CONCEPTS = "/roboflow/sam2/segment_image", "/roboflow/sam3/concept_segment"


def recorded(photo: bytes, **fields: Any) -> dict[str, Any]:
    """A request in the order in which the SDK writes it, the key first."""
    return {"api_key": KEY, **fields, "image": {"type": "base64", "value": base64_of(photo)}}


def clicked(*prompts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What ``sam2_segment_image`` adds."""
    return {
        "sam2_version_id": "builtin",
        "multimask_output": True,
        "format": "rle",
        "prompts": {"prompts": prompts},
    } | fields


def a_click(x: float = CLICK[0], y: float = CLICK[1]) -> dict[str, Any]:
    """A prompt of one point."""
    return {"points": [{"x": x, "y": y, "positive": True}]}


def asked(server: RunningServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request without any header of ours."""
    with server.client(headers={}) as client:
        response = client.post(path, json=body)
    assert 200 == response.status_code, response.text
    reply: dict[str, Any] = response.json()
    return reply


def refused(server: RunningServer, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and message of a refusal."""
    with server.client(headers={}) as client:
        response = client.post(path, json=body)
    assert "application/json" == response.headers["content-type"]
    assert response.json()["detail"] == response.json()["message"]
    return response.status_code, response.json()["message"]


def ours(server: RunningServer, photo: bytes, model: str, **fields: Any) -> list[dict[str, Any]]:
    """The annotations of ``/api/generate``."""
    with server.client() as client:
        response = client.post(GENERATE, json={"image": base64_of(photo), "model": model, **fields})
    assert 200 == response.status_code, response.text
    found: list[dict[str, Any]] = response.json()["annotations"]
    return found


def best(server: RunningServer, photo: bytes, model: str, **prompt: Any) -> Inside:
    """The best of the candidates for one prompt."""
    return inside_of(ours(server, photo, model, prompt=prompt, multimask=True)[0])


@pytest.mark.parametrize(
    ("version", "model"), [("builtin", "builtin"), ("hiera_tiny", "sam2:tiny"), ("sam2/hiera_tiny", "sam2:tiny")]
)
def test_clicks_get_the_masks_of_generate(library: Library, photo: bytes, version: str, model: str) -> None:
    """One prediction per prompt, the best: a point, points of both kinds, a box around its centre."""
    both = {"points": [{"x": 225, "y": 150, "positive": True}, {"x": 20, "y": 20, "positive": False}]}
    body = recorded(photo, **clicked(a_click(), both, {"box": CENTRED}, sam2_version_id=version))
    reply = asked(library.server, SAM2, body)

    expected = [
        best(library.server, photo, model, points=[CLICK], point_labels=[1]),
        best(library.server, photo, model, points=[[225, 150], [20, 20]], point_labels=[1, 0]),
        best(library.server, photo, model, box=BOX),
    ]
    assert 3 == len(reply["predictions"])
    assert reply["time"] > 0
    for prediction, mask in zip(reply["predictions"], expected, strict=True):
        assert "rle" == prediction["format"]
        assert 0 <= prediction["confidence"] <= 1
        assert (inside_of_runs(prediction["masks"]) == mask).all()


def test_json_has_polygons_and_binary_has_pixels(library: Library, photo: bytes) -> None:
    """The default and the npz: the same mask as polygons of whole pixels, and as booleans beside its logits."""
    mask = best(library.server, photo, "builtin", points=[CLICK], point_labels=[1])
    reply = asked(library.server, SAM2, recorded(photo, **clicked(a_click(), format="json")))
    generated = ours(
        library.server,
        photo,
        "builtin",
        prompt={"points": [CLICK], "point_labels": [1]},
        multimask=True,
        mask_format="polygon",
    )
    with library.server.client(headers={}) as client:
        binary = client.post(SAM2, json=recorded(photo, **clicked(a_click(), {"box": CENTRED}, format="binary")))
    arrays = np.load(io.BytesIO(binary.content))

    (prediction,) = reply["predictions"]
    assert "polygon" == prediction["format"]
    assert [part["exterior"] for part in generated[0]["mask"]] == prediction["masks"]
    assert "application/octet-stream" == binary.headers["content-type"]
    assert (2, 300, 451) == arrays["masks"].shape
    assert bool == arrays["masks"].dtype
    assert (arrays["masks"][0] == mask).all()
    assert 2 == len(arrays["low_res_masks"])
    assert np.float32 == arrays["low_res_masks"].dtype


def test_words_get_the_masks_of_generate(library: Library, photo: bytes) -> None:
    """Each prompt its objects; boxes around examples begin at their corner; and the prompt is repeated."""
    prompts = [
        {"type": "text", "text": "cat"},
        {"type": "visual", "text": "cat", "boxes": [CORNERED], "box_labels": [1]},
        {"text": "cat", "boxes": [{"x0": 60, "y0": 20, "x1": 400, "y1": 290}]},
    ]
    fields = {"model_id": "sam3/sam3_final", "prompts": prompts, "output_prob_thresh": 0.2, "format": "rle"}
    reply = asked(library.server, CONCEPTS, recorded(photo, **fields))

    expected: list[dict[str, Any]] = [
        {"texts": ["cat"]},
        {"texts": ["cat"], "box": BOX},
        {"texts": ["cat"], "box": BOX},
    ]
    assert [0, 1, 2] == [result["prompt_index"] for result in reply["prompt_results"]]
    assert ["text", "visual", "visual"] == [result["echo"]["type"] for result in reply["prompt_results"]]
    for result, prompt in zip(reply["prompt_results"], expected, strict=True):
        found = ours(library.server, photo, "sam3", prompt=prompt | {"score_threshold": 0.2})
        assert found
        assert len(found) == len(result["predictions"])
        for annotation, prediction in zip(found, result["predictions"], strict=True):
            assert (inside_of_runs(prediction["masks"]) == inside_of(annotation)).all()
            assert annotation["score"] == pytest.approx(prediction["confidence"])


def test_overlapping_objects_are_suppressed_across_prompts(library: Library, photo: bytes) -> None:
    """The same word twice has each object once; without a threshold, twice."""
    fields = {"prompts": [{"text": "cat"}, {"text": "cat"}], "output_prob_thresh": 0.2}
    counts = []
    for threshold in (None, 0.9):
        reply = asked(library.server, CONCEPTS, recorded(photo, **fields, nms_iou_threshold=threshold))
        counts.append([len(result["predictions"]) for result in reply["prompt_results"]])

    assert counts[0][0] == counts[0][1] > 0
    assert sum(counts[1]) < sum(counts[0])
    assert sum(counts[1]) >= 1


def test_sam_1_has_all_candidates(library: Library, photo: bytes) -> None:
    """Polygons by mask; a padding point at the corner is none, one with -1 elsewhere is background."""
    body = recorded(photo, sam_version_id="vit_l", point_coords=[CLICK, [20, 20], [0, 0]], point_labels=[1, -1, -1])
    reply = asked(library.server, "/roboflow/sam/segment_image", body)
    prompt = {"points": [CLICK, [20, 20]], "point_labels": [1, 0]}
    expected = ours(library.server, photo, "sam:300m", prompt=prompt, multimask=True, mask_format="polygon")

    assert [[part["exterior"] for part in annotation["mask"]] for annotation in expected] == reply["masks"]


def test_an_image_may_be_embedded_first(library: Library, photo: bytes) -> None:
    """``embed_image`` makes the next click a hit; its ``image_id`` may stand for the image, for the same key only."""
    body = recorded(photo + b"embedded", sam2_version_id="builtin")
    handle = asked(library.server, "/roboflow/sam2/embed_image", body)["image_id"]
    by_handle = {"api_key": KEY, **clicked(a_click()), "image_id": handle}
    with library.server.client(headers={}) as client:
        again = client.post(SAM2, json=recorded(photo + b"embedded", **clicked(a_click())))
        short = client.post(SAM2, json=by_handle)

    assert "hit" == again.headers["x-osamd-cache"]
    assert again.json()["predictions"] == short.json()["predictions"]
    assert 410 == refused(library.server, SAM2, by_handle | {"image_id": handle[:-4] + "beef"})[0]


def test_handles_of_other_keys_are_unknown(tmp_path: Path, photo: bytes) -> None:
    """Another key that sends the id of an embedded image is told nothing but that it is not there."""
    other = "other-key-7Lw-Vb31"
    keys = tmp_path / "keys"
    keys.write_text(f"other user {other}\n")
    settings = Settings(api_key=SecretStr(KEY), api_key_file=keys, cache=tmp_path, pull="never", preload=(), threads=1)
    app = create_app(settings)

    async def main() -> None:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://osamd.example") as client:
            embedded = await client.post("/roboflow/sam2/embed_image", json=recorded(photo, sam2_version_id="builtin"))
            mine = {"api_key": KEY, **clicked(a_click()), "image_id": embedded.json()["image_id"]}
            assert 200 == (await client.post(SAM2, json=mine)).status_code
            theirs = await client.post(SAM2, json=mine | {"api_key": other})
            assert (410, "embedding_expired") == (theirs.status_code, theirs.json()["code"])
        await app.state.services.close()

    asyncio.run(main())


def test_prompts_need_not_be_tidy(library: Library, photo: bytes) -> None:
    """Negative sizes, edges outside the photo, numbers as strings, one prompt without a list, and none at all."""
    inside_out = {"x": 230, "y": 155, "width": -340, "height": -270}
    reply = asked(library.server, SAM2, recorded(photo, **clicked({"box": CENTRED}, {"box": inside_out})))
    assert reply["predictions"][0]["masks"] == reply["predictions"][1]["masks"]

    beyond = {"x": 225, "y": 150, "width": 800, "height": 700}
    whole = best(library.server, photo, "builtin", box=[0, 0, 451, 300])
    reply = asked(library.server, SAM2, recorded(photo, **clicked({"box": beyond})))
    assert (inside_of_runs(reply["predictions"][0]["masks"]) == whole).all()

    edge = best(library.server, photo, "builtin", points=[[451, 300]], point_labels=[1])
    reply = asked(library.server, SAM2, recorded(photo, **clicked(a_click(451.9, 301))))
    assert (inside_of_runs(reply["predictions"][0]["masks"]) == edge).all()

    texts = {"points": [{"x": "225", "y": "150.0", "positive": "true"}]}
    expected = asked(library.server, SAM2, recorded(photo, **clicked(a_click())))["predictions"]
    for prompts in (texts, [texts], {"prompts": texts}):
        assert expected == asked(library.server, SAM2, recorded(photo, **clicked(prompts=prompts)))["predictions"]
    nothing = clicked()
    del nothing["prompts"]
    assert 1 == len(asked(library.server, SAM2, recorded(photo, **nothing))["predictions"])


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "far outside": ({"prompts": [a_click(4000, 150)]}, 422, "outside the image, which is 451 x 300"),
    "a box elsewhere": ({"prompts": [{"box": CENTRED | {"x": 5000}}]}, 422, "outside the image"),
    "no number": ({"prompts": [a_click("left")]}, 422, "prompts[0].points[0].x: expected a number"),  # type: ignore[arg-type]
    "not finite": ({"prompts": [{"points": [{"x": 1e999, "y": 1}]}]}, 422, "expected a finite number"),
    "a huge number": ({"prompts": [{"points": [{"x": 10**400, "y": 1}]}]}, 422, "expected a finite number"),
    "half a point": ({"prompts": [{"points": [{"x": 1}]}]}, 422, "prompts[0].points[0].y: Field required"),
    "nothing in it": ({"prompts": [{}]}, 422, "prompts[0]: the prompt is empty"),
    "words": ({"prompts": "cat"}, 422, "prompts: Input should be a valid array"),
    "a list of lists": ({"prompts": [[1, 2]]}, 422, "prompts[0]"),
    "too many": ({"prompts": [a_click()] * 65}, 422, "prompts: expected at most 64, got 65"),
    "no such format": ({"format": "png"}, 422, "format: Input should be"),
    "no such model": ({"sam2_version_id": "hiera_huge"}, 404, "hiera_huge"),
    "no image": ({"image": None}, 422, "image: expected an image"),
    "a pickled image": (
        {"image": {"type": "numpy", "value": "gASV"}},
        422,
        "expected the type base64 or url, got numpy",
    ),
    "no base64": ({"image": {"type": "base64", "value": "?"}}, 422, "image.value: not base64"),
    "a number": ({"image": 7}, 422, "image"),
    "two images": ({"image": [{"type": "base64", "value": "AAAA"}] * 2}, 422, "image"),
    "an address": ({"image": {"type": "url", "value": "https://example.com/a.jpg"}}, 422, "image.value: images by URL"),
    "a handle of nobody": ({"image": None, "image_id": "img_0123"}, 410, "unknown or expired"),
    "words for a click": ({"sam2_version_id": "sam3"}, 422, "sam3:latest takes"),
}


@pytest.mark.parametrize(("fields", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_field(
    library: Library, photo: bytes, fields: dict[str, Any], status: int, message: str
) -> None:
    """As JSON with a message, which the SDK shows."""
    body = recorded(photo, **clicked(a_click())) | fields
    with library.server.client(headers={}) as client:
        response = client.post(SAM2, content=json.dumps(body).replace("Infinity", "1e999"))

    assert status == response.status_code, response.text
    assert message in response.json()["message"]


def test_concepts_are_refused_in_words(library: Library, photo: bytes) -> None:
    """Negative boxes, half a box, no prompt, a model without masks."""
    negative = {"boxes": [CORNERED], "box_labels": [0]}
    half = {"boxes": [{"x": 1, "y": 2}]}
    for prompts, message in (
        ([negative], "prompts[0].box_labels: negative boxes are not supported"),
        ([half], "prompts[0].boxes[0]: expected x, y, width and height"),
        ([], "prompts: List should have at least 1 item"),
        ([{"type": "text"}], "prompts[0]: the prompt is empty"),
        ([{"text": "x" * 1000}], "prompts[0].text: expected a text of 1 to 256 characters"),
    ):
        assert (422, message) == tuple(
            part[: len(message)] if isinstance(part, str) else part
            for part in refused(library.server, CONCEPTS, recorded(photo, prompts=prompts))
        )
    boxes_only = recorded(photo, model_id="yoloworld", prompts=[{"text": "cat"}])
    assert "no masks" in refused(library.server, CONCEPTS, boxes_only)[1]


def test_a_wrong_key_is_told_as_the_sdk_reads_it(library: Library, photo: bytes) -> None:
    """401 with a message that says where the key goes; the key may be in the query, a header or the body."""
    body = recorded(photo, **clicked(a_click()))
    status, message = refused(library.server, SAM2, body | {"api_key": "wrong-key"})
    assert (401, True) == (status, "api_key to InferenceHTTPClient" in message)
    del body["api_key"]
    with library.server.client(headers={}) as client:
        assert 200 == client.post(SAM2, json=body, params={"api_key": KEY}).status_code
        assert 200 == client.post(SAM2, json=body, headers={"Authorization": f"Bearer {KEY}"}).status_code
        assert 401 == client.post(SAM2, json=body | {"api_key": KEY}).status_code


def test_a_mask_that_is_not_there_is_an_empty_one(tmp_path: Path) -> None:
    """One prediction a prompt, whatever is found."""
    handle = ImageHandle("img_1", "builtin:latest", width=5, height=4, expires_at=datetime.now(UTC))
    result = SegmentResult(handle, (), None, cache_hit=True, device="cpu", license="")
    forms: tuple[bodies.Format, ...] = ("json", "rle", "binary")
    for form in forms:
        how = bodies.How(form, 0.0, count=2)
        content = finish(write_clicks(result, Ask(image=None, how=how), Settings(cache=tmp_path), no_limit))
        data = b"".join(content.pieces)
        if form == "binary":
            assert not np.load(io.BytesIO(data))["masks"].any()
            continue
        predictions = json.loads(data)["predictions"]
        assert 2 == len(predictions)
        assert [0.0, 0.0] == [prediction["confidence"] for prediction in predictions]
        if form == "rle":
            assert not inside_of_runs(predictions[0]["masks"]).any()
        else:
            assert [] == predictions[0]["masks"]


KEYS = st.sampled_from(["x", "y", "width", "points", "box", "prompts", "type", "value"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = set(bodies.SegmentBody.model_fields) | set(bodies.ConceptBody.model_fields) | set(bodies.SamBody.model_fields)
NAMES = st.sampled_from(sorted(FIELDS))
PARSERS = [
    lambda body, settings: bodies.clicks(body, settings, default="builtin"),
    bodies.concepts,
    bodies.sam_clicks,
    lambda body, settings: bodies.image_to_embed(body, settings, default="builtin"),
]
SETTINGS = Settings()


@settings(max_examples=50)
@given(st.sampled_from(PARSERS), st.dictionaries(NAMES, VALUES, max_size=6))
def test_whatever_fields_hold_a_refusal_is_short(parse: Any, fields: dict[str, Any]) -> None:
    """A request or a documented refusal comes out of any JSON."""
    raw = RawBody([json.dumps(fields).encode()], "application/json", "", "", None)
    message = ""
    try:
        parse(raw, SETTINGS)
    except RequestError as error:
        message = str(error)
    assert len(message) < 1000


def test_time_is_taken_across_machines(tmp_path: Path) -> None:
    """In a cluster one machine parses and another writes, and their monotonic clocks have nothing in common."""
    handle = ImageHandle("img_1", "builtin:latest", width=5, height=4, expires_at=datetime.now(UTC))
    result = SegmentResult(handle, (), None, cache_hit=True, device="cpu", license="")
    how = bodies.How("json", time.time() - 60.0)
    content = finish(write_clicks(result, Ask(image=None, how=how), Settings(cache=tmp_path), no_limit))
    assert 60.0 <= json.loads(b"".join(content.pieces))["time"] <= 60.0 + WAIT_S
