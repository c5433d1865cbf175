"""What annotators need for many objects: views, classes by keys, brush and eraser, several photos, training files."""

import base64
import io
import json
import re
import zipfile
from typing import Any

import numpy as np
import pytest
from chromium import Playground
from pictures import disc_picture, encoded, inside_of_runs, png_pixels
from PIL import Image
from playwright.sync_api import Route, expect

GENERATE = "**/api/generate"
ON, OFF = (225, 150), (420, 40)


@pytest.fixture
def ready(playground: Playground, photo: bytes) -> Playground:
    """A playground with a photo and without previews."""
    playground.use(photo, "cat.jpg")
    playground.page.keyboard.press("p")
    return playground


def shot(playground: Playground) -> Any:
    """What is seen of the stage: (height, width, 3)."""
    playground.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    with Image.open(io.BytesIO(playground.stage.screenshot())) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def filled(polygon: list[float], width: int, height: int) -> Any:
    """The pixels whose middle is inside of x, y, x, y, ... by the even-odd rule: (height, width)."""
    xs, ys = np.array(polygon[::2]), np.array(polygon[1::2])
    middles = np.arange(width)[None, :] + 0.5
    inside = np.zeros((height, width), bool)
    for row in range(height):
        y = row + 0.5
        crossing = (ys > y) != (np.roll(ys, -1) > y)
        x1, y1, x2, y2 = xs[crossing], ys[crossing], np.roll(xs, -1)[crossing], np.roll(ys, -1)[crossing]
        at = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
        inside[row] = ((middles > at[:, None]).sum(axis=0) % 2).astype(bool)
    return inside


def inside_of_polygons(polygons: list[dict[str, Any]], shape: tuple[int, int]) -> Any:
    """The pixels inside of the API's polygons, whose whole numbers are middles of pixels."""
    height, width = shape
    rings = [ring for part in polygons for ring in (part["exterior"], *part["holes"])]
    edges = [[value + 0.5 for point in ring for value in point] for ring in rings]
    return np.logical_xor.reduce([filled(edge, width, height) for edge in edges])


def drag(playground: Playground, *places: tuple[float, float]) -> None:
    """Drag over pixels of the photo."""
    box = playground.stage.bounding_box()
    assert box is not None
    for number, place in enumerate(places):
        at = playground.place_of(*place)
        playground.page.mouse.move(box["x"] + at["x"], box["y"] + at["y"])
        if number == 0:
            playground.page.mouse.down()
    playground.page.mouse.up()


def test_masks_can_be_hidden_and_outlined(ready: Playground) -> None:
    """While V is held nothing covers the photo; O leaves the outlines; the opacity changes the fill."""
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    page.mouse.move(0, 0)
    place = ready.place_of(ON[0] + 25, ON[1] + 25)
    around = np.s_[int(place["y"]) - 2 : int(place["y"]) + 2, int(place["x"]) - 2 : int(place["x"]) + 2]
    seen = {"fill": shot(ready)}
    page.keyboard.down("v")
    seen["hidden"] = shot(ready)
    page.keyboard.up("v")
    seen["shown"] = shot(ready)
    page.keyboard.press("o")
    seen["outlines"] = shot(ready)
    page.keyboard.press("o")
    page.locator("#opacity").fill("90")
    seen["strong"] = shot(ready)
    np.testing.assert_array_equal(seen["fill"], seen["shown"])
    np.testing.assert_array_equal(seen["hidden"][around], seen["outlines"][around])
    assert not np.array_equal(seen["hidden"], seen["outlines"])
    distances = [np.abs(seen[name][around] - seen["hidden"][around]).mean() for name in ("fill", "strong")]
    assert 0 < distances[0] < distances[1]


