"""The playground in a real Chromium: from the key to the files one takes away."""

import hashlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import ask, only_mask
from chromium import KEY_NAME, Opener, Playground, body_of
from codes import run_code
from pictures import disc_picture, encoded, inside_of_runs, png_pixels
from PIL import Image, ImageOps
from playwright.sync_api import expect
from serving import KEY, RunningServer, run_server

# On the cat; the second does not belong to it.
ON, OFF = (225, 150), (420, 40)
PROMPT = {"points": [list(ON), list(OFF)], "point_labels": [1, 0]}


def test_from_the_key_to_the_mask(
    open_playground: Opener, server: RunningServer, client: httpx2.Client, photo: bytes
) -> None:
    """The key is asked for, a wrong one refused, the right one kept in the tab alone; the mask is the API's."""
    playground = open_playground(server, key=None)
    page = playground.page
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    page.locator("#key-input").fill("wrong-key")
    page.keyboard.press("Enter")
    expect(page.locator("#key-wrong")).to_contain_text("rejected this key")
    page.locator("#key-input").fill(KEY)
    page.get_by_role("button", name="Use key").click()
    expect(page.locator("#model-name")).to_have_text("builtin")
    expect(dialog).to_be_hidden()

    playground.use(photo, "cat.jpg")
    playground.click(*ON)
    playground.wait_for_mask()
    mask = png_pixels(playground.download("mask"))

    expected = only_mask(ask(client, photo, prompt={"points": [list(ON)], "point_labels": [1]}))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(np.where(expected, 255, 0), mask)
    kept = page.evaluate("() => [Object.values(sessionStorage), JSON.stringify(localStorage), document.cookie]")
    assert ([KEY], "") == (kept[0], kept[2])
    assert KEY not in kept[1]
    assert [address for address in playground.addresses if KEY in address] == []
    assert KEY not in page.content()


def test_what_is_taken_away(playground: Playground, client: httpx2.Client, photo: bytes) -> None:
    """Cut-out, COCO and polygons of two objects are the API's masks; the cut-out has the photo's pixels."""
    playground.use(photo, "cat.jpg")
    playground.click(*ON)
    playground.wait_for_mask()
    playground.click(*OFF, modifiers=["Shift"])
    expect(playground.objects).to_contain_text(["2 clicks"])
    playground.page.keyboard.press("n")
    playground.click(315, 90)
    expect(playground.objects).to_contain_text(["%", "1 click"])
    playground.wait_for_mask()
    playground.page.get_by_role("button", name="Select Object 1").click()
    playground.page.locator("#objects .name").first.fill("Tom's café")

    coco = json.loads(playground.download("coco"))
    polygons = json.loads(playground.download("polygons"))
    with Image.open(io.BytesIO(playground.download("cutout"))) as picture:
        cutout = np.asarray(picture)

    prompts = [PROMPT, {"points": [[315, 90]], "point_labels": [1]}]
    masks = [only_mask(ask(client, photo, prompt=prompt)) for prompt in prompts]
    assert [{"id": 1, "file_name": "cat.jpg", "width": 451, "height": 300}] == coco["images"]
    assert ["Tom's café", "Object 2"] == [category["name"] for category in coco["categories"]]
    for mask, annotation in zip(masks, coco["annotations"], strict=True):
        np.testing.assert_array_equal(mask, inside_of_runs(annotation["segmentation"]))
        assert mask.sum() == annotation["area"]
    runs = [ask(client, photo, prompt=prompt, mask_format="rle")["annotations"][0]["mask"] for prompt in prompts]
    assert runs == [annotation["segmentation"] for annotation in coco["annotations"]]
    traced = [ask(client, photo, prompt=prompt, mask_format="polygon")["annotations"][0]["mask"] for prompt in prompts]
    assert traced == [item["polygons"] for item in polygons["objects"]]
    x, y, width, height = coco["annotations"][0]["bbox"]
    np.testing.assert_array_equal(np.where(masks[0], 255, 0)[y : y + height, x : x + width], cutout[:, :, 3])
    with Image.open(io.BytesIO(photo)) as picture:
        window = np.asarray(picture.convert("RGB"))[y : y + height, x : x + width]
    # Two JPEG decoders.
    assert np.abs(window.astype(int) - cutout[:, :, :3]).mean() < 3


