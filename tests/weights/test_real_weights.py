import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import osam.apis
import osam.types
import pytest
from asking import BOX, CLICK, ask
from peer import BoolArray, osam_box, osam_mask, osam_model, overlap
from pictures import inside_of
from serving import RunningServer

from osamd.library.catalog import load_catalog
from osamd.library.store import Store
from osamd.pixels.images import decode_image

pytestmark = pytest.mark.weights
PULL_S = 7200
ASK_S = 900
HEIGHT, WIDTH = 300, 451
# EfficientSAM reads the box first here, and SAM has no padding point beside a box: see the list of deviations.
PROMPTS: dict[str, Mapping[str, Any]] = {
    "click": {"points": [CLICK], "point_labels": [1]},
    "clicks": {"points": [CLICK, [430, 20]], "point_labels": [1, 0]},
    "box": {"points": [BOX[:2], BOX[2:]], "point_labels": [2, 3]},
}
SEGMENTERS = [
    "efficientsam:10m",
    "efficientsam:latest",
    "sam:100m",
    "sam:300m",
    "sam:latest",
    "sam2:tiny",
    "sam2:small",
    "sam2:latest",
    "sam2:large",
]
# The least overlap with osam's mask on this photo, where nothing is meant to differ, and where the list of deviations
# says that something does: another choice of mask, another resizing filter, another input. Those are guesses until
# somebody has run this; a lower number is worth an issue, with what this test prints.
SAME, SIMILAR = 0.98, 0.85
TEXTS = ["cat", "plant"]


def pulled(server: RunningServer, model: str) -> None:
    """Have the server pull a model, and show how long that took."""
    start = time.monotonic()
    with (
        server.client(timeout=PULL_S) as client,
        client.stream("POST", "/api/pull", json={"model": model}) as response,
    ):
        assert response.status_code == 200, response.read()
        last = [json.loads(line) for line in response.iter_lines()][-1]
    assert {"status": "success"} == last
    print(f"\n{model}: here after {time.monotonic() - start:.0f} s")


def paths_of(cache: Path, model: str) -> dict[str, Path]:
    """The files of a model that is here."""
    return Store(cache).paths(load_catalog().resolve(model))


def theirs(cache: Path, model: str) -> Any:
    """The model in osam, over the very same files."""
    return osam_model(osam.apis.get_model_type_by_name(model), paths_of(cache, model))


def photo_pixels(photo: bytes) -> Any:
    """The photo as osam wants it."""
    return decode_image(photo, max_pixels=10**7).pixels


