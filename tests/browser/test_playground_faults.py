"""What annotators stumbled over: candidates, words, keys, lost work, keys of the API, screen readers, double clicks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import KEY_NAME, Opener, Playground
from codes import run_code
from pictures import disc_picture, encoded, png_pixels
from playwright.sync_api import Dialog, FilePayload, Page, Route, expect
from serving import KEY, RunningServer

GENERATE, CATALOG = "**/api/generate", "**/api/catalog"
ON, OFF = (225, 150), (420, 40)
BOXES = {"a cup": (10, 10, 60, 60), "a spoon": (80, 20, 120, 90), "another": (0, 0, 5, 5)}


def with_capabilities(page: Page, *names: str, instead: bool = False) -> None:
    """Let the list of models say that each can do something more, or only this; the page is loaded again."""

    def change(route: Route) -> None:
        answer = route.fetch().json()
        for model in answer["models"]:
            model["capabilities"] = [*([] if instead else model["capabilities"]), *names]
        route.fulfill(json=answer)

    page.route(CATALOG, change)
    page.reload()


def annotation(text: str | None, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """A box that a model found, without a mask."""
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return {"bounding_box": sides, "mask": None, "score": 0.9, "text": text, "mask_id": None}


@pytest.fixture
def ready(playground: Playground, photo: bytes) -> Playground:
    """A playground with a photo and without previews."""
    playground.use(photo)
    playground.page.keyboard.press("p")
    return playground


def key(page: Page, name: str, code: str, **more: bool) -> None:
    """A key of a keyboard with another layout."""
    page.evaluate(
        """([key, code, more]) => document.activeElement.dispatchEvent(
            new KeyboardEvent("keydown", { key, code, bubbles: true, cancelable: true, ...more }))""",
        [name, code, more],
    )


def test_candidates_belong_to_the_object_in_hand(playground: Playground, photo: bytes) -> None:
    """Switching candidates for one object asks nothing about another and keeps its pick; undo takes the switch back."""
    page = playground.page

    def repeat(route: Route) -> None:
        fields = json.loads(route.request.post_data or "")
        count = 3 if fields.pop("multimask", False) else 1
        answer = route.fetch(post_data=json.dumps(fields)).json()
        route.fulfill(json=answer | {"annotations": answer["annotations"] * count})

    page.route(GENERATE, repeat)
    with_capabilities(page, "multimask")
    playground.use(photo)
    page.keyboard.press("p")
    radios = page.locator("#candidates [role=radio]")
    page.keyboard.press("m")
    playground.click(*ON)
    expect(radios).to_have_count(3)
    page.keyboard.press("c")
    expect(radios.nth(1)).to_have_attribute("aria-checked", "true")
    page.keyboard.press("n")
    page.keyboard.press("m")
    playground.click(*OFF)
    playground.wait_for_mask()
    expect(radios.first).to_be_hidden()
    asked = playground.listen()
    page.keyboard.press("m")
    expect(radios).to_have_count(3)
    assert [body["prompt"]["points"] for body in asked] == [[list(OFF)]]
    page.keyboard.press("Control+z")
    expect(radios.first).to_be_hidden()
    page.get_by_role("button", name="Select Object 1").click()
    expect(radios.nth(1)).to_have_attribute("aria-checked", "true")
    assert len(asked) == 1


def test_each_word_is_an_object_of_its_own(playground: Playground, photo: bytes) -> None:
    """A word search gives an object for each answer, of its own class; a second one adds to them."""
    page = playground.page

    def answer(route: Route) -> None:
        texts = json.loads(route.request.post_data or "")["prompt"]["texts"]
        route.fulfill(json={"annotations": [annotation(text, BOXES[text]) for text in texts]})

    page.route(GENERATE, answer)
    with_capabilities(page, "texts", instead=True)
    playground.use(photo)
    for words, count in (("a cup, a spoon", 2), ("another", 3)):
        page.locator("#words-input").fill(words)
        page.get_by_role("button", name="Find").click()
        expect(playground.objects).to_have_count(count)
    coco = json.loads(playground.download("coco"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert list(BOXES) == [names[item["category_id"]] for item in coco["annotations"]]
    page.keyboard.press("Control+z")
    expect(playground.objects).to_have_count(2)


def test_keys_work_wherever_nobody_types(ready: Playground) -> None:
    """After a click on a button, Enter in a name, and on a Cyrillic layout; Delete deletes; Escape cancels a box."""
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    page.locator("#zoom-in").click()
    page.keyboard.press("n")
    expect(ready.objects).to_have_count(2)
    page.keyboard.press("d")
    expect(ready.objects).to_have_count(1)
    name = page.locator("#objects .name")
    name.fill("Cat d")
    name.press("Enter")
    key(page, "т", "KeyN")
    expect(ready.objects).to_have_count(2)
    key(page, "я", "KeyZ", ctrlKey=True)
    expect(ready.objects).to_have_count(1)
    box = ready.stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + 310, box["y"] + 310)
    page.mouse.up()
    expect(ready.objects).to_have_text([re.compile("1 click")])
    page.keyboard.press("Delete")
    expect(ready.objects).to_have_count(0)


def test_help_needs_no_photo(playground: Playground) -> None:
    """The question mark opens the list of keys before there is a photo."""
    playground.page.keyboard.press("?")
    expect(playground.page.get_by_role("heading", name="Mouse, touch and keys")).to_be_visible()


def test_work_is_not_lost_silently(ready: Playground, photo: bytes) -> None:
    """Leaving asks first, links open a new tab, and the clicks on a photo are offered again."""
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    page.locator("#objects .name").fill("Cat")
    assert ["_blank", "_blank"] == [link.get_attribute("target") for link in page.locator("header a").all()]
    kinds: list[str] = []

    def leave(dialog: Dialog) -> None:
        kinds.append(dialog.type)
        dialog.accept()

    page.once("dialog", leave)
    page.reload()
    assert kinds == ["beforeunload"]
    ready.use(photo)
    expect(ready.notice).to_contain_text("1 object")
    page.get_by_role("button", name="Restore").click()
    ready.wait_for_mask()
    expect(page.locator("#objects .name")).to_have_value("Cat")


def test_another_photo_keeps_the_first(ready: Playground) -> None:
    """A second photo is added beside the first, whose objects and masks are there again without a request."""
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    ready.use(encoded(disc_picture()), "disc.png", kind="image/png")
    expect(page.locator("#photos-place")).to_have_text("2 of 2")
    expect(ready.objects).to_have_count(0)
    asked = ready.listen()
    page.keyboard.press("PageUp")
    ready.wait_for_mask()
    expect(page.locator("#photos-name")).to_have_text("photo.jpg")
    assert asked == []


def test_without_a_key(open_playground: Opener, server: RunningServer) -> None:
    """Who closes the dialog is told that a key is needed, and can enter it; no one is told to wait."""
    playground = open_playground(server, key=None)
    page = playground.page
    page.get_by_role("button", name="Close").click()
    expect(playground.notice).to_contain_text("A key is needed")
    page.locator("[data-example='cat.jpg']").click()
    expect(page.locator("#key-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(playground.status).to_contain_text("needs a key")
    page.get_by_role("button", name="Enter key").click()
    page.locator("#key-input").fill(KEY)
    page.keyboard.press("Enter")
    playground.wait_until_ready()


def test_refused_key_is_forgotten(open_playground: Opener, server: RunningServer) -> None:
    """A key that the server rejects is neither kept nor shown as in use."""
    playground = open_playground(server, key="wrong-key")
    page = playground.page
    expect(page.locator("#key-wrong")).to_contain_text("The server rejected this key")
    assert page.evaluate(f"() => sessionStorage.getItem({KEY_NAME!r})") is None
    expect(page.locator("#key")).not_to_have_class(re.compile("is-on"))


def test_copied_curl_fails_on_errors(ready: Playground, tmp_path: Path) -> None:
    """Where the server refuses, the command says why, exits with an error and leaves no mask.png."""
    ready.click(*ON)
    ready.wait_for_mask()
    code = ready.page.locator("#code").text_content() or ""
    (tmp_path / "photo.jpg").write_bytes(b"no photo")
    with pytest.raises(AssertionError, match="curl"):
        run_code("curl", code, tmp_path)
    assert ["photo.jpg"] == [file.name for file in tmp_path.iterdir()]


def test_failed_pull_shows_its_request_id(playground: Playground) -> None:
    """A message about a request id is followed by that id."""
    page = playground.page

    def away(route: Route) -> None:
        answer = route.fetch().json()
        more = {"name": "far:latest", "is_present": False, "is_loaded": False, "may_pull": True, "size": None}
        answer["models"].append(answer["models"][0] | more | {"download_size": 123_000_000})
        route.fulfill(json=answer)

    def fail(route: Route) -> None:
        body = json.dumps({"error": "See the log under this request id.", "code": "model_failed"}) + "\n"
        headers = {"X-Request-Id": "r-77"}
        route.fulfill(status=200, content_type="application/x-ndjson", headers=headers, body=body)

    page.route(CATALOG, away)
    page.route("**/api/pull", fail)
    page.locator("#model").click()
    row = page.locator("#models .model", has_text="far")
    expect(row).to_contain_text("123 MB to download")
    row.get_by_role("button", name="Pull far").click()
    expect(row).to_contain_text("Request id: r-77")


def test_previewed_answers_are_announced(playground: Playground, photo: bytes) -> None:
    """A click whose answer a preview had fetched is announced all the same; a new photo clears the announcement."""
    page = playground.page
    playground.use(photo)
    with page.expect_response(GENERATE):
        playground.stage.hover(position=playground.place_of(*ON))
    playground.click(*ON)
    expect(page.locator("#announcement")).to_contain_text("Object 1: ")
    playground.use(encoded(disc_picture()), "disc.png", kind="image/png")
    expect(page.locator("#announcement")).to_have_text("")


def test_deleting_keeps_the_focus(ready: Playground) -> None:
    """Deleting a row leaves the focus on its neighbour, and after the last one on the photo."""
    page = ready.page
    for place in (ON, OFF):
        page.keyboard.press("n")
        ready.click(*place)
        ready.wait_for_mask()
    page.get_by_role("button", name="Delete Object 1").click()
    expect(page.get_by_role("button", name="Select Object 2")).to_be_focused()
    page.get_by_role("button", name="Delete Object 2").click()
    expect(ready.stage).to_be_focused()


def test_forced_colours_show_what_is_active(open_playground: Opener, server: RunningServer, photo: bytes) -> None:
    """The chosen tool, tab and object have a frame where colours are the system's."""
    playground = open_playground(server, forced_colors="active")
    page = playground.page
    playground.use(photo)
    playground.click(*ON)
    playground.wait_for_mask()
    for chosen in ("[data-tool=add]", "#tab-curl", ".object.is-active"):
        assert page.locator(chosen).evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid", chosen