def test_forty_objects(playground: Playground, photo: bytes) -> None:
    """Forty objects have forty colours that can be told apart, and the list scrolls with the active one in view."""
    page = playground.page
    sides = {"xmin": 10, "ymin": 10, "xmax": 60, "ymax": 60}
    found = {"bounding_box": sides, "mask": None, "score": 0.5, "text": "cup", "mask_id": None}

    def take_words(route: Route) -> None:
        answer = route.fetch().json()
        route.fulfill(json={"models": [model | {"capabilities": ["texts"]} for model in answer["models"]]})

    page.route("**/api/catalog", take_words)
    page.route(GENERATE, lambda route: route.fulfill(json={"annotations": [found] * 40}))
    page.reload()
    playground.use(photo)
    page.locator("#words-input").fill("cup")
    page.keyboard.press("Enter")
    expect(playground.objects).to_have_count(40)
    page.locator("#new-object").click()
    expect(playground.objects).to_have_count(41)
    swatches = page.locator(".swatch").evaluate_all(
        "(nodes) => nodes.map((node) => getComputedStyle(node).backgroundColor.match(/\\d+/g).map(Number))"
    )
    colors = np.array(swatches[:40], float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(40)
    assert distances.min() > 20
    expect(page.locator(".object").last).to_be_in_viewport(ratio=0.9)
    assert page.locator("#objects").evaluate("(list) => list.scrollHeight > list.clientHeight")


def test_classes_by_number_keys(ready: Playground) -> None:
    """A number key names the active object, Shift and N starts another of its class: no name is typed twice."""
    page = ready.page
    page.locator("#class-input").fill("cup, spoon")
    page.keyboard.press("Enter")
    ready.click(*ON)
    ready.wait_for_mask()
    page.locator("#zoom-fit").click()
    page.keyboard.press("2")
    page.keyboard.press("Shift+N")
    ready.click(*OFF)
    ready.wait_for_mask()
    page.keyboard.press("n")
    page.keyboard.press("1")
    values = page.locator("#objects .name").evaluate_all("(nodes) => nodes.map((node) => node.value)")
    assert ["spoon", "spoon", "cup"] == values
    page.locator("#objects .name").last.fill("fork")
    page.keyboard.press("Enter")
    expect(page.locator("#classes .class-give")).to_have_text(["1cup", "2spoon", "3fork"])


def test_training_files(ready: Playground) -> None:
    """COCO and YOLO polygons fill exactly the masks' pixels; the label map's pixels are class numbers."""
    page = ready.page
    page.locator("#class-input").fill("dog, cat")
    page.keyboard.press("Enter")
    ready.click(*ON)
    ready.wait_for_mask()
    page.keyboard.press("2")
    mask = png_pixels(ready.download("mask")) > 0
    height, width = mask.shape
    coco = json.loads(ready.download("coco-polygons"))
    (item,) = coco["annotations"]
    assert [(1, "dog"), (2, "cat")] == [(category["id"], category["name"]) for category in coco["categories"]]
    assert item["category_id"] == 2
    parts = [filled(polygon, width, height) for polygon in item["segmentation"]]
    np.testing.assert_array_equal(mask, np.logical_or.reduce(parts))
    with zipfile.ZipFile(io.BytesIO(ready.download("yolo"))) as archive:
        assert archive.testzip() is None
        assert ["data.yaml", "labels/cat.txt"] == archive.namelist()
        (line,) = archive.read("labels/cat.txt").decode().splitlines()
        assert '1: "cat"' in archive.read("data.yaml").decode()
    number, *values = line.split()
    scaled = [float(value) * (height if index % 2 else width) for index, value in enumerate(values)]
    assert number == "1"
    np.testing.assert_array_equal(mask, filled([round(value) for value in scaled], width, height))
    with Image.open(io.BytesIO(ready.download("label-map"))) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.where(mask, 2, 0), np.asarray(picture))


