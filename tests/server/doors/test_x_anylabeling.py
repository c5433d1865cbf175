"""X-AnyLabeling 4.2: requests as recorded from its client, and shapes that cover the masks of ``/api/generate``.

The client itself is driven in ``tests/tools``.
"""

from typing import Any

import cv2
import numpy as np
import pytest
from asking import BOX, CLICK, GENERATE
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import Inside, base64_of, inside_of, iou
from serving import KEY, RunningServer
from shelf import LOCAL, Library

from osamd.errors import RequestError
from osamd.library import families
from osamd.library.library import open_library
from osamd.server.doors import x_anylabeling as door
from osamd.settings import Settings

MODELS, PREDICT = "/x-anylabeling/v1/models", "/x-anylabeling/v1/predict"
HEADERS = {"Token": KEY, "Content-Type": "application/json", "User-Agent": "python-requests/2.34.2"}
SIZE = (300, 451)
UNNAMED = "AUTOLABEL_OBJECT"


def point(x: float = CLICK[0], y: float = CLICK[1], label: int = 1) -> dict[str, Any]:
    """A click as the client writes it."""
    return {"type": "point", "data": [x, y], "label": label}


def rectangle(corners: list[int], label: int = 1) -> dict[str, Any]:
    """A rectangle as the client writes it: as it was dragged."""
    return {"type": "rectangle", "data": corners, "label": label}


def recorded(photo: bytes, model: str, *marks: dict[str, Any], **params: Any) -> dict[str, Any]:
    """The client's body; without marks it leaves them out."""
    fields: dict[str, Any] = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, **params}
    if marks:
        fields["marks"] = list(marks)
    return {"model": model, "image": f"data:image/jpeg;base64,{base64_of(photo)}", "params": fields}


def predicted(server: RunningServer, body: dict[str, Any], path: str = PREDICT) -> dict[str, Any]:
    """The ``data`` of a reply."""
    with server.client(headers=HEADERS) as client:
        response = client.post(path, json=body)
    assert 200 == response.status_code, response.text
    reply: dict[str, Any] = response.json()
    assert reply["success"] is True
    data: dict[str, Any] = reply["data"]
    return data


def refused(server: RunningServer, body: dict[str, Any]) -> tuple[int, str]:
    """Status and message of a refusal."""
    with server.client(headers=HEADERS) as client:
        response = client.post(PREDICT, json=body)
    return response.status_code, response.json()["message"]


def listed(server: RunningServer) -> dict[str, Any]:
    """The models by name, in their order."""
    with server.client(headers=HEADERS) as client:
        data: dict[str, Any] = client.get(MODELS).json()["data"]
    return data


def ours(server: RunningServer, photo: bytes, model: str, **prompt: Any) -> list[dict[str, Any]]:
    """The annotations of ``/api/generate``."""
    with server.client() as client:
        response = client.post(GENERATE, json={"image": base64_of(photo), "model": model, "prompt": prompt})
    assert 200 == response.status_code, response.text
    found: list[dict[str, Any]] = response.json()["annotations"]
    return found


def filled(shapes: list[dict[str, Any]], size: tuple[int, int] = SIZE) -> Inside:
    """What polygons cover."""
    canvas = np.zeros(size, np.uint8)
    for shape in shapes:
        cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], 1)
    return canvas > 0