def test_code_does_what_was_done(
    playground: Playground, server: RunningServer, client: httpx2.Client, photo: bytes, tmp_path: Path
) -> None:
    """The code that is copied gives the same mask when it is run, with the key from the environment."""
    name = "it's a cat.jpg"
    (tmp_path / name).write_bytes(photo)
    playground.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    playground.use(photo, name)
    playground.click(*ON)
    playground.click(*OFF, modifiers=["Shift"])
    expect(playground.objects).to_contain_text(["2 clicks"])
    playground.wait_for_mask()
    codes = {}
    for language in ("curl", "python", "javascript"):
        playground.page.locator(f"#tab-{language}").click()
        playground.page.locator("#copy").click()
        expect(playground.page.get_by_label("Copied")).to_be_visible()
        codes[language] = playground.page.evaluate("() => navigator.clipboard.readText()")
        assert KEY not in codes[language]

    expected = only_mask(ask(client, photo, prompt=PROMPT))
    for language in ("curl", "python", "javascript"):
        if language != "python" and not shutil.which({"javascript": "node"}.get(language, language)):
            continue
        run_code(language, codes[language], tmp_path)
        mask = tmp_path / ("mask-0.png" if language == "python" else "mask.png")
        np.testing.assert_array_equal(expected, png_pixels(mask.read_bytes()) > 0, language)
        mask.unlink()


def test_undo_and_keyboard(playground: Playground, photo: bytes) -> None:
    """Everything is done without a pointer; undo and redo give back what was there, without asking again."""
    asked = playground.listen()
    page = playground.page
    playground.use(photo)
    expect(playground.stage).to_be_focused()
    page.keyboard.press("p")  # previews would be asked for as well
    page.keyboard.press("ArrowLeft")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    playground.wait_for_mask()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Enter")
    expect(playground.objects).to_contain_text(["2 clicks"])
    playground.wait_for_mask()
    prompts = [body["prompt"] for body in asked]
    (x, y), (other_x, other_y) = prompts[1]["points"]
    assert [[1], [1, 0]] == [prompt["point_labels"] for prompt in prompts]
    assert prompts[0]["points"] == [[x, y]]
    assert (x, True) == (other_x, other_y > y)

    page.keyboard.press("Control+z")
    expect(playground.objects).to_contain_text(["1 click"])
    page.keyboard.press("Control+z")
    expect(playground.objects).to_have_count(0)
    page.keyboard.press("Control+y")
    page.keyboard.press("Control+Shift+z")
    expect(playground.objects).to_contain_text(["2 clicks"])
    page.keyboard.press("Delete")
    expect(playground.objects).to_have_count(0)
    assert len(asked) == 2
    for key in ("b", *["ArrowRight"] * 6, *["ArrowDown"] * 6, "b"):
        page.keyboard.press(key)
    playground.wait_for_mask()
    x1, y1, x2, y2 = asked[2]["prompt"]["box"]
    assert (x2 > x1, y2 > y1) == (True, True)


