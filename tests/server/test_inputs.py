"""Bodies and fields that are refused, with status, code, field and message."""

import json
from typing import Any

import httpx2
import pytest
from asking import CLICK, GENERATE, ask, click, refusal
from pictures import base64_of

NAN, INFINITE = float("nan"), float("inf")
TOO_BIG = 10**400

# Name, fields beside the image, code, field, part of the message. Python's json writes NaN and Infinity as they are.
BAD_FIELDS: list[tuple[str, dict[str, Any], str, str | None, str]] = [
    ("points a text", {"prompt": {"points": "1,2", "labels": [1]}}, "invalid_request", "prompt.points", "array"),
    ("point of one", {"prompt": {"points": [[1]], "labels": [1]}}, "invalid_request", "prompt.points[0]", "at least 2"),
    ("point of three", {"prompt": {"points": [[1, 2, 3]], "labels": [1]}}, "invalid_request", "prompt.points[0]", "2"),
    (
        "coordinate a word",
        {"prompt": {"points": [["left", 2]], "labels": [1]}},
        "invalid_request",
        "prompt.points[0][0]",
        "expected a number",
    ),
    ("coordinate a text of NaN", {"prompt": {"box": [0, 0, "nan", 1]}}, "invalid_request", "prompt.box[2]", "finite"),
    ("coordinate a long text", {"prompt": {"box": [0, 0, "1" * 65, 1]}}, "invalid_request", "prompt.box[2]", "number"),
    (
        "coordinate true",
        {"prompt": {"points": [[1, True]], "labels": [1]}},
        "invalid_request",
        "prompt.points[0][1]",
        "expected a number",
    ),
    (
        "coordinate NaN",
        {"prompt": {"points": [[5, 5], [NAN, 1]], "labels": [1, 1]}},
        "invalid_request",
        "prompt.points[1][0]",
        "finite",
    ),
    (
        "coordinate infinite",
        {"prompt": {"points": [[1, -INFINITE]], "labels": [1]}},
        "invalid_request",
        "prompt.points[0][1]",
        "finite",
    ),
    (
        "coordinate of 400 digits",
        {"prompt": {"points": [[TOO_BIG, 1]], "labels": [1]}},
        "invalid_request",
        "prompt.points[0][0]",
        "finite",
    ),
    ("coordinate 1e300", {"prompt": {"box": [0, 0, 1e300, 1]}}, "invalid_request", "prompt.box[2]", "finite"),
    ("label 4", {"prompt": {"points": [[1, 1]], "labels": [4]}}, "invalid_request", "prompt.point_labels[0]", "0 ("),
    ("label -1", {"prompt": {"points": [[1, 1]], "labels": [-1]}}, "invalid_request", "prompt.point_labels[0]", "0 ("),
    (
        "label 0.5",
        {"prompt": {"points": [[1, 1]], "labels": [0.5]}},
        "invalid_request",
        "prompt.point_labels[0]",
        "0 (",
    ),
    (
        "label NaN",
        {"prompt": {"points": [[1, 1]], "labels": [NAN]}},
        "invalid_request",
        "prompt.point_labels[0]",
        "0 (",
    ),
    (
        "label a word",
        {"prompt": {"points": [[1, 1]], "labels": ["on"]}},
        "invalid_request",
        "prompt.point_labels[0]",
        "",
    ),
    ("label null", {"prompt": {"points": [[1, 1]], "labels": [None]}}, "invalid_request", "prompt.point_labels[0]", ""),
    (
        "more points than labels",
        {"prompt": {"points": [[1, 1], [2, 2]], "labels": [1]}},
        "invalid_prompt",
        "prompt.point_labels",
        "got 2 points and 1 label",
    ),
    ("labels alone", {"prompt": {"labels": [1]}}, "invalid_prompt", "prompt.point_labels", "got 0 points and 1 label"),
    (
        "points alone",
        {"prompt": {"points": [[1, 1]]}},
        "invalid_prompt",
        "prompt.point_labels",
        "got 1 point and 0 labels",
    ),
    ("empty prompt", {"prompt": {}}, "invalid_prompt", "prompt", "empty"),
    (
        "half a box",
        {"prompt": {"points": [[1, 1]], "labels": [2]}},
        "invalid_prompt",
        "prompt.point_labels",
        "got 1 with 2 and 0 with 3",
    ),
    ("box of three", {"prompt": {"box": [1, 2, 3]}}, "invalid_request", "prompt.box", "at least 4"),
    ("box outside", {"prompt": {"box": [0, 0, 452, 10]}}, "invalid_prompt", "prompt.box", "451 x 300"),
    (
        "point right of the image",
        {"prompt": {"points": [[10, 10], [452, 10]], "labels": [1, 1]}},
        "invalid_prompt",
        "prompt.points[1]",
        "(452, 10) is outside the image, which is 451 x 300",
    ),
    ("point below the image", {"prompt": click([10, 301])}, "invalid_prompt", "prompt.points[0]", "outside"),
    ("point left of the image", {"prompt": click([-1, 10])}, "invalid_prompt", "prompt.points[0]", "outside"),
    (
        "point outside in the second prompt",
        {"prompts": [click([1, 1]), click([1, 900])]},
        "invalid_prompt",
        "prompts[1].points[0]",
        "outside",
    ),
    ("texts", {"prompt": {"texts": ["a cat"]}}, "invalid_prompt", "prompt.texts", "builtin:latest takes points"),
    (
        "two boxes",
        {"prompt": {"box": [1, 1, 9, 9], "points": [[1, 1], [9, 9]], "labels": [2, 3]}},
        "invalid_prompt",
        "prompt.boxes",
        "one box",
    ),
    ("prompt a list", {"prompt": []}, "invalid_request", "prompt", ""),
    ("misspelt prompt field", {"prompt": {"pionts": [[1, 1]]}}, "invalid_request", "prompt.pionts", "unknown field"),
    ("misspelt field", {"promt": click([1, 1])}, "invalid_request", "promt", "unknown field"),
    (
        "prompt and prompts",
        {"prompt": click([1, 1]), "prompts": [click([1, 1])]},
        "invalid_request",
        "prompts",
        "either",
    ),
    ("no prompts", {"prompts": []}, "invalid_request", "prompts", "at least 1"),
    ("65 prompts", {"prompts": [click([1, 1])] * 65}, "invalid_prompt", "prompts", "expected at most 64, got 65"),
    (
        "257 points",
        {"prompt": {"points": [[1, 1]] * 257, "labels": [1] * 257}},
        "invalid_prompt",
        "prompt.points",
        "at most 256",
    ),
    ("5000 points", {"prompt": {"points": [[1, 1]] * 5000, "labels": [1]}}, "invalid_request", "prompt.points", "4096"),
    ("multimask a text", {"multimask": "true"}, "invalid_request", "multimask", "boolean"),
    ("mask_format jpg", {"mask_format": "jpg"}, "invalid_request", "mask_format", "polygon"),
    ("mask_layout tight", {"mask_layout": "tight"}, "invalid_request", "mask_layout", "crop"),
    ("include masks", {"include": ["masks"]}, "invalid_request", "include[0]", "image_embedding"),
    ("half an embedding", {"image_embedding": {"original_height": 1}}, "invalid_request", None, "required"),
    ("model a number", {"model": 5}, "invalid_request", "model", "string"),
    ("model and model_id differ", {"model": "builtin", "model_id": "sam"}, "invalid_request", None, "differ"),
    ("image_id too", {"image_id": "img_1"}, "invalid_request", "image_id", "expected a single image"),
    ("threshold of 2", {"prompt": {**click([1, 1]), "score_threshold": 2}}, "invalid_request", None, "less than"),
    ("max_annotations 0", {"prompt": {**click([1, 1]), "max_annotations": 0}}, "invalid_request", None, "greater"),
]


