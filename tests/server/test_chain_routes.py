"""Words to masks over HTTP, on the command line, by the client and in bulk, with tiny graphs of both families."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
from asking import GENERATE, ask, click, refusal
from blob_server import serve_blobs
from commands import Osamd
from pictures import base64_of
from serving import KEY
from shelf import Library, Shelf

from osamd.batch import Segmenter
from osamd.client import Client

CHAIN = "yoloworld+sam2:tiny"
FULL = "yoloworld:latest+sam2:tiny"
WORDS = {"texts": ["cat", "dog"], "score_threshold": 0.0, "max_annotations": 3}


@pytest.fixture
def client(library: Library) -> Iterator[httpx2.Client]:
    """An HTTP client of the library's server that sends the key."""
    with library.server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a command or a process with a local detector and segmenter."""
    folder = tmp_path_factory.mktemp("chain")
    with serve_blobs() as web:
        shelf = Shelf(folder, web)
        shelf.add_local("yoloworld:latest", "yoloworld", license="GPL-3.0-only")
        shelf.add_local("sam2:tiny", "sam2", license="Apache-2.0")
        shelf.add_chain("words", detector="yoloworld", segmenter="sam2:tiny")
        yield {"OSAMD_CACHE": str(folder / "cache"), "OSAMD_CATALOG": str(shelf.write()), "OSAMD_THREADS": "1"}


def check(reply: dict[str, Any], model: str = FULL) -> None:
    """Fail unless the reply has masks with words, both scores and what refines them."""
    assert model == reply["model"]
    assert 3 == len(reply["annotations"])
    assert sorted((one["score"] for one in reply["annotations"]), reverse=True) == [
        one["score"] for one in reply["annotations"]
    ]
    for rank, one in enumerate(reply["annotations"]):
        assert one["text"] in {"cat", "dog"}
        assert 0 <= one["predicted_iou"] <= 1
        assert one["predicted_iou"] != one["score"]
        assert one["mask"]
        assert one["mask_id"].startswith("mask_")
        assert (0, rank) == (one["prompt_index"], one["mask_index"])


def test_json_and_then_clicks_on_what_was_found(client: httpx2.Client, photo: bytes) -> None:
    """Masks for words; a click with the handle and a mask's id refines it, under the chain's name or none."""
    reply = ask(client, photo, model=CHAIN, prompt=WORDS)

    check(reply)
    box = reply["annotations"][0]["bounding_box"]
    middle = [(box["xmin"] + box["xmax"]) // 2, (box["ymin"] + box["ymax"]) // 2]
    for model in ({"model": CHAIN}, {}):
        refined = client.post(
            GENERATE,
            json={
                "image_id": reply["image_id"],
                "prompt": click(middle) | {"mask_input": reply["annotations"][0]["mask_id"]},
                **model,
            },
        )
        assert refined.status_code == 200, refined.text
        assert "hit" == refined.headers["X-Osamd-Cache"]
        assert refined.json()["annotations"][0]["mask_id"]


@pytest.mark.parametrize("plus", ["+", "%2B"])
def test_query(client: httpx2.Client, photo: bytes, plus: str) -> None:
    """In a query the plus sign may be escaped or not."""
    response = client.post(
        f"{GENERATE}?model=yoloworld{plus}sam2:tiny&prompt={quote(json.dumps(WORDS))}",
        content=photo,
        headers={"Content-Type": "image/jpeg"},
    )
    assert response.status_code == 200, response.text
    check(response.json())


def test_multipart(client: httpx2.Client, photo: bytes) -> None:
    """Plain fields and a file, with the name of a row."""
    response = client.post(
        GENERATE,
        files={"image": photo},
        data={"model": "words", "prompt": json.dumps(WORDS)},
    )
    assert response.status_code == 200, response.text
    check(response.json(), "words:latest")


def test_one_picture_of_all_masks(client: httpx2.Client, photo: bytes) -> None:
    """The detector alone has no picture to answer with; the chain has."""
    picture = client.post(
        GENERATE,
        json={"model": CHAIN, "image": base64_of(photo), "prompt": WORDS},
        headers={"Accept": "image/png"},
    )
    assert (200, "image/png") == (picture.status_code, picture.headers["Content-Type"])


@pytest.mark.parametrize(
    ("model", "status", "detail"),
    [
        ("yoloworld+none", 404, "unknown model 'none'"),
        ("sam2:tiny+yoloworld", 422, "the detector of a chain must turn words into boxes, which sam2:tiny does not"),
        ("a+b+c", 422, "DETECTOR+SEGMENTER"),
    ],
)
def test_chain_of_wrong_models_is_refused(
    client: httpx2.Client, photo: bytes, model: str, status: int, detail: str
) -> None:
    """By every route that takes a model."""
    bodies: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", GENERATE, {"image": base64_of(photo)}),
        ("POST", "/api/embed", {"image": base64_of(photo)}),
        ("POST", "/api/show", {}),
        ("POST", "/api/pull", {}),
        ("DELETE", "/api/delete", {}),
    ]
    for method, path, body in bodies:
        response = client.request(method, path, json={"model": model, **body})
        problem = refusal(response)
        assert (status, "model") == (response.status_code, problem["field"]), path
        assert detail in problem["detail"]


def test_listings(client: httpx2.Client) -> None:
    """Rows of chains are listed with both parts' files; other chains are described when asked for."""
    tags = {one["name"]: one for one in client.get("/api/tags").json()["models"]}
    catalog = {one["name"]: one for one in client.get("/api/catalog").json()["models"]}
    shown = client.post("/api/show", json={"model": CHAIN}).json()

    assert {"points", "box", "texts", "mask_input", "multimask", "masks"} == set(tags["words:latest"]["capabilities"])
    assert tags["words:latest"]["size"] == tags["yoloworld:latest"]["size"] + tags["sam2:tiny"]["size"]
    assert "chain" == catalog["words:latest"]["details"]["family"]
    assert (FULL, True, True) == (shown["name"], shown["is_present"], shown["may_pull"])
    assert tags["words:latest"]["capabilities"] == shown["capabilities"]
    assert {"detector.textual", "detector.yolo", "segmenter.encoder", "segmenter.decoder"} == {
        blob["role"] for blob in shown["blobs"]
    }