def test_mouse(playground: Playground, photo: bytes) -> None:
    """The mask follows the pointer before a click; the right button takes back, dragging makes a box."""
    asked = playground.listen()
    page = playground.page
    with page.expect_request("**/api/embed*") as sent:
        playground.use(photo)
    with page.expect_response("**/api/generate") as previewed:
        playground.stage.hover(position=playground.place_of(*ON))
    # The same server should get the photo and the clicks on it.
    route = hashlib.sha256(photo).hexdigest()[:8]
    assert [route] * 2 == [one.headers["x-osamd-image"] for one in (sent.value, previewed.value.request)]
    assert body_of(previewed.value.request)["prompt"] == {"points": [list(ON)], "point_labels": [1]}
    expect(playground.objects).to_have_count(0)
    assert previewed.value.ok
    playground.click(*ON)
    playground.wait_for_mask()
    # The mask was there already: the click asked for nothing more.
    assert [body["prompt"] for body in asked] == [{"points": [list(ON)], "point_labels": [1]}]
    expect(page.locator("#cost-total")).to_contain_text("Last request")
    page.keyboard.press("p")
    playground.click(*OFF, button="right")
    expect(playground.objects).to_contain_text(["2 clicks"])
    playground.wait_for_mask()
    assert asked[-1]["prompt"] == PROMPT
    page.keyboard.press("n")
    box = playground.stage.bounding_box()
    assert box is not None
    for step, (x, y) in (("down", (60, 20)), ("move", (200, 100)), ("up", (400, 290))):
        place = playground.place_of(x, y)
        page.mouse.move(box["x"] + place["x"], box["y"] + place["y"])
        if step != "move":
            getattr(page.mouse, step)()
    playground.wait_for_mask()
    assert asked[-1]["prompt"] == {"box": [60, 20, 400, 290]}


def test_touch(open_playground: Opener, server: RunningServer, photo: bytes) -> None:
    """On a phone a tap is a click, two fingers zoom, and one finger moves the photo."""
    playground = open_playground(
        server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=3
    )
    page = playground.page
    playground.use(photo)
    box = playground.stage.bounding_box()
    assert box is not None
    place = playground.place_of(*ON)
    x, y = box["x"] + place["x"], box["y"] + place["y"]
    with page.expect_request("**/api/generate") as tapped:
        page.touchscreen.tap(x, y)
    assert body_of(tapped.value)["prompt"]["points"] == [list(ON)]
    playground.wait_for_mask()
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": px, "y": py, "id": index} for index, (px, py) in enumerate(points)]},
        )

    scale = float(playground.stage.get_attribute("data-scale") or 0)
    touch("touchStart", (x - 20, y), (x + 20, y))
    touch("touchMove", (x - 60, y), (x + 60, y))
    assert float(playground.stage.get_attribute("data-scale") or 0) == pytest.approx(3 * scale, rel=0.1)
    touch("touchEnd")
    # One finger leaves before the other, which moves the photo on. The browser's own way lifts all of them at once.
    left = float(playground.stage.get_attribute("data-x") or 0)
    page.evaluate(
        """(events) => {
            const stage = document.getElementById("stage");
            stage.setPointerCapture = () => {};
            for (const [kind, pointerId, clientX, clientY] of events) {
                const more = { pointerId, clientX, clientY, pointerType: "touch", bubbles: true };
                stage.dispatchEvent(new PointerEvent(`pointer${kind}`, more));
            }
        }""",
        [
            ["down", 91, x - 60, y],
            ["down", 92, x + 60, y],
            ["up", 92, x + 60, y],
            ["move", 91, x - 40, y],
            ["up", 91, x - 40, y],
        ],
    )
    assert float(playground.stage.get_attribute("data-x") or 0) == pytest.approx(left + 20, abs=1)
    left = float(playground.stage.get_attribute("data-x") or 0)
    touch("touchStart", (x, y))
    touch("touchMove", (x + 20, y))
    touch("touchMove", (x + 50, y))
    touch("touchEnd")
    assert float(playground.stage.get_attribute("data-x") or 0) == pytest.approx(left + 50, abs=1)
    expect(playground.objects).to_contain_text(["1 click"])
    page.evaluate("() => (document.getElementById('model-name').textContent = 'a-model-with-a-name:300m')")
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
    page.get_by_role("button", name="Shortcuts").click()
    expect(page.get_by_role("heading", name="Mouse, touch and keys")).to_be_visible()