@pytest.mark.parametrize(
    ("marks", "prompt"),
    [
        ([point()], {"points": [CLICK], "point_labels": [1]}),
        ([point(), point(10, 10, 0)], {"points": [CLICK, [10, 10]], "point_labels": [1, 0]}),
        ([rectangle([BOX[2], BOX[3], BOX[0], BOX[1]])], {"box": BOX}),
        ([rectangle(BOX), point(10, 10, 0)], {"box": BOX, "points": [[10, 10]], "point_labels": [0]}),
        ([rectangle([-5, -5, 456, 303])], {"box": [0, 0, 451, 300]}),
    ],
    ids=["click", "clicks", "dragged up-left", "box and click", "beyond the image"],
)
def test_marks_become_polygons_of_the_mask(
    server: RunningServer, photo: bytes, marks: list[dict[str, Any]], prompt: dict[str, Any]
) -> None:
    """They cover the mask of ``/api/generate``, are closed, and wait for a name."""
    data = predicted(server, recorded(photo, "builtin", *marks))
    (annotation,) = ours(server, photo, "builtin", **prompt)

    assert (False, "") == (data["replace"], data["description"])
    for shape in data["shapes"]:
        assert (UNNAMED, "polygon") == (shape["label"], shape["shape_type"])
        assert shape["points"][0] == shape["points"][-1]
        assert shape["score"] == pytest.approx(annotation["score"])
    assert iou(inside_of(annotation), filled(data["shapes"])) >= 0.99


def test_a_larger_epsilon_factor_gives_fewer_points(server: RunningServer, photo: bytes) -> None:
    """The client's slider for the fineness of masks."""
    counts = [
        sum(len(shape["points"]) for shape in predicted(server, recorded(photo, "builtin", point(), **fine))["shapes"])
        for fine in ({"epsilon_factor": 0.0001}, {"epsilon_factor": 0.001}, {"epsilon_factor": 0.01})
    ]
    assert counts == sorted(set(counts), reverse=True)


def test_each_rectangle_is_an_object_with_the_clicks_in_it(library: Library, photo: bytes) -> None:
    """Clicks elsewhere are another object."""
    boxes = [[20, 20, 120, 120], [250, 150, 400, 280]]
    marks = [rectangle(boxes[0]), rectangle(boxes[1]), point(300, 200, 0), point(180, 40)]
    shapes = predicted(library.server, recorded(photo, "sam2:tiny", *marks))["shapes"]
    parts: list[dict[str, Any]] = [
        {"box": boxes[0]},
        {"box": boxes[1], "points": [[300, 200]], "point_labels": [0]},
        {"points": [[180, 40]], "point_labels": [1]},
    ]
    masks = [inside_of(ours(library.server, photo, "sam2:tiny", **part)[0]) for part in parts]

    assert iou(np.logical_or.reduce(masks), filled(shapes)) >= 0.98
    assert len(shapes) >= len(parts)


def test_words_name_their_objects(library: Library, photo: bytes) -> None:
    """SAM 3: separated by commas, with the score of the client's field; its switch decides about existing shapes."""
    for given_text in ("cat, dog", "cat. dog"):
        data = predicted(library.server, recorded(photo, "sam3", text_prompt=given_text, conf_threshold=0.01))
        expected = ours(library.server, photo, "sam3", texts=["cat", "dog"], score_threshold=0.01)
        assert data["replace"] is None
        assert {"cat", "dog"} == {shape["label"] for shape in data["shapes"]}
        for text in ("cat", "dog"):
            whole = np.logical_or.reduce([inside_of(item) for item in expected if item["text"] == text])
            shapes = [shape for shape in data["shapes"] if shape["label"] == text]
            assert iou(whole, filled(shapes)) >= 0.98


def test_rectangles_are_examples_for_sam_3(library: Library, photo: bytes) -> None:
    """All of them in one prompt; what they find has no name yet."""
    boxes = [[20, 20, 120, 120], [250, 150, 400, 280]]
    data = predicted(library.server, recorded(photo, "sam3", *map(rectangle, boxes), conf_threshold=0.01))
    points = [corner for box in boxes for corner in (box[:2], box[2:])]
    expected = ours(library.server, photo, "sam3", points=points, point_labels=[2, 3, 2, 3], score_threshold=0.01)

    assert {UNNAMED} == {shape["label"] for shape in data["shapes"]}
    whole = np.logical_or.reduce([inside_of(item) for item in expected])
    assert iou(whole, filled(data["shapes"])) >= 0.98


