"""CVAT's own command line with ``osamd.integrations.cvat`` and a real osamd; only CVAT's server is a stand-in."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import CLICK, ask, only_mask
from cvat_sdk.masks import decode_mask
from cvat_stub import FUNCTION, TASK, CvatStub, serve_cvat
from pictures import DISC_X, DISC_Y, Inside, disc_picture, inside_of, iou
from pictures import HEIGHT as PICTURE_HEIGHT
from pictures import WIDTH as PICTURE_WIDTH
from serving import KEY, RunningServer, clean_environment
from shelf import Library
from waiting import WAIT_S

from osamd.client import Client
from osamd.integrations.cvat import Clicks

WIDTH, HEIGHT = 451, 300
BOX = [[400, 299], [-20, 10]]
BOX_INSIDE = [0, 10, 400, 299]


@pytest.fixture
def cvat(photo: bytes) -> Iterator[CvatStub]:
    """A CVAT with the example photo."""
    with serve_cvat(CvatStub(photo, WIDTH, HEIGHT)) as stub:
        yield stub


def cvat_cli(stub: CvatStub, server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with osamd's module; the key is in the environment."""
    command = [sys.executable, "-m", "cvat_cli", "--server-host", stub.url, *arguments]
    env = {"CVAT_ACCESS_TOKEN": "token", "OSAMD_URL": server.url, "OSAMD_API_KEY": KEY}
    return subprocess.run(
        [*command, "--function-module", "osamd.integrations.cvat"],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def interact(name: str, **prompt: Any) -> dict[str, Any]:
    """A request for an agent, as CVAT has it."""
    whole = {"type": "interact", "task": TASK, "frame": 0, "pos_points": [], "neg_points": [], "obj_bbox": []}
    return {"ar_id": name, "ar_params": whole | prompt}


def decoded(shape: dict[str, Any]) -> Inside:
    """A mask of CVAT's, decoded by its own SDK."""
    assert "mask" == shape["type"]
    inside: Inside = np.asarray(decode_mask(shape["points"], image_width=WIDTH, image_height=HEIGHT))
    return inside


def test_an_agent_answers_clicks(cvat: CvatStub, server: RunningServer, client: httpx2.Client, photo: bytes) -> None:
    """A click and a dragged box arrive as the masks of ``/api/generate``; what the server refuses, in its words."""
    created = cvat_cli(cvat, server, "function", "create-native", "osamd")
    assert 0 == created.returncode, created.stderr
    assert str(FUNCTION) == created.stdout.strip()
    kinds = {"kind": "interactor", "min_pos_points": 0, "min_neg_points": 0, "startswith_box_optional": True}
    assert kinds.items() <= cvat.bodies("/functions")[0].items()

    cvat.interactive += [
        interact("one", pos_points=[CLICK]),
        interact("two", pos_points=[CLICK], neg_points=[[10, 10]], obj_bbox=BOX),
        interact("three", pos_points=[CLICK] * 300),
    ]
    embeds = server.log_text().count("POST /api/embed")
    ran = cvat_cli(cvat, server, "function", "run-agent", str(FUNCTION), "--burst")
    assert 0 == ran.returncode, ran.stderr
    assert KEY not in ran.stdout + ran.stderr

    (first,) = cvat.bodies("/one/complete")[0]["shapes"]
    (second,) = cvat.bodies("/two/complete")[0]["shapes"]
    points = {"points": [CLICK, [10, 10]], "point_labels": [1, 0]}
    expected = ask(client, photo, prompt={"points": [CLICK], "point_labels": [1]})
    boxed = ask(client, photo, prompt=points | {"box": BOX_INSIDE})
    assert (decoded(first) == only_mask(expected)).all()
    assert (decoded(second) == only_mask(boxed)).all()
    assert [{"spec_id": 0, "value": f"{expected['annotations'][0]['score']:.4f}"}] == first["attributes"]
    assert "at most 256" in cvat.bodies("/three/fail")[0]["exc_info"]
    # The second and third click went by the handle of the first.
    assert 1 == server.log_text().count("POST /api/embed") - embeds


@dataclass(frozen=True)
class Prompts:
    """As the agent has them."""

    pos_points: tuple[tuple[float, float], ...]
    neg_points: tuple[tuple[float, float], ...] = ()
    bounding_box: None = None


def test_a_forgotten_image_is_sent_again(server: RunningServer, client: httpx2.Client) -> None:
    """The agent keeps images for ten minutes, and the server may forget them earlier; also one that is sent as JPEG."""
    whole = disc_picture().resize((10 * PICTURE_WIDTH, 12 * PICTURE_HEIGHT))
    with Client(server.url, api_key=KEY) as opened:
        interactor = Clicks(opened, None)
        known = interactor.preprocess_image(None, whole)
        assert known.data.startswith(b"\xff\xd8")
        client.delete(f"/api/images/{known.handle.image_id}").raise_for_status()
        (shape,) = interactor.detect(None, known, Prompts(((10.0 * DISC_X, 12.0 * DISC_Y),)))
    inside = decode_mask(shape.points, image_width=whole.width, image_height=whole.height)
    assert iou(np.asarray(whole)[:, :, 0] > 128, np.asarray(inside)) > 0.9


def test_words_annotate_a_whole_task(cvat: CvatStub, library: Library, photo: bytes) -> None:
    """Each word is a label, and each object a mask of the label's, as ``/api/generate`` finds it."""
    cvat.labels = ("cat", "dog")
    parameters = ["-p", "texts=str:cat, dog", "-p", "model=str:sam3", "--conf-threshold", "0.2"]
    ran = cvat_cli(cvat, library.server, "task", "auto-annotate", str(TASK), *parameters)
    assert 0 == ran.returncode, ran.stderr
    (body,) = cvat.bodies("/annotations/")
    with library.server.client() as client:
        prompt = {"texts": ["cat", "dog"], "score_threshold": 0.2}
        expected = ask(client, photo, model="sam3", prompt=prompt, mask_layout="full")["annotations"]
    assert expected
    assert [11 + ["cat", "dog"].index(item["text"]) for item in expected] == [s["label_id"] for s in body["shapes"]]
    for shape, item in zip(body["shapes"], expected, strict=True):
        assert (decoded(shape) == inside_of(item)).all()