@pytest.mark.parametrize("ratio", [1, 2.5])
def test_clicks_land_on_the_pixel_that_is_seen(open_playground: Opener, server: RunningServer, ratio: float) -> None:
    """A red pixel of a photo that is stored turned, found in a screenshot, is the one that a click on it sends."""
    upright = Image.new("RGB", (300, 200), (20, 30, 60))
    red = (211, 77)
    upright.putpixel(red, (255, 0, 0))
    stored = turned(upright, "PNG")
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))), np.asarray(upright))
    playground = open_playground(server, device_scale_factor=ratio, viewport={"width": 900, "height": 500})
    page = playground.page
    playground.use(stored, "turned.png", kind="image/png")
    page.keyboard.press("p")
    # Never answered: with the answer to the first click at hand, the page would not ask again for the same pixel.
    page.route("**/api/generate", lambda _: None)
    for zoom in (0, -900):
        if zoom:
            page.mouse.move(*at_red(playground, ratio))
            page.mouse.wheel(0, zoom)
        with page.expect_request("**/api/generate") as clicked:
            page.mouse.click(*at_red(playground, ratio))
        assert body_of(clicked.value)["prompt"]["points"] == [list(red)]
        page.keyboard.press("Control+z")
        expect(playground.objects).to_have_count(0)


def turned(upright: Image.Image, kind: str, **options: Any) -> bytes:
    """A file in which a picture lies on its side, with the word that it is to be turned by 90 degrees to the left."""
    exif = Image.Exif()
    exif[0x0112] = 8
    return encoded(upright.transpose(Image.Transpose.ROTATE_270), kind, exif=exif, **options)


def at_red(playground: Playground, ratio: float) -> tuple[float, float]:
    """The middle of what is red in a screenshot, in pixels of the page."""
    with Image.open(io.BytesIO(playground.page.screenshot())) as picture:
        seen = np.asarray(picture.convert("RGB")).astype(int)
    stage = playground.stage.bounding_box()
    assert stage is not None
    is_red = (seen[:, :, 0] > 120) & (seen[:, :, 1] < 60) & (seen[:, :, 2] < 80)
    is_red[: int(stage["y"] * ratio)] = False
    rows, columns = np.nonzero(is_red)
    return float(columns.mean() + 0.5) / ratio, float(rows.mean() + 0.5) / ratio


def test_24_megapixels(playground: Playground, client: httpx2.Client) -> None:
    """A large photo, stored turned, is sent as it is and drawn from a smaller copy; none of its pixels is lost."""
    upright = disc_picture().resize((6000, 4000), Image.Resampling.NEAREST)
    red = (1754, 1251)
    upright.paste((255, 0, 0), (red[0] - 1, red[1] - 1, red[0] + 2, red[1] + 2))
    photo = turned(upright, "JPEG", quality=90, subsampling=0)
    page = playground.page
    playground.use(photo, "big.jpg")
    expect(page.locator("#cost-facts")).to_contain_text(f"Sent{len(photo) / 1000:.0f} kB")
    page.keyboard.press("p")
    playground.click(1750, 1250)
    playground.wait_for_mask()
    mask = png_pixels(playground.download("mask"))
    with Image.open(io.BytesIO(playground.download("cutout"))) as picture:
        cutout = np.asarray(picture)

    expected = only_mask(ask(client, photo, prompt={"points": [[1750, 1250]], "point_labels": [1]}))
    assert mask.shape == (4000, 6000)
    np.testing.assert_array_equal(expected, mask > 0)
    rows, columns = np.nonzero(expected)
    top, left = rows.min(), columns.min()
    np.testing.assert_array_equal(expected[top : rows.max() + 1, left : columns.max() + 1], cutout[:, :, 3] > 0)
    assert np.abs(cutout[red[1] - top, red[0] - left, :3].astype(int) - (255, 0, 0)).max() < 60
    # Three pixels of 6000 are a red spot only where the photo's own pixels are drawn.
    page.keyboard.press("Control+z")
    box = playground.stage.bounding_box()
    assert box is not None
    place = playground.place_of(*red)
    page.mouse.move(box["x"] + place["x"], box["y"] + place["y"])
    page.mouse.wheel(0, -2600)
    expect(playground.stage).to_have_attribute("data-is-sharp", "true")
    with page.expect_request("**/api/generate") as clicked:
        page.mouse.click(*at_red(playground, 1))
    assert body_of(clicked.value)["prompt"]["points"] == [list(red)]