def test_all_photos_in_one_file(ready: Playground) -> None:
    """Two photos of one name, each with an object, come together in one ZIP."""
    ready.click(*ON)
    ready.wait_for_mask()
    first = json.loads(ready.download("coco"))["annotations"][0]
    ready.use(encoded(disc_picture()), "cat.png", kind="image/png")
    ready.click(70, 50)
    ready.wait_for_mask()
    with zipfile.ZipFile(io.BytesIO(ready.download("all"))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        coco = json.loads(archive.read("coco.json"))
    assert {"labels/cat.txt", "labels/cat-2.txt", "label-maps/cat.png", "label-maps/cat-2.png"} < set(names)
    assert ["cat.jpg", "cat.png"] == [image["file_name"] for image in coco["images"]]
    assert [1, 2] == [item["image_id"] for item in coco["annotations"]]
    assert first["segmentation"] == coco["annotations"][0]["segmentation"]


def test_masks_that_were_still_to_come(ready: Playground) -> None:
    """The ZIP says which photos were left before all their masks were there; opened once more they are complete."""
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    page.keyboard.press("n")
    page.route(GENERATE, lambda _: None)
    with page.expect_request(GENERATE):
        ready.click(*OFF)
    ready.use(encoded(disc_picture()), "disc.png", kind="image/png")
    page.unroute(GENERATE)
    ready.click(70, 50)
    ready.wait_for_mask()

    def count() -> int:
        with zipfile.ZipFile(io.BytesIO(ready.download("all"))) as archive:
            return len(json.loads(archive.read("coco.json"))["annotations"])

    assert count() == 2
    expect(ready.notice).to_contain_text("masks are missing")
    expect(ready.notice).to_contain_text("cat.jpg: 1 object.")
    page.keyboard.press("PageUp")
    expect(page.locator("#photos-name")).to_have_text("cat.jpg")
    ready.wait_for_mask()
    expect(ready.notice).to_be_hidden()
    page.keyboard.press("PageDown")
    expect(page.locator("#photos-name")).to_have_text("disc.png")
    ready.wait_for_mask()
    assert count() == 3
    expect(ready.notice).to_be_hidden()


def test_a_complete_file_takes_the_notice_away(ready: Playground) -> None:
    """It was about the one before."""
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    page.keyboard.press("n")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(GENERATE, hold)
    with page.expect_request(GENERATE):
        ready.click(*OFF)
    ready.download("coco")
    expect(ready.notice).to_contain_text("masks are missing")
    held[0].continue_()
    ready.wait_for_mask()
    ready.download("coco")
    expect(ready.notice).to_be_hidden()


def test_polygons_of_a_photo_that_is_left(ready: Playground) -> None:
    """Another photo opened during an export stops it, so that no file mixes both; the page says so."""
    page = ready.page
    ready.use(encoded(disc_picture()), "disc.png", kind="image/png")
    page.keyboard.press("PageUp")
    expect(page.locator("#photos-name")).to_have_text("cat.jpg")
    for place in (ON, OFF):
        page.keyboard.press("n")
        ready.click(*place)
        ready.wait_for_mask()
    files: list[str] = []
    page.on("download", lambda file: files.append(file.suggested_filename))
    held: list[Route] = []

    def hold(route: Route) -> None:
        if held:
            return route.continue_()
        return held.append(route)

    page.route(GENERATE, hold)
    button = page.locator("[data-export=polygons]")
    with page.expect_request(GENERATE):
        button.click()
    asked = ready.listen()
    page.keyboard.press("PageDown")
    expect(page.locator("#photos-name")).to_have_text("disc.png")
    expect(ready.status).to_contain_text("Export stopped")
    held[0].continue_()
    expect(button).not_to_have_class("is-busy")
    assert ([], []) == (asked, files)
    page.keyboard.press("PageUp")
    ready.wait_for_mask()
    polygons = json.loads(ready.download("polygons"))
    assert ("cat.jpg", 2) == (polygons["image"], len(polygons["objects"]))


def test_brush_and_eraser(ready: Playground) -> None:
    """Strokes add pixels to a mask and take them away, in every file; undo takes them back.

    A click keeps them, and sends the mask with them, so that the model continues from it.
    """
    page = ready.page
    ready.click(*ON)
    ready.wait_for_mask()
    before = png_pixels(ready.download("mask")) > 0
    page.keyboard.press("w")
    drag(ready, (400, 30), (430, 30), (430, 60))
    expect(ready.objects).to_have_text([re.compile("painted$")])
    page.keyboard.press("e")
    drag(ready, (ON[0] - 10, ON[1]), (ON[0] + 10, ON[1]))
    painted = png_pixels(ready.download("mask")) > 0
    runs = inside_of_runs(json.loads(ready.download("coco"))["annotations"][0]["segmentation"])
    np.testing.assert_array_equal(painted, runs)
    assert painted[30, 415]
    assert not painted[ON[1], ON[0]]
    changed = before != painted
    assert not changed[100:120, 20:60].any()
    (item,) = json.loads(ready.download("polygons"))["objects"]
    assert any(part["holes"] for part in item["polygons"])
    np.testing.assert_array_equal(painted, inside_of_polygons(item["polygons"], painted.shape))
    page.keyboard.press("a")
    asked = ready.listen()
    ready.click(330, 200)
    expect(ready.objects).to_contain_text(["2 clicks, painted"])
    ready.wait_for_mask()
    clicked = png_pixels(ready.download("mask")) > 0
    assert (clicked[30, 415], clicked[ON[1], ON[0]]) == (True, False)
    (body,) = asked
    sent = body["prompt"]["mask_input"].removeprefix("data:image/png;base64,")
    np.testing.assert_array_equal(painted, png_pixels(base64.b64decode(sent)) > 0)
    for _ in range(3):
        page.keyboard.press("Control+z")
    ready.wait_for_mask()
    np.testing.assert_array_equal(before, png_pixels(ready.download("mask")) > 0)


def test_painting_without_a_click(ready: Playground) -> None:
    """An object can be painted alone; nothing is asked of the server."""
    asked = ready.listen()
    ready.page.keyboard.press("w")
    drag(ready, (100, 100), (140, 100))
    ready.wait_for_mask()
    mask = png_pixels(ready.download("mask")) > 0
    assert (mask[100, 120], mask[200, 120]) == (True, False)
    assert asked == []