@pytest.mark.parametrize(
    ("fields", "code", "field", "part"), [row[1:] for row in BAD_FIELDS], ids=[row[0] for row in BAD_FIELDS]
)
def test_bad_field_is_named(
    client: httpx2.Client, photo: bytes, fields: dict[str, Any], code: str, field: str | None, part: str
) -> None:
    """A field that cannot be is refused with 422, its path and what is wanted."""
    body = json.dumps({"image": base64_of(photo), **fields})
    problem = refusal(client.post(GENERATE, content=body, headers={"Content-Type": "application/json"}))

    assert (problem["status"], problem["code"]) == (422, code)
    assert part in problem["detail"]
    if field is not None:
        assert field == problem["field"]


@pytest.mark.parametrize("name", ["nope", "builtin:9", "x" * 5000, "../builtin"])
def test_unknown_model_is_404(client: httpx2.Client, photo: bytes, name: str) -> None:
    """An unknown model answers 404, lists the known ones and does not echo a long name."""
    problem = refusal(client.post(GENERATE, json={"image": base64_of(photo), "model": name}))

    assert (problem["status"], problem["code"], problem["field"]) == (404, "unknown_model", "model")
    assert "builtin:latest" in problem["detail"]
    assert len(problem["detail"]) < 500


JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=rim"}