def test_dropped_and_pasted(playground: Playground, photo: bytes) -> None:
    """A photo comes by dropping and by pasting too; what is no picture is refused in words."""
    page = playground.page
    give = """([bytes, kind, name, how]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], name, { type: kind }));
        const event = how === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
            : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    page.evaluate(give, [list(photo), "image/jpeg", "a.jpg", "drop"])
    playground.wait_until_ready()
    page.evaluate(give, [list(encoded(disc_picture())), "image/png", "b.png", "paste"])
    playground.wait_until_ready()
    playground.click(70, 50)
    playground.wait_for_mask()
    expect(page.locator("#code")).to_contain_text("pasted.png")
    page.evaluate(give, [[1, 2, 3], "text/plain", "c.txt", "drop"])
    expect(playground.notice).to_contain_text("Expected an image: JPEG")
    page.evaluate(give, [[1, 2, 3], "image/png", "d.png", "drop"])
    expect(playground.notice).to_contain_text("d.png cannot be opened")


def test_text_that_carries_a_picture(playground: Playground, photo: bytes) -> None:
    """Cells of a table, which are copied as text and as a picture, are text in a field and a photo elsewhere."""
    page = playground.page
    give = """([bytes, place]) => {
        const data = new DataTransfer();
        data.items.add("cup, spoon", "text/plain");
        data.items.add(new File([Uint8Array.from(bytes)], "cells.png", { type: "image/png" }));
        const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
        document.querySelector(place).dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    assert page.evaluate(give, [list(photo), "#class-input"]) is False
    assert page.evaluate(give, [list(photo), "body"]) is True
    playground.wait_until_ready()
    expect(page.locator("#photos")).to_be_hidden()


def test_behind_a_prefix(open_playground: Opener, tmp_path: Path) -> None:
    """Behind a path prefix everything works, examples and docs too, without a word about the prefix in the page."""
    script = (
        "import uvicorn; from starlette.applications import Starlette; from starlette.routing import Mount;"
        " from osamd.server.app import create_app; from osamd.settings import load_settings; s = load_settings();"
        " uvicorn.run(Starlette(routes=[Mount('/seg/one', create_app(s))]), port=s.port)"
    )
    with run_server(
        cache=tmp_path, env={"API_KEY": KEY}, command=(sys.executable, "-c", script), wait_for="/seg/one/health"
    ) as server:
        playground = open_playground(server, prefix="/seg/one")
        playground.page.locator("[data-example='cat.jpg']").click()
        playground.wait_until_ready()
        playground.click(*ON)
        playground.wait_for_mask()
        expect(playground.page.locator("#code")).to_contain_text(f"{server.url}/seg/one/api/generate?")
        # In a new tab, so that the work in this one stays.
        with playground.page.expect_popup() as docs:
            playground.page.get_by_role("link", name="API docs").click()
        expect(docs.value).to_have_url(f"{server.url}/seg/one/docs")
        docs.value.get_by_role("link", name="Playground").click()
        expect(docs.value).to_have_url(f"{server.url}/seg/one/playground")
        playground.wait_for_mask()


def test_key_is_gone_with_the_tab(open_playground: Opener, server: RunningServer) -> None:
    """Another tab does not know the key, and Forget forgets it."""
    playground = open_playground(server, key=None)
    playground.page.locator("#key-input").fill(KEY)
    playground.page.keyboard.press("Enter")
    expect(playground.page.locator("#model-name")).to_have_text("builtin")
    other = playground.page.context.new_page()
    other.goto(f"{server.url}/playground")
    expect(other.locator("#key-dialog")).to_be_visible()
    playground.page.get_by_role("button", name="Key in use").click()
    playground.page.get_by_role("button", name="Forget key").click()
    assert playground.page.evaluate(f"() => sessionStorage.getItem({KEY_NAME!r})") is None