def test_print_has_the_photo(ready: Playground) -> None:
    """What is printed has the photo with its pixels, on one page, and no tools."""
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    paper = page.pdf(format="A4")
    assert re.search(rb"/Width 451\b", paper)
    assert len(re.findall(rb"/Type /Page\b(?!s)", paper)) == 1
    page.emulate_media(media="print")
    expect(page.locator("#dock")).to_be_hidden()


def test_names_and_hidden_objects_in_files(ready: Playground) -> None:
    """Classes have no blanks at their ends and are never empty; hidden objects are not exported."""
    page = ready.page
    for place in (ON, OFF, (40, 40)):
        page.keyboard.press("n")
        ready.click(*place)
        ready.wait_for_mask()
    for number, text in enumerate(("  Cat ", "   ", "Gone")):
        page.locator("#objects .name").nth(number).fill(text)
    page.get_by_role("button", name="Hide Gone").click()
    coco = json.loads(ready.download("coco"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert ["Cat", "Object 2"] == [names[item["category_id"]] for item in coco["annotations"]]


def test_tools_that_the_model_does_not_take_are_off(playground: Playground, photo: bytes) -> None:
    """With a model of words alone Add, Remove and Box are disabled."""
    with_capabilities(playground.page, "texts", instead=True)
    playground.use(photo)
    for tool in ("add", "remove", "box"):
        expect(playground.page.locator(f"[data-tool={tool}]")).to_be_disabled()
    expect(playground.status).to_have_text("Ready. Type what to find.")


def test_clicks_mean_what_they_say(ready: Playground) -> None:
    """A double click is one click, background alone asks for the object, and a click on another object selects it."""
    page = ready.page
    ready.click(*ON, click_count=2)
    ready.wait_for_mask()
    expect(ready.objects).to_have_text([re.compile("1 click$")])
    page.keyboard.press("n")
    ready.click(*OFF, modifiers=["Shift"])
    expect(ready.objects.last).to_contain_text("Click on the object too")
    ready.click(20, 280)
    expect(ready.objects.last).to_contain_text("2 clicks")
    ready.wait_for_mask()
    mask = png_pixels(ready.download("mask"))
    assert not mask[ON[1], ON[0]], "the second object covers the first: choose another place"
    ready.click(*ON)
    expect(page.locator(".object").first).to_have_class(re.compile("is-active"))
    expect(ready.objects.first).to_have_text(re.compile("1 click$"))


def test_phone(open_playground: Opener, server: RunningServer, photo: bytes) -> None:
    """Every tool is inside a narrow screen, Fit too, and help says what dragging does there."""
    playground = open_playground(server, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True)
    page = playground.page
    playground.use(photo)
    for button in page.locator(".toolbar button:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
    expect(page.locator("#zoom-fit")).to_be_visible()
    page.locator("#help").click()
    expect(page.get_by_text("Pan; with the box tool")).to_be_visible()
    expect(page.get_by_text("Draw a box around the object", exact=True)).to_be_hidden()


def test_heic_is_explained(playground: Playground) -> None:
    """A file without a type is tried; what cannot be opened names the formats that can."""
    playground.choose(b"\0\0\0\x18ftypheic", "IMG_1.HEIC", kind="")
    expect(playground.notice).to_contain_text("Not an image")
    expect(playground.notice).to_contain_text("HEIC photos open in Safari only; other browsers show JPEG, PNG")


def test_first_of_two_is_no_image(playground: Playground, photo: bytes) -> None:
    """Of two files chosen at once the second is opened where the first cannot be; the notice about that one stays."""
    heic = FilePayload(name="IMG_1.HEIC", mimeType="", buffer=b"\0\0\0\x18ftypheic")
    cat = FilePayload(name="cat.jpg", mimeType="image/jpeg", buffer=photo)
    playground.page.locator("#file").set_input_files([heic, cat])
    playground.wait_until_ready()
    expect(playground.notice).to_contain_text("IMG_1.HEIC cannot be opened")
    playground.click(*ON)
    playground.wait_for_mask()
    assert "cat.jpg" == json.loads(playground.download("coco"))["images"][0]["file_name"]
