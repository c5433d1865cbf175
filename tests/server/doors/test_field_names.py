"""Errors name fields as the tool has sent them, in every door."""

from pathlib import Path
from typing import Any

import httpx2
from every_door import run
from pictures import base64_of, disc_picture, encoded
from serving import KEY

LONG = "x" * 1000
FAR, INSIDE = [100_000, 5], [70, 50]
IMAGE = base64_of(encoded(disc_picture()))
ELSEWHERE = "https://elsewhere.example/photo.jpg"
CONFIG = """<View><Image name="image" value="$photo"/>
<BrushLabels name="mask" toName="image"><Label value="{}"/></BrushLabels></View>"""


def x_anylabeling(*marks: Any, words: str | None = None, model: str = "builtin") -> Any:
    """A request of X-AnyLabeling's client."""
    kinds = {2: "point", 4: "rectangle"}
    params = {"marks": [{"type": kinds[len(mark)], "data": mark, "label": 1} for mark in marks], "text_prompt": words}
    return "/x-anylabeling/v1/predict", {"model": model, "image": IMAGE, "params": params}


def cvat(**fields: Any) -> Any:
    """A call of an interactor."""
    return "/api/function_invocations", {"image": IMAGE, **fields}


def roboflow(*prompts: Any, path: str = "sam2/segment_image", **fields: Any) -> Any:
    """A request of inference-sdk."""
    body = {"image": {"type": "base64", "value": IMAGE}, "sam2_version_id": "builtin", "prompts": list(prompts)}
    return f"/roboflow/{path}", body | fields


def roboflow_sam(points: list[Any], labels: list[int]) -> Any:
    """Another of its requests."""
    body = {"image": {"type": "base64", "value": IMAGE}, "sam_version_id": "builtin"}
    return "/roboflow/sam/segment_image", body | {"point_coords": points, "point_labels": labels}


def qupath(path: str = "", **fields: Any) -> Any:
    """A request of QuPath's extension."""
    return f"/qupath/{path}", {"b64img": IMAGE, "checkpoint_url": "osamd:builtin", **fields}


def label_studio(
    *drawn: Any, photo: str = f"data:image/png;base64,{IMAGE}", model: str = "builtin", label: str = "Cat"
) -> Any:
    """An interactive call of Label Studio, or one for words."""
    regions = [
        {"original_width": 240, "original_height": 160, "type": "keypointlabels", "value": {"labels": ["Cat"], **value}}
        for value in drawn
    ]
    body = {"tasks": [{"id": 1, "data": {"photo": photo}}], "label_config": CONFIG.format(label)}
    return f"/label-studio/{model}/predict", body | {"params": {"context": {"result": regions}}}


CASES: list[tuple[Any, str]] = [
    (x_anylabeling(words=LONG), "params.text_prompt"),
    (x_anylabeling(words="cat"), "params.text_prompt"),
    (x_anylabeling(INSIDE, FAR), "params.marks[1]"),
    (x_anylabeling([0, 0, 9, 9], [*FAR, *FAR], INSIDE), "params.marks[1]"),
    (x_anylabeling(INSIDE, model="nothing"), "model"),
    (cvat(pos_points=[INSIDE], neg_points=[INSIDE, FAR]), "neg_points[1]"),
    (cvat(pos_points=[INSIDE, FAR]), "pos_points[1]"),
    (cvat(pos_points=[INSIDE], obj_bbox=[FAR, FAR]), "obj_bbox"),
    (cvat(pos_points=[]), "pos_points"),
    (roboflow({"points": [{"x": 5, "y": 5}, {"x": 100_000, "y": 5}]}), "prompts[0].points[1]"),
    (roboflow({"points": []}, {"box": {"x": 9e4, "y": 9e4, "width": 5, "height": 5}}), "prompts[0]"),
    (roboflow({"box": {"x": 9e4, "y": 9e4, "width": 5, "height": 5}}), "prompts[0].box"),
    (roboflow({"text": LONG}, path="sam3/concept_segment"), "prompts[0].text"),
    (roboflow({"text": "a"}, path="sam3/concept_segment"), "prompts[0].text"),
    (
        roboflow({"boxes": [{"x": 9e4, "y": 9e4, "width": 5, "height": 5}]}, path="sam3/concept_segment"),
        "prompts[0].boxes[0]",
    ),
    (roboflow(image={"type": "url", "value": ELSEWHERE}), "image.value"),
    (roboflow(sam2_version_id="hiera_tiny"), "sam2_version_id"),
    (roboflow(sam2_version_id="nothing"), "sam2_version_id"),
    (roboflow(sam2_version_id=None, model_id="nothing"), "model_id"),
    (roboflow_sam([[0, 0], INSIDE, FAR], [-1, 1, 1]), "point_coords[2]"),
    (qupath(point_coords=[INSIDE, FAR]), "point_coords[1]"),
    (qupath(point_coords=[INSIDE, INSIDE], point_labels=[1]), "point_labels"),
    (qupath(point_coords=[FAR], bbox=[1, 1, 9, 9]), "point_coords[0]"),
    (qupath(point_coords=[INSIDE], bbox=[*FAR, *FAR]), "bbox"),
    (qupath("sam3/", text_prompt=LONG), "text_prompt"),
    (qupath("sam3/", positive_bboxes=[[1, 1, 5, 5], [9e4, 9e4, 5, 5]]), "positive_bboxes"),
    (qupath("sam3/", positive_bboxes=[[9e4, 9e4, 5, 5]]), "positive_bboxes[0]"),
    (qupath(point_coords=[INSIDE], checkpoint_url="osamd:nothing"), "checkpoint_url"),
    (qupath(point_coords=[INSIDE], checkpoint_url=None, type="sam2_t"), "type"),
    (label_studio({"x": 5, "y": 5}, {"x": 9e4, "y": 5}), "params.context.result[1]"),
    (label_studio({"x": 9e4, "y": 9e4, "width": 5, "height": 5}), "params.context.result[0]"),
    (label_studio({"x": 5, "y": 5}, photo=ELSEWHERE), "tasks[0].data.photo"),
    (label_studio({"x": 5, "y": 5}, photo="/data/upload/1/cat.jpg"), "tasks[0].data.photo"),
    (label_studio({"x": 5, "y": 5}, photo="data:image/png;base64,??"), "tasks[0].data.photo"),
    (label_studio(model="sam3", label=LONG), "label_config"),
    (label_studio({"x": 5, "y": 5}, model="nothing"), "model"),
]


def test_fields_are_the_tools_own(tmp_path: Path) -> None:
    """With the place in it that is at fault, and no name of osamd's own in the words."""
    headers = {"X-API-Key": KEY, "x-nuclio-function-name": "builtin"}

    async def main(client: httpx2.AsyncClient) -> None:
        for (path, body), field in CASES:
            reply = await client.post(path, json=body, headers=headers)
            assert 400 <= reply.status_code <= 503, reply.text
            told = reply.json()
            assert field == told["field"], (path, told)
            assert told["message"].startswith(f"{field}: ")
            for own in ("image_url", "mask_input", "point_labels", "everything"):
                assert own == field or own not in told["message"], told

    run(tmp_path, main)
