"""Everything mode over HTTP: JSON, PNG and JSON lines."""

import io
import json
import time
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import CLICK, GENERATE, ask, click, refusal
from pictures import base64_of, inside_of_runs
from PIL import Image
from serving import RunningServer
from waiting import WAIT_S

# A small grid, and thresholds that nearly every mask passes.
SMALL = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}
LINES = {"Accept": "application/x-ndjson"}


def lines_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """All lines of a stream."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture(scope="module")
def reply(server: RunningServer, photo: bytes) -> dict[str, Any]:
    """A reply with run lengths."""
    with server.client() as client:
        return ask(client, photo, prompt={"everything": SMALL}, mask_format="rle")


def test_finds_several_objects_best_first(reply: dict[str, Any]) -> None:
    """Each with score, stability, area and the click that found it, which is in its box."""
    found = reply["annotations"]
    assert len(found) >= 3
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)
    for item in found:
        inside = inside_of_runs(item["mask"])
        assert inside.shape == (reply["height"], reply["width"])
        assert item["area"] == inside.sum()
        (x, y), box = item["point"], item["bounding_box"]
        assert box["xmin"] - 1 <= x <= box["xmax"] + 1
        assert box["ymin"] - 1 <= y <= box["ymax"] + 1
        assert 0.3 <= item["stability_score"] <= 1
    assert len({item["number"] for item in found}) == len(found)
    report = reply["everything"]
    assert report["stopped"] == "all_points"
    assert report["masks"] == len(found)
    assert report["points_tried"] + report["points_skipped"] == report["points_total"] == 16


def test_a_mask_can_be_refined(client: httpx2.Client, reply: dict[str, Any]) -> None:
    """Its ``mask_id`` is a mask like any other."""
    first = reply["annotations"][0]
    prompt = {"mask_input": first["mask_id"], "points": [first["point"]], "point_labels": [1]}
    body = {"image_id": reply["image_id"], "prompt": prompt, "mask_format": "none"}
    assert len(client.post(GENERATE, json=body).json()["annotations"]) == 1


def test_stream_agrees_with_the_reply(client: httpx2.Client, reply: dict[str, Any]) -> None:
    """The lines, less what was dropped, are the annotations of the JSON reply, in the order they were found."""
    body = {"image_id": reply["image_id"], "prompt": {"everything": SMALL}, "mask_format": "rle"}
    lines = lines_of(client.post(GENERATE, json=body, headers=LINES))
    assert [lines[0]["event"], lines[-1]["event"]] == ["image", "done"]
    kept: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line["event"] == "annotation":
            kept[line["annotation"]["number"]] = line["annotation"]
        if line["event"] == "dropped":
            for number in line["numbers"]:
                del kept[number]
    whole = {item["number"]: item | {"mask_id": None} for item in reply["annotations"]}
    assert {number: item | {"mask_id": None} for number, item in kept.items()} == whole
    assert list(kept) == sorted(kept)
    assert {key: value for key, value in lines[-1].items() if key != "event"} == reply["everything"]
    assert lines[0]["image_id"] == reply["image_id"]
    assert any(line["event"] == "progress" for line in lines)


def test_png_is_a_map_of_labels(client: httpx2.Client, reply: dict[str, Any]) -> None:
    """Each pixel has the rank of the smallest mask there, counted from 1, and a colour."""
    body = {"image_id": reply["image_id"], "prompt": {"everything": SMALL}}
    response = client.post(GENERATE, json=body, headers={"Accept": "image/png"})
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.mode, picture.size) == ("P", (reply["width"], reply["height"]))
    labels = np.asarray(picture)
    expected = np.zeros_like(labels)
    ranks = {rank: inside_of_runs(item["mask"]) for rank, item in enumerate(reply["annotations"], 1)}
    for rank, inside in sorted(ranks.items(), key=lambda item: -item[1].sum()):
        expected[inside] = rank
    assert (labels == expected).all()
    assert len(set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3)))) == len(np.unique(labels))


def test_plain_fields(client: httpx2.Client, photo: bytes) -> None:
    """Beside a bare image, ``everything`` is true or parameters in JSON."""
    found = client.post(
        GENERATE, params={"everything": '{"max_masks": 1}', "mask_format": "none"}, content=photo
    ).json()
    assert (found["everything"]["stopped"], found["everything"]["points_total"]) == ("max_masks", 144)
    problem = refusal(client.post(f"{GENERATE}?everything=yes", content=photo))
    assert (problem["status"], problem["field"]) == (422, "everything")


@pytest.mark.parametrize(
    ("everything", "stopped"), [({"max_masks": 2}, "max_masks"), ({"max_seconds": 1e-6}, "max_seconds")]
)
@pytest.mark.parametrize("headers", [{}, LINES])
def test_limits(
    client: httpx2.Client, reply: dict[str, Any], everything: dict[str, Any], stopped: str, headers: dict[str, str]
) -> None:
    """Ended by a limit, it answers with what it has, and says which."""
    body = {"image_id": reply["image_id"], "prompt": {"everything": SMALL | everything}, "mask_format": "none"}
    response = client.post(GENERATE, json=body, headers=headers)
    report = lines_of(response)[-1] if headers else response.json()["everything"]
    assert report["stopped"] == stopped
    assert report["masks"] == everything.get("max_masks", 0)


def test_false_is_no_prompt(client: httpx2.Client, reply: dict[str, Any]) -> None:
    """Beside a click it changes nothing, and alone it is an empty prompt."""
    body = {"image_id": reply["image_id"], "prompt": {**click(CLICK), "everything": False}, "mask_format": "none"}
    assert "everything" not in client.post(GENERATE, json=body, headers=LINES).json()
    problem = refusal(client.post(GENERATE, json=body | {"prompt": {"everything": False}}))
    assert "the prompt is empty" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": {"everything": {"points_per_side": 0}}}, "prompt.everything.points_per_side"),
        ({"prompt": {"everything": {"points_per_side": 65}}}, "prompt.everything.points_per_side"),
        ({"prompt": {"everything": {"pred_iou_thresh": 1.1}}}, "prompt.everything.pred_iou_thresh"),
        ({"prompt": {"everything": {"max_masks": 1001}}}, "prompt.everything.max_masks"),
        ({"prompt": {"everything": {"max_seconds": 1e9}}}, "prompt.everything.max_seconds"),
        ({"prompt": {"everything": {"points_per_batch": 64}}}, "prompt.everything.points_per_batch"),
        ({"prompt": {"everything": "true"}}, "prompt.everything"),
        ({"prompt": {"everything": []}}, "prompt.everything"),
        ({"prompt": {"everything": True, **click(CLICK)}}, "prompt.points"),
        ({"prompt": {"everything": True, "texts": ["cat"]}}, "prompt.texts"),
        ({"prompts": [{"everything": True}]}, "prompts[0].everything"),
        ({"prompt": {"everything": True}, "multimask": True}, "multimask"),
        ({"prompt": {"everything": True}, "mask_format": "cutout"}, "mask_format"),
    ],
    ids=str,
)
@pytest.mark.parametrize("headers", [{}, LINES])
def test_refusals(
    client: httpx2.Client, reply: dict[str, Any], body: dict[str, Any], field: str, headers: dict[str, str]
) -> None:
    """Before any work, and never as lines; the message names the field."""
    problem = refusal(client.post(GENERATE, json={"image_id": reply["image_id"], **body}, headers=headers))
    assert (problem["status"], problem["field"]) == (422, field)


def test_a_png_has_few_labels(client: httpx2.Client, reply: dict[str, Any]) -> None:
    """More masks than 8-bit pixels can tell apart are refused."""
    body = {"image_id": reply["image_id"], "prompt": {"everything": {"max_masks": 256}}}
    problem = refusal(client.post(GENERATE, json=body, headers={"Accept": "image/png"}))
    assert (problem["status"], problem["field"]) == (422, "prompt.everything.max_masks")


@pytest.mark.parametrize("model", ["sam3", "yoloworld"])
def test_models_without_points_are_refused_unloaded(client: httpx2.Client, photo: bytes, model: str) -> None:
    """Before they are pulled or loaded."""
    body = {"image": base64_of(photo), "model": model, "prompt": {"everything": True}}
    problem = refusal(client.post(GENERATE, json=body))
    assert (problem["status"], problem["field"]) == (422, "prompt.everything")
    assert "takes points" in problem["detail"]


@pytest.mark.parametrize("value", ["5", "[]", '"true"'])
def test_a_wrong_type_is_told_alike_in_every_body(client: httpx2.Client, photo: bytes, value: str) -> None:
    """What may be there, without the names of classes in this program."""
    plain = client.post(GENERATE, params={"everything": value}, content=photo, headers={"Content-Type": "image/png"})
    json_body = client.post(GENERATE, json={"image": base64_of(photo), "prompt": {"everything": json.loads(value)}})
    form = client.post(GENERATE, data={"everything": value}, files={"image": photo})
    told = {refusal(reply)["detail"] for reply in (plain, json_body, form)}
    assert {"prompt.everything: expected true, false or an object"} == told


def test_leaving_a_stream_is_no_error_of_the_server(server: RunningServer, photo: bytes) -> None:
    """A client that has seen enough is told as one that has left, in one line."""
    data = photo + b"left half-way"
    many = {"points_per_side": 32, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    body = {"image": base64_of(data), "prompt": {"everything": many}, "mask_format": "rle"}
    before = server.log_text()
    with server.client() as client, client.stream("POST", GENERATE, json=body, headers=LINES) as stream:
        next(stream.iter_lines())
    until = time.monotonic() + WAIT_S
    while "code=client_gone" not in (since := server.log_text().removeprefix(before)):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert "Traceback" not in since
