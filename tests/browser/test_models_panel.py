"""Other models in the playground: pulling one, candidates, words."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from asking import ask
from blob_server import Answer
from chromium import Opener, Playground, body_of
from codes import codes_of, run_code
from pictures import disc_picture, encoded, inside_of, png_pixels
from playwright.sync_api import Response, Route, expect
from shelf import Library, run_library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A server with a model of each family, and one that can be pulled."""
    with run_library(tmp_path_factory.mktemp("library"), fresh=2) as running:
        yield running


@pytest.fixture
def playground(open_playground: Opener, library: Library) -> Playground:
    """A playground of that server with a photo."""
    opened = open_playground(library.server)
    opened.use(encoded(disc_picture()), "disc.png", kind="image/png")
    opened.page.keyboard.press("p")
    return opened


def choose(playground: Playground, name: str) -> None:
    """Take a model into use."""
    page = playground.page
    page.locator("#model").click()
    page.get_by_role("button", name=re.compile(f"^Use {name}$")).click()
    expect(page.locator("#model-name")).to_have_text(name)


def test_candidates(playground: Playground, library: Library, tmp_path: Path) -> None:
    """One candidate is picked, by mouse or key; it is what is exported, and what the shown code gives."""
    choose(playground, "efficientsam:10m")
    playground.wait_until_ready()
    page = playground.page
    page.locator("#multimask").click()
    playground.click(70, 50)
    radios = page.locator("#candidates [role=radio]")
    expect(radios).to_have_count(3)
    expect(radios.first).to_have_attribute("aria-checked", "true")
    playground.stage.focus()
    page.keyboard.press("c")
    expect(radios.nth(1)).to_have_attribute("aria-checked", "true")
    mask = png_pixels(playground.download("mask"))
    with library.server.client() as client:
        prompt = {"points": [[70, 50]], "point_labels": [1]}
        reply = ask(client, encoded(disc_picture()), model="efficientsam:10m", prompt=prompt, multimask=True)
    np.testing.assert_array_equal(inside_of(reply["annotations"][1]), mask > 0)
    expect(page.locator("#code")).to_contain_text("multimask=true")
    (tmp_path / "disc.png").write_bytes(encoded(disc_picture()))
    for language, code in codes_of(playground):
        run_code(language, code, tmp_path)
        file = tmp_path / "mask.png"
        np.testing.assert_array_equal(mask > 0, png_pixels(file.read_bytes()) > 0, language)
        file.unlink()
    radios.nth(2).click()
    page.keyboard.press("Control+z")
    expect(radios.nth(1)).to_have_attribute("aria-checked", "true")
    # Without candidates none is picked, and a click refines none.
    page.locator("#multimask").click()
    playground.wait_for_mask()
    page.locator("#multimask").click()
    expect(radios.first).to_have_attribute("aria-checked", "true")


def test_lost_mask(playground: Playground, library: Library) -> None:
    """A click on a picked candidate refines it; when the server has lost that mask, the clicks alone are asked."""
    choose(playground, "sam2:tiny")
    playground.wait_until_ready()
    page = playground.page
    page.locator("#multimask").click()
    asked = playground.listen()
    with page.expect_response("**/api/generate") as answered:
        playground.click(70, 50)
    candidates = page.locator("#candidates [role=radio]")
    expect(candidates.nth(1)).to_be_visible()
    candidates.nth(1).click()
    with library.server.client() as client:
        client.delete(f"/api/images/{answered.value.json()['image_id']}").raise_for_status()
    playground.click(30, 40)
    expect(playground.objects).to_contain_text(["2 clicks"])
    playground.wait_for_mask()
    refined = ["mask_input" in body["prompt"] for body in asked]
    assert refined[1] is True
    assert refined[-1] is False
    del asked[:]
    playground.click(40, 60)
    expect(playground.objects).to_contain_text(["3 clicks"])
    playground.wait_for_mask()
    assert [False] == ["mask_input" in body["prompt"] for body in asked]
    expect(playground.notice).to_be_hidden()


def test_words(playground: Playground, tmp_path: Path) -> None:
    """A model that takes words gets them and says that it takes no clicks; it gives boxes alone.

    What was found stays with another model; boxes have no polygons to export.
    """
    choose(playground, "yoloworld")
    playground.wait_until_ready()
    page = playground.page
    playground.click(70, 50)
    expect(playground.status).to_contain_text("takes no clicks")
    with page.expect_response("**/api/generate") as asked:
        page.locator("#words-input").fill("a disc, a cup")
        page.get_by_role("button", name="Find").click()
    assert body_of(asked.value.request)["prompt"] == {"texts": ["a disc", "a cup"]}
    found = len(asked.value.json()["annotations"])
    expect(playground.objects).to_have_text([re.compile("box only")] * found)
    (tmp_path / "disc.png").write_bytes(encoded(disc_picture()))
    for language, code in codes_of(playground):
        printed = run_code(language, code, tmp_path)
        assert found == len(re.findall("a disc|a cup", printed)), language
    assert ["disc.png"] == [file.name for file in tmp_path.iterdir()]
    choose(playground, "sam:300m")
    expect(playground.objects).to_have_text([re.compile("box only")] * found)
    playground.wait_until_embedded()
    page.locator("#new-object").click()
    playground.click(70, 50)
    playground.wait_for_mask()
    assert [f"Object {found + 1}"] == [item["name"] for item in json.loads(playground.download("polygons"))["objects"]]


