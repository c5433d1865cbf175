"""Finding without clicks: everything in a photo, and words by a detector in front of the chosen model."""

import json
import re
from typing import Any

import pytest
from chromium import Playground, body_of
from pictures import disc_picture, encoded, inside_of_runs, png_pixels
from playwright.sync_api import Route, expect

ON = (225, 150)


@pytest.fixture
def ready(playground: Playground, photo: bytes) -> Playground:
    """A playground with a photo and without previews."""
    playground.use(photo, "cat.jpg")
    playground.page.keyboard.press("p")
    return playground


def test_everything_is_found_and_some_of_it_kept(ready: Playground) -> None:
    """Masks appear as they are found; a click keeps the smallest one under it, which is exported like any object."""
    page = ready.page
    text, names = page.locator("#finds-text"), page.locator("#objects .name")
    page.get_by_role("button", name="Find everything").click()
    expect(text).to_have_text(re.compile(r"^[1-9]\d* found, \d+ % searched$"))
    page.get_by_role("button", name="Stop").click()
    expect(text).to_have_text(re.compile(r"^\d+ found\. Click to keep$|^Nothing found$"))
    page.keyboard.press("Escape")
    expect(page.locator("#finds")).to_be_hidden()

    # To the end, with fewer points, since all of them take seconds.
    def shorten(route: Route) -> None:
        body = body_of(route.request)
        assert {"everything": True} == body["prompt"]
        route.continue_(post_data=json.dumps(body | {"prompt": {"everything": {"points_per_side": 5}}}))

    page.route("**/api/generate", shorten)
    page.keyboard.press("g")
    expect(text).to_have_text(re.compile(r"^[1-9]\d* found\. Click to keep$"))
    expect(page.locator("#announcement")).to_have_text(re.compile("found"))
    page.unroute("**/api/generate")

    asked = ready.listen()
    ready.stage.hover(position=ready.place_of(*ON))
    expect(ready.stage).to_have_class(re.compile("is-selecting"))
    ready.click(*ON)
    expect(ready.objects).to_have_text([re.compile(r"%, score 0\.\d\d$")])
    expect(names).to_have_value("Object 1")
    mask = png_pixels(ready.download("mask")) > 0
    assert mask[ON[1], ON[0]]
    runs = json.loads(ready.download("coco"))["annotations"][0]["segmentation"]
    assert (inside_of_runs(runs) == mask).all()
    assert json.loads(ready.download("polygons"))["objects"][0]["polygons"]
    page.keyboard.press("Control+z")
    expect(ready.objects).to_have_count(0)
    assert asked == []

    # Without a pointer.
    ready.stage.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(ready.objects).to_have_count(1)

    page.get_by_role("button", name="Keep all").click()
    expect(page.get_by_role("button", name="Keep all")).to_be_disabled()
    assert ready.objects.count() > 1
    page.get_by_role("button", name="Done").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#finds")).to_be_hidden()
    expect(ready.stage).to_be_focused()
    # A kept mask is refined by its id.
    page.locator("#objects .select").first.click()
    ready.click(*ON, modifiers=["Alt"])
    ready.wait_for_mask()
    assert asked[0]["prompt"]["mask_input"].startswith("mask_")


CHAIN = "yoloworld:latest+builtin:latest"


@pytest.fixture
def asked(playground: Playground) -> list[dict[str, Any]]:
    """What a playground with a detector in front of the built-in model asks; words find what a click does."""
    page = playground.page
    bodies: list[dict[str, Any]] = []

    def add_detector(route: Route) -> None:
        models = route.fetch().json()["models"]
        known = next(model for model in models if model["name"] == "yoloworld:latest")
        known |= {"is_present": True}
        route.fulfill(json={"models": models})

    def answer(route: Route) -> None:
        body = body_of(route.request)
        bodies.append(body)
        if body["model"] != CHAIN:
            return route.continue_()
        click = {"points": [ON], "point_labels": [1]}
        reply = route.fetch(post_data=json.dumps(body | {"model": "builtin:latest", "prompt": click})).json()
        reply["annotations"] = [one | {"text": "cat", "predicted_iou": 0.9} for one in reply["annotations"]]
        return route.fulfill(json=reply)

    page.route("**/api/catalog", add_detector)
    page.route("**/api/embed?*", lambda route: route.continue_(url=route.request.url.split("?")[0] + "?model=builtin"))
    page.route("**/api/generate", answer)
    page.reload()
    return bodies


def find(playground: Playground, words: str) -> None:
    """Search for words."""
    playground.page.locator("#words-input").fill(words)
    playground.page.keyboard.press("Enter")


def test_words_with_a_detector_in_front(playground: Playground, asked: list[dict[str, Any]], photo: bytes) -> None:
    """With a detector downloaded, the chosen model takes words too, and its masks are refined by clicks."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    find(playground, "cat")
    expect(page.locator("#objects .name")).to_have_value("cat")
    assert [(CHAIN, {"texts": ["cat"]})] == [(body["model"], body["prompt"]) for body in asked]
    expect(page.locator("#code")).to_contain_text("yoloworld:latest%2Bbuiltin")
    playground.click(*ON, modifiers=["Alt"])
    expect(playground.objects).to_have_text([re.compile("1 click")])
    playground.wait_for_mask()
    assert ("builtin:latest", True) == (asked[-1]["model"], asked[-1]["prompt"]["mask_input"].startswith("mask_"))


def test_words_in_a_photo_that_is_opened_again(
    playground: Playground, asked: list[dict[str, Any]], photo: bytes
) -> None:
    """Back at a photo whose answers are kept, the detector still gets to see it."""
    page = playground.page
    playground.use(photo)
    playground.use(encoded(disc_picture()), "disc.png", kind="image/png")
    page.keyboard.press("PageUp")
    expect(page.locator("#photos-name")).to_have_text("photo.jpg")
    find(playground, "cat")
    expect(page.locator("#objects .name")).to_have_value("cat")
    assert CHAIN in [body["model"] for body in asked]
