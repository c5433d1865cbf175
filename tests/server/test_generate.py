"""``POST /api/generate`` over a real socket: every spelling of a request."""

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import osam.types
import pytest
from asking import BOX, CLICK, GENERATE, ask, click, only_mask
from pictures import base64_of, disc_box, disc_picture, encoded, inside_of, iou

SAM_VIT_B_ENCODER = "3346b9cc551c9902fbf3b203935e933592b22e042365f58321c17fc12641fd6a"

Ask = Callable[[httpx2.Client, bytes], httpx2.Response]


def as_osam(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """Osam's own body, as its types write it, nulls and all."""
    prompt = osam.types.Prompt(points=np.array([CLICK], float), point_labels=np.array([1]))
    body = {
        "model": "builtin:latest",
        "image_embedding": None,
        "image": base64_of(photo),
        "prompt": prompt.model_dump(),
        "annotations": None,
    }
    assert body["prompt"]["texts"] is None
    return client.post(GENERATE, json=body)


def as_the_seed_document(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """model_id, image_base64 and prompt.labels."""
    body = {"model_id": "builtin", "image_base64": base64_of(photo), "prompt": {"points": [CLICK], "labels": [1]}}
    return client.post(GENERATE, json=body)


def as_both_spellings(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """Each field in both spellings, agreeing."""
    prompt = click(CLICK) | {"labels": [1]}
    names = {"model": "builtin", "model_id": "builtin"}
    images = {"image": base64_of(photo), "image_base64": base64_of(photo)}
    return client.post(GENERATE, json=names | images | {"prompt": prompt})


def as_data_uri(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A data URI, as browsers make it."""
    return client.post(GENERATE, json={"image": f"data:image/jpeg;base64,{base64_of(photo)}", "prompt": click(CLICK)})


def as_wrapped_base64(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """Base64 in lines of 76 characters, as mail and ``base64`` write it."""
    body = {"image": base64.encodebytes(photo).decode(), "prompt": click(CLICK)}
    return client.post(GENERATE, json=body)


def as_image_id(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A handle of an earlier answer."""
    handle = ask(client, photo, mask_format="none")["image_id"]
    return client.post(GENERATE, json={"image_id": handle, "prompt": click(CLICK)})


def as_prompts(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A list of one prompt."""
    return client.post(GENERATE, json={"image": base64_of(photo), "prompts": [click(CLICK)]})


def as_floats(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """Labels and coordinates as JSON floats, as JavaScript and NumPy clients may write them."""
    prompt = {"points": [[225.0, 150.0]], "point_labels": [1.0]}
    return client.post(GENERATE, json={"image": base64_of(photo), "prompt": prompt})


def json_of(photo: bytes) -> bytes:
    """The plain JSON body."""
    return json.dumps({"image": base64_of(photo), "prompt": click(CLICK)}).encode()


def as_json_without_content_type(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """JSON with no content type at all."""
    return client.post(GENERATE, content=json_of(photo))


def as_json_with_curls_content_type(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """JSON by ``curl -d``, which claims to be a form."""
    return client.post(GENERATE, content=json_of(photo), headers={"Content-Type": "application/x-www-form-urlencoded"})


def as_json_with_charset(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """JSON with a charset behind the media type."""
    return client.post(GENERATE, content=json_of(photo), headers={"Content-Type": "Application/JSON; charset=utf-8"})


def as_multipart_request_part(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A file and a JSON part with its own content type."""
    request = json.dumps({"model": "builtin", "prompt": click(CLICK)}).encode()
    files = {"image": ("cat.jpg", photo, "image/jpeg"), "request": ("request.json", request, "application/json")}
    return client.post(GENERATE, files=files)


def as_multipart_request_field(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A file and the JSON as a plain field, as ``curl -F`` sends it."""
    request = json.dumps({"prompt": click(CLICK)})
    return client.post(GENERATE, files={"image": ("cat.jpg", photo)}, data={"request": request})


def as_multipart_fields(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A file and plain fields."""
    return client.post(GENERATE, files={"image": ("cat.jpg", photo)}, data={"point": "225,150", "model_id": "builtin"})


def as_multipart_prompt_field(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A file and the prompt as a JSON field."""
    return client.post(GENERATE, files={"image": ("cat.jpg", photo)}, data={"prompt": json.dumps(click(CLICK))})


def as_multipart_base64_field(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """The image itself as a plain base64 field, without any file."""
    fields = {"image": (None, base64_of(photo)), "point": (None, "225,150")}
    return client.post(GENERATE, files=fields)


def as_bare_body(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """The photo as the body, the prompt in the query."""
    query = {"point": "225,150", "model": "builtin"}
    return client.post(GENERATE, params=query, content=photo, headers={"Content-Type": "image/jpeg"})


def as_bare_body_with_curls_content_type(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """The photo by ``curl --data-binary``, which claims to be a form."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return client.post(GENERATE, params={"point": "225,150"}, content=photo, headers=headers)


def as_bare_body_without_content_type(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """The photo with no content type at all."""
    return client.post(GENERATE, params={"point": "225,150"}, content=photo)


def as_query_with_image_id(client: httpx2.Client, photo: bytes) -> httpx2.Response:
    """A handle in the query and no body."""
    handle = ask(client, photo, mask_format="none")["image_id"]
    return client.post(GENERATE, params={"point": "225,150", "image_id": handle})


SPELLINGS: list[Ask] = [
    as_osam,
    as_the_seed_document,
    as_both_spellings,
    as_data_uri,
    as_wrapped_base64,
    as_image_id,
    as_prompts,
    as_floats,
    as_json_without_content_type,
    as_json_with_curls_content_type,
    as_json_with_charset,
    as_multipart_request_part,
    as_multipart_request_field,
    as_multipart_fields,
    as_multipart_prompt_field,
    as_multipart_base64_field,
    as_bare_body,
    as_bare_body_with_curls_content_type,
    as_bare_body_without_content_type,
    as_query_with_image_id,
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.__name__)
def test_every_spelling_gives_the_same_mask(
    client: httpx2.Client, photo: bytes, clicked: dict[str, Any], spelling: Ask
) -> None:
    """All ways to say the same thing are understood the same."""
    response = spelling(client, photo)

    assert response.status_code == 200, response.text
    reply = response.json()
    assert reply["model"] == "builtin:latest"
    assert reply["annotations"][0]["bounding_box"] == clicked["annotations"][0]["bounding_box"]
    assert np.array_equal(only_mask(clicked), only_mask(reply))


def test_background_point_in_every_spelling(client: httpx2.Client, photo: bytes) -> None:
    """A background point means the same in JSON, as a form field and in the query, and changes the mask."""
    prompt = {"points": [CLICK, [100, 250]], "point_labels": [1, 0]}
    as_json = only_mask(ask(client, photo, prompt=prompt))
    fields = {"point": "225,150", "background": "100,250"}
    as_form = only_mask(client.post(GENERATE, files={"image": photo}, data=fields).json())
    as_query = only_mask(client.post(GENERATE, params=fields, content=photo).json())

    assert np.array_equal(as_json, as_form)
    assert np.array_equal(as_json, as_query)
    assert not np.array_equal(as_json, only_mask(ask(client, photo, prompt=click(CLICK))))


def test_several_points_in_query(client: httpx2.Client, photo: bytes) -> None:
    """``point`` may be repeated."""
    prompt = {"points": [CLICK, [315, 130]], "point_labels": [1, 1]}
    as_query = client.post(GENERATE, params={"point": ["225,150", "315,130"]}, content=photo)

    assert np.array_equal(only_mask(ask(client, photo, prompt=prompt)), only_mask(as_query.json()))


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": [BOX[:2], BOX[2:]], "point_labels": [2, 3]},
        {"points": [BOX[2:], BOX[:2]], "labels": [3, 2]},
    ],
    ids=["in order", "bottom right first"],
)
def test_labels_2_and_3_are_a_box(client: httpx2.Client, photo: bytes, prompt: dict[str, Any]) -> None:
    """Osam's labelled corners, ``prompt.box`` and ``?box=`` are one prompt."""
    as_box = only_mask(ask(client, photo, prompt={"box": BOX}))
    as_query = client.post(GENERATE, params={"box": ",".join(map(str, BOX))}, content=photo).json()

    assert np.array_equal(as_box, only_mask(ask(client, photo, prompt=prompt)))
    assert np.array_equal(as_box, only_mask(as_query))
    assert not np.array_equal(as_box, only_mask(ask(client, photo, prompt=click(CLICK))))


def test_no_prompt_is_a_click_in_the_middle(client: httpx2.Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """Without a prompt, or with a null one, the model's default is used."""
    assert CLICK == [451 // 2, 300 // 2]
    assert np.array_equal(only_mask(clicked), only_mask(ask(client, photo)))
    assert np.array_equal(only_mask(clicked), only_mask(ask(client, photo, prompt=None)))


def test_prompts_carry_their_index(client: httpx2.Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """Several prompts on one image are answered in their order, each as if alone."""
    reply = ask(client, photo, prompts=[click(CLICK), {"box": [300, 100, 330, 150]}, click([60, 250])])

    indices = [item["prompt_index"] for item in reply["annotations"]]
    assert indices == sorted(indices)
    assert set(indices) == {0, 1, 2}
    first = next(item for item in reply["annotations"] if item["prompt_index"] == 0)
    assert np.array_equal(only_mask(clicked), inside_of(first))
    last = next(item for item in reply["annotations"] if item["prompt_index"] == 2)
    assert np.array_equal(only_mask(ask(client, photo, prompt=click([60, 250]))), inside_of(last))


def test_multimask_gives_one_to_three(client: httpx2.Client, photo: bytes) -> None:
    """``multimask`` gives up to three candidates a prompt, numbered from the best, wherever it is said."""
    reply = ask(client, photo, prompt=click(CLICK), multimask=True)
    as_query = client.post(GENERATE, params={"point": "225,150", "multimask": "true"}, content=photo).json()

    count = len(reply["annotations"])
    assert 1 <= count <= 3
    assert [item["mask_index"] for item in reply["annotations"]] == list(range(count))
    assert count == len(as_query["annotations"])


def test_mask_input_refines_an_earlier_mask(client: httpx2.Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """A ``mask_id`` given back pulls the answer towards that mask."""
    elsewhere = click([315, 130])
    earlier = clicked["annotations"][0]["mask_id"]
    alone = only_mask(ask(client, photo, prompt=elsewhere))
    refined = only_mask(ask(client, photo, prompt={**elsewhere, "mask_input": earlier}))

    assert iou(only_mask(clicked), alone) < iou(only_mask(clicked), refined)
    as_query = {"point": "315,130", "mask_input": earlier}
    assert np.array_equal(refined, only_mask(client.post(GENERATE, params=as_query, content=photo).json()))


def test_mask_input_must_fit(client: httpx2.Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """An unknown ``mask_id`` is gone, and one of another image is refused."""
    unknown = client.post(
        GENERATE, json={"image": base64_of(photo), "prompt": {**click(CLICK), "mask_input": "mask_0"}}
    )
    other = {"box": list(disc_box()), "mask_input": clicked["annotations"][0]["mask_id"]}
    foreign = client.post(GENERATE, json={"image": base64_of(encoded(disc_picture())), "prompt": other})

    assert (unknown.status_code, unknown.json()["code"]) == (410, "embedding_expired")
    assert unknown.json()["field"] == "prompt.mask_input"
    assert (foreign.status_code, foreign.json()["code"]) == (422, "invalid_prompt")
    assert foreign.json()["field"] == "prompt.mask_input"


@pytest.mark.parametrize("name", ["sam_vit_b", "sam:100m"])
def test_missing_model_is_named_by_its_blob(client: httpx2.Client, photo: bytes, name: str) -> None:
    """A model whose files are not here answers 503 and says which blob is missing, and no path."""
    response = client.post(GENERATE, json={"model_id": name, "image": base64_of(photo), "prompt": click(CLICK)})

    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert int(response.headers["Retry-After"]) > 0
    problem = response.json()
    assert problem["code"] == "model_unavailable"
    assert f"sha256-{SAM_VIT_B_ENCODER}" in problem["detail"]
    assert "sam:100m" in problem["detail"]
    assert "/" not in problem["detail"]


@pytest.mark.parametrize(
    ("alias", "name"), [("sam_vit_l", "sam:300m"), ("sam_vit_h", "sam:latest"), ("sam", "sam:latest")]
)
def test_aliases_name_their_models(client: httpx2.Client, photo: bytes, alias: str, name: str) -> None:
    """The seed document's names mean osam's models, and no tag means ``latest``."""
    response = client.post(GENERATE, json={"model_id": alias, "image": base64_of(photo)})

    assert response.status_code == 503
    assert name in response.json()["detail"]