def ours(server: RunningServer, photo: bytes, model: str, prompt: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The reply to a request that may take long."""
    with server.client(timeout=ASK_S) as client:
        return ask(client, photo, model=model, prompt=dict(prompt), **more)


@pytest.mark.parametrize("model", [*SEGMENTERS, "sam3:latest", "yoloworld:latest"])
def test_graphs_have_the_inputs_and_outputs_we_know(real_server: RunningServer, cache: Path, model: str) -> None:
    """Every file loads; what its graph takes and gives is printed, to be held against what the adapters assume."""
    pulled(real_server, model)
    for role, path in paths_of(cache, model).items():
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        print(f"{model} {role}, {path.stat().st_size:,} bytes")
        for kind, nodes in (("takes", session.get_inputs()), ("gives", session.get_outputs())):
            for node in nodes:
                print(f"  {kind} {node.name} {node.type} {node.shape}")
    with real_server.client(timeout=ASK_S) as client:
        shown = client.post("/api/show", json={"model": model}).json()
    assert shown["is_present"]
    assert shown["license"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", SEGMENTERS)
def test_masks(real_server: RunningServer, cache: Path, photo: bytes, model: str, prompt: str) -> None:
    """The mask on a photo is osam's, or like it where a deviation is listed."""
    pulled(real_server, model)
    asked = PROMPTS[prompt]
    reply = ours(real_server, photo, model, asked, multimask=True)
    scores = [annotation["score"] for annotation in reply["annotations"]]
    assert sorted(scores, reverse=True) == scores
    actual = [inside_of(annotation) for annotation in reply["annotations"]]
    request = osam.types.GenerateRequest(
        model=model,
        image=photo_pixels(photo),
        prompt=osam.types.Prompt(
            points=np.array(asked["points"], np.float64), point_labels=np.array(asked["point_labels"])
        ),
    )
    (annotation,) = theirs(cache, model).generate(request).annotations
    expected = osam_mask(annotation, HEIGHT, WIDTH)
    overlaps = [overlap(expected, mask) for mask in actual]
    print(f"\n{model}, {prompt}: scores {scores}, overlaps with osam {overlaps}, covers {expected.mean():.3f}")
    if model.startswith("efficientsam"):
        # osam takes the first mask, we the best scored one.
        assert max(overlaps) >= SAME
    elif model.startswith("sam:"):
        # has_mask_input is -1 in osam; beside a box it has a padding point too.
        assert overlaps[0] >= SIMILAR
    else:
        assert overlaps[0] >= SAME


@pytest.mark.parametrize("model", SEGMENTERS)
def test_a_click_on_the_cat_finds_the_cat(real_server: RunningServer, photo: bytes, model: str) -> None:
    """Whatever osam says: the best mask of a box around the head covers most of it, and nothing beyond."""
    pulled(real_server, model)
    reply = ours(real_server, photo, model, {"box": BOX})
    mask = inside_of(reply["annotations"][0])
    x1, y1, x2, y2 = BOX
    inside = mask[y1:y2, x1:x2]
    print(f"\n{model}: {inside.mean():.3f} of the box, {mask.sum() - inside.sum()} pixels beyond")
    assert inside.mean() > 0.4
    assert mask.sum() - inside.sum() < 0.1 * mask.sum()


@pytest.mark.parametrize(
    "prompt", [{"texts": ["cat"]}, {"points": [BOX[:2], BOX[2:]], "point_labels": [2, 3]}], ids=str
)
def test_objects_of_sam3(real_server: RunningServer, cache: Path, photo: bytes, prompt: dict[str, Any]) -> None:
    """A word, or a box, finds what osam finds."""
    pulled(real_server, "sam3")
    found = ours(real_server, photo, "sam3", prompt)["annotations"]
    asked = osam.types.Prompt(
        points=np.array(prompt["points"], np.float64) if "points" in prompt else None,
        point_labels=np.array(prompt["point_labels"]) if "points" in prompt else None,
        texts=prompt.get("texts"),
    )
    request = osam.types.GenerateRequest(model="sam3:latest", image=photo_pixels(photo), prompt=asked)
    expected = theirs(cache, "sam3:latest").generate(request).annotations
    print(f"\nosam: {[item.score for item in expected]}, ours: {[item['score'] for item in found]}")
    assert found
    best: BoolArray = osam_mask(max(expected, key=lambda item: item.score or 0), HEIGHT, WIDTH)
    assert overlap(best, inside_of(found[0])) >= SIMILAR


def test_every_text_and_several_boxes_of_sam3(real_server: RunningServer, photo: bytes) -> None:
    """The exported graph takes several texts, and either several boxes or says that it takes one."""
    pulled(real_server, "sam3")
    found = ours(real_server, photo, "sam3", {"texts": TEXTS, "score_threshold": 0.01})["annotations"]
    print(f"\n{[(item['text'], item['score']) for item in found]}")
    assert "cat" == found[0]["text"]
    corners = [[60, 20], [230, 290], [230, 20], [400, 290]]
    with real_server.client(timeout=ASK_S) as client:
        body = {"model": "sam3", "image_id": ours(real_server, photo, "sam3", {"texts": ["cat"]})["image_id"]}
        response = client.post(
            "/api/generate", json=body | {"prompt": {"points": corners, "point_labels": [2, 3, 2, 3]}}
        )
    print(f"two boxes: {response.status_code} {response.text[:200]}")
    assert response.status_code == 200 or "one box" in response.json()["detail"]


def test_boxes_of_yoloworld(real_server: RunningServer, cache: Path, photo: bytes) -> None:
    """A word finds the cat where osam finds it, with the same score."""
    pulled(real_server, "yoloworld")
    found = ours(real_server, photo, "yoloworld", {"texts": TEXTS})["annotations"]
    request = osam.types.GenerateRequest(
        model="yoloworld:latest", image=photo_pixels(photo), prompt=osam.types.Prompt(texts=TEXTS)
    )
    expected = theirs(cache, "yoloworld:latest").generate(request).annotations
    print(f"\nosam: {[(item.text, item.score) for item in expected]}")
    print(f"ours: {[(item['text'], item['score']) for item in found]}")
    best = max(expected, key=lambda item: item.score or 0)
    assert "cat" == found[0]["text"] == best.text
    # Another resizing filter is one of the listed deviations.
    assert found[0]["score"] == pytest.approx(best.score, abs=0.05)
    corners = [found[0]["bounding_box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
    assert corners == pytest.approx(osam_box(best), abs=5)