def test_pull_brings_both_parts(client: httpx2.Client, library: Library) -> None:
    """One pull, whose progress has the files that were missing; afterwards the segmenter is here by its own name."""
    fresh = next(library.fresh)
    with client.stream("POST", "/api/pull", json={"model": f"yoloworld+{fresh.name}"}) as response:
        lines = [json.loads(line) for line in response.iter_lines()]

    assert {"status": "success"} == lines[-1]
    assert client.post("/api/show", json={"model": fresh.name}).json()["is_present"]
    assert client.post("/api/show", json={"model": f"yoloworld+{fresh.name}"}).json()["is_present"]
    assert fresh.name in {one["name"] for one in client.get("/api/tags").json()["models"]}


def test_delete_is_refused_with_the_names_to_delete(client: httpx2.Client) -> None:
    """A chain's files belong to its parts."""
    response = client.request("DELETE", "/api/delete", json={"model": "words"})

    assert 422 == response.status_code
    assert "delete yoloworld:latest and sam2:tiny instead" in refusal(response)["detail"]


def test_client(library: Library, photo: bytes) -> None:
    """Both scores are attributes."""
    with Client(library.server.url, api_key=KEY) as client:
        found = client.segment(photo, model=CHAIN, prompts=WORDS)

    assert FULL == found.model
    assert all(0 <= (one.predicted_iou or -1) <= 1 and one.text for one in found.annotations)


def test_command_line(osamd: Osamd, local: dict[str, str], photo: bytes, tmp_path: Path) -> None:
    """``osamd run`` writes the masks of what the words name, and ``osamd show`` both parts."""
    (tmp_path / "photo.jpg").write_bytes(photo)
    arguments = ("run", CHAIN, "--image", str(tmp_path / "photo.jpg"), "--prompt", json.dumps(WORDS))

    done = osamd(*arguments, "--json", "-o", str(tmp_path / "mask.png"), env=local)

    assert 0 == done.returncode, done.stderr
    assert all(one["predicted_iou"] for one in json.loads(done.stdout)["annotations"])
    assert (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG")
    shown = osamd("show", "words", env=local).out
    assert "yoloworld:latest, licence GPL-3.0-only" in shown
    assert "GPL-3.0-only AND Apache-2.0" in shown


def test_bulk(local: dict[str, str], photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """``osamd.batch.Segmenter`` takes a chain, also where memory holds only one part at a time."""
    for name, value in {**local, "OSAMD_MODEL_MEMORY_BYTES": "180000"}.items():
        monkeypatch.setenv(name, value)
    with Segmenter(CHAIN, threads=1) as segment:
        results = segment([photo, photo], [{"texts": ["cat"], "max_annotations": 2}] * 2)

    for result in results:
        assert result.error is None
        assert 1 <= len(result.annotations) <= 2
        assert result.masks.any(axis=(1, 2)).all()
        assert np.isfinite(result.scores).all()
        assert all(one.predicted_iou is not None for one in result.annotations)
