"""What the playground remembers, and what it must not: answers, names, the photo before."""

import io
from typing import Any

import httpx2
import numpy as np
from asking import ask, only_mask
from chromium import Playground
from pictures import encoded, png_pixels
from PIL import Image, ImageOps
from playwright.sync_api import Route, expect

ON = (225, 150)
GENERATE = "**/api/generate"


def test_second_photo(playground: Playground, client: httpx2.Client, photo: bytes) -> None:
    """The same click on another photo of the same size, without a movement between, gives the other's mask."""
    page = playground.page
    playground.use(photo)
    with page.expect_response(GENERATE):
        playground.stage.hover(position=playground.place_of(*ON))
    page.mouse.down()
    page.mouse.up()
    playground.wait_for_mask()
    with Image.open(io.BytesIO(photo)) as picture:
        other = encoded(ImageOps.flip(picture.convert("RGB")))
    playground.use(other, "other.png", kind="image/png")
    page.mouse.down()
    page.mouse.up()
    playground.wait_for_mask()
    expected = only_mask(ask(client, other, prompt={"points": [list(ON)], "point_labels": [1]}))
    assert not np.array_equal(
        expected, only_mask(ask(client, photo, prompt={"points": [list(ON)], "point_labels": [1]}))
    )
    np.testing.assert_array_equal(expected, png_pixels(playground.download("mask")) > 0)


def test_cursor_stays_with_its_photo(playground: Playground, photo: bytes) -> None:
    """The keyboard's cursor and the first corner of a box are not taken along to another photo."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    for key in ("ArrowLeft", "b", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    playground.use(encoded(Image.new("RGB", (200, 100), (90, 120, 60))), "small.png", kind="image/png")
    asked = playground.listen()
    # These put a new cursor and a new corner into the middle; the old ones would make a click and a box.
    page.keyboard.press("Enter")
    page.keyboard.press("b")
    expect(playground.objects).to_have_count(0)
    assert asked == []


def test_last_photo_wins(playground: Playground) -> None:
    """A photo that takes long to decode does not replace one that was chosen after it."""
    page = playground.page
    slow, small = (encoded(Image.new("RGB", size, (90, 120, 60))) for size in ((300, 200), (200, 100)))
    page.evaluate(
        """() => {
            const { decode } = HTMLImageElement.prototype;
            HTMLImageElement.prototype.decode = async function () {
                HTMLImageElement.prototype.decode = decode;
                await new Promise((resolve) => (window.release = resolve));
                await decode.call(this);
            };
        }"""
    )
    playground.choose(slow, "slow.png", kind="image/png")
    page.wait_for_function("() => window.release")
    playground.use(small, "small.png", kind="image/png")
    page.evaluate(
        """async () => {
            window.release();
            // Time enough to take its place, were it to.
            for (let i = 0; i < 5; i++) await new Promise(requestAnimationFrame);
        }"""
    )
    playground.click(100, 50)
    expect(page.locator("#code")).to_contain_text("@small.png")


def test_undo_keeps_names(playground: Playground, photo: bytes) -> None:
    """A name that was given, and what is hidden, stay when clicks are undone and done again."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    playground.click(*ON)
    playground.click(300, 100)
    expect(playground.objects).to_contain_text(["2 clicks"])
    name = page.locator("#objects .name")
    name.fill("Cat")
    page.get_by_role("button", name="Hide Cat").click()
    page.keyboard.press("Control+z")
    expect(playground.objects).to_contain_text(["1 click"])
    expect(name).to_have_value("Cat")
    expect(page.get_by_role("button", name="Hide Cat")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Control+Shift+z")
    expect(playground.objects).to_contain_text(["2 clicks"])
    expect(name).to_have_value("Cat")


def test_cost(playground: Playground, photo: bytes) -> None:
    """Transfer is what the server's own total leaves of the time; the chart says how high it is."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")

    def slow(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(
            response=answer, headers=answer.headers | {"server-timing": "receive;dur=2, queue;dur=1, total;dur=90003"}
        )

    page.route(GENERATE, slow)
    playground.click(*ON)
    playground.wait_for_mask()
    parts = dict(zip(*(page.locator(f"#cost-parts {tag}").all_text_contents() for tag in ("dt", "dd")), strict=True))
    assert {"Transfer": "2.0 ms", "Queue": "1.0 ms", "Mask and rest": "90.0 s"} == {
        name: parts[name] for name in ("Transfer", "Queue", "Mask and rest")
    }
    total = page.locator("#cost-total").inner_text()
    assert total == f"Last request: {page.locator('#cost-chart .scale').inner_text()}"


def test_another_object_with_the_same_number(playground: Playground, photo: bytes) -> None:
    """After undo the next object gets the number of the one that is gone, but not its mask."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    before = shot(playground)
    playground.click(*ON)
    playground.wait_for_mask()
    page.keyboard.press("Control+z")
    expect(playground.objects).to_have_count(0)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(GENERATE, hold)
    with page.expect_request(GENERATE):
        playground.click(20, 20)
    page.mouse.move(0, 0)
    during = shot(playground)
    # Beside the new mark nothing is drawn on the photo.
    place = playground.place_of(*ON)
    around = np.s_[int(place["y"]) - 40 : int(place["y"]) + 40, int(place["x"]) - 40 : int(place["x"]) + 40]
    np.testing.assert_array_equal(before[around], during[around])
    for route in held:
        route.continue_()
    playground.wait_for_mask()


def shot(playground: Playground) -> Any:
    """What is seen of the stage: (height, width, 3)."""
    with Image.open(io.BytesIO(playground.stage.screenshot())) as picture:
        return np.asarray(picture.convert("RGB"))
