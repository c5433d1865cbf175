"""Pictures of the playground for the docs: docs/pictures/playground-*.jpg. Needs a Chromium.

.venv/bin/python scripts/screenshots.py
"""

import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from chromium import NAMES, Playground  # noqa: E402 - the tests know how to start a server and to find a browser
from serving import RunningServer, run_server  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
MOST_BYTES = 200_000
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 1.5}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 780},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


def example(playground: Playground, name: str) -> Page:
    """Open an example photo."""
    page = playground.page
    page.locator(f"[data-example='{name}']").click()
    playground.wait_until_ready()
    return page


def name_object(page: Page, number: int, name: str) -> None:
    """Give an object a name."""
    field = page.locator("#objects .name").nth(number)
    field.fill(name)
    field.blur()


def wide_light(playground: Playground) -> None:
    """A flower by one click, a second one by another."""
    page = example(playground, "dahlia.jpg")
    playground.click(300, 212)
    playground.wait_for_mask()
    name_object(page, 0, "Dahlia")
    page.locator("#new-object").click()
    playground.click(385, 395)
    playground.wait_for_mask()
    playground.click(420, 400)
    playground.wait_for_mask()
    name_object(page, 1, "Another one")
    page.mouse.move(0, 0)


def wide_dark(playground: Playground) -> None:
    """A cup, without what touches it, and the code in Python."""
    page = example(playground, "coffee.jpg")
    for x, y in ((330, 60), (300, 130), (290, 200)):
        playground.click(x, y)
        playground.wait_for_mask()
    for x, y in ((118, 272), (450, 209), (414, 92), (318, 306), (250, 300), (375, 285)):
        playground.click(x, y, modifiers=["Shift"])
        playground.wait_for_mask()
    name_object(page, 0, "Cup")
    page.locator("#tab-python").click()
    page.locator("#code").scroll_into_view_if_needed()
    page.mouse.move(0, 0)


def phone(playground: Playground) -> None:
    """A raccoon on a phone."""
    page = example(playground, "raccoon.jpg")
    for x, y in ((520, 200), (180, 130), (300, 260)):
        playground.click(x, y)
        playground.wait_for_mask()
    name_object(page, 0, "Raccoon")


SHOTS: dict[str, tuple[Callable[[Playground], None], dict[str, Any]]] = {
    "playground-light": (wide_light, WIDE | {"color_scheme": "light"}),
    "playground-dark": (wide_dark, WIDE | {"color_scheme": "dark"}),
    "playground-phone": (phone, PHONE | {"color_scheme": "light"}),
}


def shoot(browser: Browser, server: RunningServer, name: str) -> None:
    """Make one picture."""
    act, options = SHOTS[name]
    context = browser.new_context(**options)
    playground = Playground(context.new_page(), server)
    playground.open()
    act(playground)
    expect(playground.status).to_be_hidden()
    with Image.open(io.BytesIO(playground.page.screenshot())) as picture:
        write(picture.convert("RGB"), PICTURES / f"{name}.jpg")
    playground.check()
    context.close()


def write(picture: Image.Image, path: Path) -> None:
    """A JPEG of the best quality within the size limit."""
    for quality in range(90, 50, -4):
        picture.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size < MOST_BYTES:
            print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes, quality {quality}")
            return
    raise SystemExit(f"{path} is larger than {MOST_BYTES:,} bytes")


def main() -> None:
    """Make them all, or those named."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise SystemExit("no Chromium found")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    names = [name for name in SHOTS if not sys.argv[1:] or any(re.search(word, name) for word in sys.argv[1:])]
    with (
        tempfile.TemporaryDirectory() as folder,
        run_server(cache=Path(folder), env={"APP_ENV": "development"}) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        for name in names:
            shoot(browser, server, name)
        browser.close()


if __name__ == "__main__":
    main()