def test_polygons_of_what_another_model_found(playground: Playground) -> None:
    """Masks found by words are exported as polygons with any model, without a request."""
    choose(playground, "sam3")
    playground.wait_until_ready()
    page = playground.page
    page.locator("#words-input").fill("a disc")
    page.get_by_role("button", name="Find").click()
    playground.wait_for_mask()
    found = playground.objects.count()
    choose(playground, "sam:300m")
    playground.wait_until_embedded()
    asked = playground.listen()
    objects = json.loads(playground.download("polygons"))["objects"]
    assert ["a disc"] * found == [item["name"] for item in objects]
    assert all(item["polygons"][0]["exterior"] for item in objects)
    assert asked == []


def test_pull(playground: Playground, library: Library) -> None:
    """A model that is not here is shown with its licence, pulled with its progress, and then in use."""
    model = next(library.fresh)
    name = model.name.removesuffix(":latest")
    gate = threading.Event()
    model.answer("encoder", Answer(send=1000, hold=gate))
    page = playground.page
    with page.expect_response("**/api/catalog"):
        page.locator("#model").click()
    row = page.locator("#models .model", has_text=name)
    expect(row).to_contain_text("Not downloaded · download size unknown · MIT")
    expect(row.get_by_role("link", name="MIT")).to_have_attribute("href", "https://example.org/licence")
    page.evaluate(
        """() => {
            window.rows = 0;
            const count = (node) => (window.rows += node.querySelector(".pull") ? 1 : 0);
            const added = (records) => records.forEach((record) => record.addedNodes.forEach(count));
            new MutationObserver(added).observe(document.getElementById("models"), { childList: true });
        }"""
    )
    page.get_by_role("button", name=f"Pull {name}", exact=True).click()
    try:
        expect(row).to_contain_text(" of ")
        # News does not take the button from under the pointer: the row was made once.
        assert page.evaluate("() => window.rows") == 1
        expect(row.get_by_role("progressbar")).to_be_visible()
    finally:
        gate.set()
    expect(page.locator("#model-name")).to_have_text(name)
    page.keyboard.press("Escape")
    playground.wait_until_ready()


def test_failed_pull(playground: Playground, library: Library) -> None:
    """Why a pull failed is told beside the model, and it can be tried again."""
    name = next(library.fresh).name.removesuffix(":latest")
    page = playground.page
    reasons = ["the disk is full", "the host is away"]

    def fail(route: Route) -> None:
        body = json.dumps({"error": reasons.pop(0), "code": "pull_failed"}) + "\n"
        route.fulfill(status=200, content_type="application/x-ndjson", body=body)

    page.route("**/api/pull", fail)
    page.locator("#model").click()
    row = page.locator("#models .model", has_text=name)
    row.get_by_role("button", name=f"Pull {name}", exact=True).click()
    expect(row).to_contain_text("the disk is full")
    row.get_by_role("button", name="Try again").click()
    expect(row).to_contain_text("the host is away")
    assert reasons == []


def test_a_slow_model_is_previewed_by_the_built_in_one(open_playground: Opener, library: Library) -> None:
    """Where the chosen model cannot follow the pointer, the built-in one does; a click still asks the chosen one."""
    playground = open_playground(library.server)
    playground.use(encoded(disc_picture()), "disc.png", kind="image/png")
    choose(playground, "efficientsam:10m")
    playground.wait_until_ready()
    page = playground.page

    def dawdle(route: Route) -> None:
        if body_of(route.request)["model"] == "efficientsam:10m":
            time.sleep(0.25)
        route.continue_()

    page.route("**/api/generate", dawdle)
    for number in range(3):
        with page.expect_response("**/api/generate") as slow:
            playground.stage.hover(position=playground.place_of(60 + 4 * number, 50))
        assert "efficientsam:10m" == body_of(slow.value.request)["model"]
    expect(page.locator("#status")).to_contain_text("Previews come from the built-in model")
    with page.expect_response("**/api/generate") as quick:
        playground.stage.hover(position=playground.place_of(80, 50))
    assert "builtin:latest" == body_of(quick.value.request)["model"]
    assert {"points": [[80, 50]], "point_labels": [1]} == body_of(quick.value.request)["prompt"]
    assert quick.value.ok

    def is_of_the_chosen_one(response: Response) -> bool:
        return response.url.endswith("/api/generate") and body_of(response.request)["model"] == "efficientsam:10m"

    with page.expect_response(is_of_the_chosen_one) as clicked:
        playground.click(80, 50)
    assert {"points": [[80, 50]], "point_labels": [1]} == body_of(clicked.value.request)["prompt"]
    playground.wait_for_mask()