@pytest.mark.parametrize(
    ("body", "headers", "part"),
    [
        (b"", {}, "the body is empty"),
        (b"", JSON, "the body is empty"),
        (b" \n", JSON, "the body is empty"),
        (b'{"image": ', JSON, "the body is not JSON"),
        (b"not json", JSON, "the body is not JSON"),
        (b"[1, 2]", JSON, "object"),
        (b"null", JSON, "object"),
        (b'"image"', JSON, "object"),
        (b'{"prompt": ' + b"[" * 50_000, JSON, "recursion"),
        (b'{"model": "\xff"}', JSON, "the body is not JSON"),
        (b'{"image": "aGk=', JSON, "unterminated string"),
        (b"\xff\xfe{", JSON, "the body is not JSON"),
        (b"rubbish", FORM, "the multipart body is broken"),
        (b"rubbish", {"Content-Type": "multipart/form-data"}, "the multipart body is broken"),
        (b"", FORM, "expected an image"),
    ],
)
def test_broken_body_is_refused(client: httpx2.Client, body: bytes, headers: dict[str, str], part: str) -> None:
    """A body that has the wrong form as a whole is refused with 422 and a reason."""
    problem = refusal(client.post(GENERATE, content=body, headers=headers))

    assert (problem["status"], problem["code"]) == (422, "invalid_request")
    assert part in problem["detail"]


@pytest.mark.parametrize(
    ("form", "field", "part"),
    [
        ({"point": "1"}, "point", "2 numbers"),
        ({"point": "nan,1"}, "prompt.points[0][0]", "finite"),
        ({"point": "a,b"}, "point", "2 numbers"),
        ({"box": "1,2,3"}, "box", "4 numbers"),
        ({"multimask": "maybe"}, "multimask", "true or false"),
        ({"prompt": "{"}, "prompt", "not JSON"),
        ({"prompt": "[" * 100_000}, "prompt", "not JSON"),
        ({"prompt": '{"points": [[1, 1]], "labels": [1]}', "point": "1,1"}, "prompt", "either"),
        ({"pionts": "1,1"}, "pionts", "unknown field"),
        ({"request": "{}", "point": "1,1"}, "request", "either"),
        ({"request": ["{}", "{}"]}, "request", "request"),
        ({"model": ["builtin", "builtin"]}, "model", "only once"),
        ({"box": ["1,1,5,5", "1,1,6,6"]}, "box", "only once"),
        ({"image": "aGk="}, "image", "given twice"),
        ({"image_id": "img_1"}, "image_id", "expected a single image"),
    ],
)
def test_broken_form_is_refused(
    client: httpx2.Client, photo: bytes, form: dict[str, Any], field: str, part: str
) -> None:
    """A multipart field that cannot be is refused with 422 and its name."""
    problem = refusal(client.post(GENERATE, files={"image": photo}, data=form))

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", field)
    assert part in problem["detail"]


def test_second_file_is_refused(client: httpx2.Client, photo: bytes) -> None:
    """Two images, or a file nobody asked for, are refused by name."""
    twice = refusal(client.post(GENERATE, files=[("image", photo), ("image", photo)]))
    stray = refusal(client.post(GENERATE, files={"image": photo, "mask": photo}))

    assert (twice["status"], twice["code"], twice["field"]) == (422, "invalid_request", "image")
    assert (stray["status"], stray["code"], stray["field"]) == (422, "invalid_request", "mask")


@pytest.mark.parametrize("query", ["point=1,1&point=%ff", "model=builtin&model=builtin", "a=1&" * 3000])
def test_broken_query_is_refused(client: httpx2.Client, photo: bytes, query: str) -> None:
    """A query string that cannot be read is refused, not half understood."""
    problem = refusal(client.post(f"{GENERATE}?{query}", content=photo))

    assert (problem["status"], problem["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("!!", "not base64"),
        ("a", "not base64"),
        ("aGk=aGk=", "not base64"),
        ("data:image/png,aGk=", "expected a data URI in base64"),
        ("data:image/png;base64", "has no comma"),
        ("", "empty"),
        ("data:image/png;base64,", "empty"),
        ("\u00e9", "not"),
    ],
)
def test_bad_base64_is_refused(client: httpx2.Client, text: str, part: str) -> None:
    """Text that is not base64, or nothing, is refused."""
    problem = refusal(client.post(GENERATE, json={"image": text}))

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", "image")
    assert part in problem["detail"]


def test_poisoned_input_fails_alone(client: httpx2.Client, photo: bytes) -> None:
    """A server that met broken input answers as before."""
    client.post(GENERATE, content=b"\xff\xd8\xff\xe0")
    client.post(GENERATE, content=b'{"prompt": ' + b"[" * 100_000)

    assert ask(client, photo, prompt=click(CLICK))["annotations"]