def test_detectors_give_rectangles(library: Library, photo: bytes) -> None:
    """Four corners of the box, with the word; the client's thresholds count."""
    params = {"text_prompt": "cat,dog", "conf_threshold": 0.01, "iou_threshold": 0.9}
    shapes = predicted(library.server, recorded(photo, "yoloworld", **params))["shapes"]
    expected = ours(
        library.server,
        photo,
        "yoloworld",
        texts=["cat", "dog"],
        score_threshold=0.01,
        iou_threshold=0.9,
        max_annotations=1000,
    )

    assert len(expected) == len(shapes) > 0
    for shape, item in zip(shapes, expected, strict=True):
        x1, y1, x2, y2 = (item["bounding_box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
        assert (item["text"], "rectangle") == (shape["label"], shape["shape_type"])
        assert [[x1, y1], [x2, y1], [x2, y2], [x1, y2]] == shape["points"]


def test_no_marks_encode_the_image_ahead(library: Library, photo: bytes) -> None:
    """So that the first click on it is fast; there are no shapes."""
    other = photo + b"\0"
    assert predicted(library.server, recorded(other, "sam2:tiny"))["shapes"] == []
    with library.server.client(headers=HEADERS) as client:
        response = client.post(PREDICT, json=recorded(other, "sam2:tiny", point()))

    assert "hit" == response.headers["x-osamd-cache"]


def test_the_best_model_is_first_and_none_is_loaded(library: Library) -> None:
    """Models on this server, clicks first; then those that this key may have pulled."""
    with library.server.client() as client:
        before = client.get("/api/ps").json()["models"]
        names = list(listed(library.server))
        after = client.get("/api/ps").json()["models"]
        here = {model["name"] for model in client.get("/api/tags").json()["models"]}

    assert [item["name"] for item in before] == [item["name"] for item in after]
    assert names[0] == "sam2:tiny"
    assert set(LOCAL) < set(names)
    assert set(names) > here
    assert set(names[: len(here)]) == here


def test_models_that_cannot_be_had_are_not_listed(server: RunningServer) -> None:
    """Where pulls are forbidden, only what is on the server is offered."""
    assert list(listed(server)) == ["builtin:latest"]
    (info,) = listed(server).values()
    assert info["batch_processing_mode"] is None
    assert {"button_add_point", "button_add_rect", "mask_fineness_slider"} < {item["name"] for item in info["widgets"]}


def test_widgets_fit_the_model(library: Library) -> None:
    """Only what the client knows, and only what the model takes."""
    known = {
        *("button_send", "button_add_point", "button_add_rect", "add_pos_rect", "button_run_rect"),
        *("button_remove_point", "button_clear", "button_finish_object", "input_conf", "edit_conf", "input_iou"),
        *("edit_iou", "toggle_preserve_existing_annotations", "edit_text"),
        *("mask_fineness_slider", "mask_fineness_value_label"),
    }
    with library.server.client() as client:
        catalog = client.get("/api/catalog").json()["models"]
    texts = {model["name"] for model in catalog if "texts" in model["capabilities"]}
    for name, info in listed(library.server).items():
        widgets = {item["name"]: item["value"] for item in info["widgets"]}
        assert set(widgets) <= known
        assert ("edit_text" in widgets) == (name in texts)
        assert info["batch_processing_mode"] == ("text_prompt" if name in texts else None)


def test_a_model_alone_is_what_the_list_has(library: Library) -> None:
    """By alias too."""
    with library.server.client(headers=HEADERS) as client:
        data = client.get(f"{MODELS}/sam3/info").json()["data"]
        missing = client.get(f"{MODELS}/nobodys/info")

    assert {"model_id": "sam3:latest", **listed(library.server)["sam3:latest"]} == data
    assert (404, "unknown_model") == (missing.status_code, missing.json()["code"])


def test_a_slash_at_the_end_of_the_users_url_does_no_harm(server: RunningServer, photo: bytes) -> None:
    """The client then asks ``//v1``."""
    body = recorded(photo, "builtin", point())
    assert predicted(server, body, "/x-anylabeling//v1/predict")["shapes"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"marks": [rectangle(BOX, 0)]}, 422, "params.marks[0].label: rectangles that exclude are not supported"),
        ({"marks": [{"type": "auto_grid"}]}, 422, "params.marks[0].data"),
        ({"marks": [{"type": "circle", "data": [1, 2]}]}, 422, "params.marks[0].type: expected point or rectangle"),
        ({"marks": [{"type": "point", "data": [1, 2, 3]}]}, 422, "params.marks[0].data: expected 2 numbers"),
        ({"marks": [{"type": "point", "data": [1, None]}]}, 422, "params.marks[0].data[1]: expected a number"),
        ({"marks": [point(1e300, 2)]}, 422, "params.marks[0].data[0]: expected a finite number"),
        ({"marks": [point(4000, 2)]}, 422, "outside the image"),
        ({"epsilon_factor": -1}, 422, "params.epsilon_factor"),
        ({"text_prompt": "cat"}, 422, "builtin:latest takes"),
        ({"text_prompt": ["cat"]}, 422, "params.text_prompt"),
        ({"marks": [rectangle([n, n, n + 2, n + 2]) for n in range(65)]}, 422, "expected at most 64, got 65"),
    ],
)
def test_refusals_name_the_field(
    server: RunningServer, photo: bytes, body: dict[str, Any], status: int, message: str
) -> None:
    """In a body that tools read."""
    got = refused(server, recorded(photo, "builtin") | {"params": body})
    assert got[0] == status
    assert message in got[1]


