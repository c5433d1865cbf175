"""The real Label Studio and its page in Chromium, with osamd as its ML backend."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import ask, only_mask
from chromium import run_chromium
from pictures import Inside, inside_of
from playwright.sync_api import Browser
from shelf import Library, run_library
from studio_page import PHOTO, ROOT, StudioPage, connected_project, run_studio

pytestmark = pytest.mark.tools

PYTHON = ROOT / ".venv-tools" / "label-studio" / "bin" / "python"
WIDTH, HEIGHT = 451, 300
CLICKS = """<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image" smart="false"><Label value="Cat"/></BrushLabels>
<KeyPointLabels name="click" toName="image" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
<RectangleLabels name="box" toName="image" smart="true" smartOnly="true"><Label value="Cat"/></RectangleLabels>
</View>"""
WORDS = """<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image"><Label value="Cat"/><Label value="Hund" predicted_values="dog"/></BrushLabels>
</View>"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """Label Studio."""
    with run_studio(tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture(scope="module")
def library(studio: httpx2.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A server with a model of each family, which knows that Label Studio."""
    token = studio.post("/api/token/", json={}).json()["token"]
    env = {"OSAMD_DOORS": "label-studio", "OSAMD_LABEL_STUDIO_TOKEN": token}
    env["OSAMD_LABEL_STUDIO_URL"] = str(studio.base_url).rstrip("/")
    with run_library(tmp_path_factory.mktemp("osamd"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(run_chromium())


def decoded(regions: list[dict[str, Any]], folder: Path) -> list[Inside]:
    """Brush regions by Label Studio's own decoder."""
    masks = [
        {"rle": region["value"]["rle"], "height": region["original_height"], "width": region["original_width"]}
        for region in regions
    ]
    given, out = folder / "masks.json", folder / "masks.npz"
    given.write_text(json.dumps(masks), "utf-8")
    script = Path(__file__).with_name("label_studio_process.py")
    command = [str(part) for part in (PYTHON, script, given, out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(out) as found:
        return [found[name][:, :, 3] > 0 for name in found.files]


def test_clicks_and_a_box_become_what_is_submitted(
    studio: httpx2.Client, library: Library, browser: Browser, tmp_path: Path
) -> None:
    """Also after a reload: each suggestion, and each mask that Label Studio stores, is that of ``/api/generate``."""
    pictures = Path(os.environ.get("TOOLS_PICTURES") or tmp_path)
    project = connected_project(studio, f"{library.server.url}/label-studio/builtin", CLICKS)
    studio_page = StudioPage(browser, project)
    studio_page.open_task()
    first = studio_page.click(0.5, 0.5)
    with studio_page.draft_of(2):
        second = studio_page.click(0.93, 0.1, excludes=True)
        studio_page.page.screenshot(path=pictures / "label-studio-click.png")
    studio_page.open_task(regions=2)
    third = studio_page.click(0.6, 0.6)
    assert [region.get("is_positive") for region in third[0]] == [None, None, True]
    studio_page.accept()
    fourth = studio_page.drag((0.1, 0.1), (0.85, 0.97))
    studio_page.page.screenshot(path=pictures / "label-studio-box.png")
    studio_page.accept()
    studio_page.submit()
    studio_page.page.screenshot(path=pictures / "label-studio-submitted.png")

    points = [[region["value"]["x"] * WIDTH / 100, region["value"]["y"] * HEIGHT / 100] for region in third[0]]
    (drawn,) = [region["value"] for region in fourth[0]]
    left, top = drawn["x"] * WIDTH / 100, drawn["y"] * HEIGHT / 100
    right, bottom = left + drawn["width"] * WIDTH / 100, top + drawn["height"] * HEIGHT / 100
    prompts: list[dict[str, Any]] = [
        {"points": points[:count], "point_labels": [1, 0, 1][:count]} for count in range(1, 4)
    ]
    prompts.append({"box": [left, top, right, bottom]})
    with library.server.client() as client:
        own = [only_mask(ask(client, PHOTO.read_bytes(), prompt=prompt)) for prompt in prompts]
    suggested = decoded([first[1], second[1], third[1], fourth[1]], tmp_path)
    for mask, expected in zip(suggested, own, strict=True):
        assert np.array_equal(expected, mask)
    stored = [region for region in project.stored("annotations") if region["type"] == "brushlabels"]
    assert [["Cat"], ["Cat"]] == [region["value"]["brushlabels"] for region in stored]
    for mask, expected in zip(decoded(stored, tmp_path), own[2:], strict=True):
        assert np.array_equal(expected, mask)


def test_words_annotate_before_people_do(
    studio: httpx2.Client, library: Library, browser: Browser, tmp_path: Path
) -> None:
    """Retrieve Predictions in the page: what is stored are the masks of ``/api/generate`` for the labels' words."""
    pictures = Path(os.environ.get("TOOLS_PICTURES") or tmp_path)
    project = connected_project(studio, f"{library.server.url}/label-studio/sam3", WORDS)
    studio_page = StudioPage(browser, project)
    studio_page.retrieve_predictions()
    studio_page.page.screenshot(path=pictures / "label-studio-predictions.png")

    stored = project.stored("predictions")
    with library.server.client() as client:
        asked = {"model": "sam3", "prompt": {"texts": ["Cat", "dog", "Hund"]}}
        expected = ask(client, PHOTO.read_bytes(), **asked)["annotations"]
    labels = {"Cat": "Cat", "dog": "Hund", "Hund": "Hund"}
    assert [[labels[item["text"]]] for item in expected] == [region["value"]["brushlabels"] for region in stored]
    assert stored
    for mask, item in zip(decoded(stored, tmp_path), expected, strict=True):
        assert np.array_equal(inside_of(item), mask)