def test_other_models_and_images_are_refused(server: RunningServer, photo: bytes) -> None:
    """An unknown model, weights that are not there, and what is no image."""
    assert 404 == refused(server, recorded(photo, "nobodys", point()))[0]
    status, message = refused(server, recorded(photo, "sam2:tiny", point()))
    assert (503, True) == (status, "sam2:tiny is not on this server" in message)
    assert 422 == refused(server, recorded(b"no image", "builtin", point()))[0]
    assert 422 == refused(server, {"model": "builtin", "params": {}})[0]


def test_detector_and_segmenter_are_offered_together() -> None:
    """The best of each, so that words give masks; not where the operator already has such a row."""
    opened = open_library(Settings())
    names = ["sam3", "sam2:tiny", "sam:latest", "yoloworld"]
    ranked = [opened.resolve(name) for name in names]
    (chain,) = door._chain(opened, ranked)

    assert "yoloworld:latest+sam2:tiny" == chain.name
    assert [] == door._chain(opened, ranked[:3])
    assert [] == door._chain(opened, [*ranked, chain])
    assert {"button_add_point", "edit_text", "edit_iou", "mask_fineness_slider"} < {
        item["name"] for item in door._widgets(chain.capabilities)
    }


def test_every_family_has_a_place_in_the_list() -> None:
    """A new family must be ranked."""
    assert set(families.FAMILIES) == set(door.FAMILIES)


number = st.integers(-100, 500)
NUMBERS = st.lists(number | st.none() | st.text(max_size=2) | st.floats(), max_size=5)
MARKS = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["point", "rectangle", "", 1]), "data": NUMBERS | number, "label": number}
)


@settings(max_examples=40)
@given(st.lists(MARKS, max_size=6), st.sampled_from(["builtin", "sam3", "yoloworld"]), st.text(max_size=9))
def test_any_marks_are_prompts_or_refused(marks: list[dict[str, Any]], model: str, text: str) -> None:
    """Never another error than a refusal."""
    body = recorded(b"photo", model, *marks, text_prompt=text)
    try:
        fields = door.PredictBody.model_validate(body)
    except ValueError:
        return
    try:
        can = families.capabilities_of(model)
        prompts = list(door._prompts(fields.params, fields.params.texts(), can, Settings()))
    except RequestError:
        return
    for prompt in prompts:
        assert len(prompt.points) + len(prompt.boxes) + len(prompt.texts) > 0
