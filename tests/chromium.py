"""Find a Chromium, and drive the playground in it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright
from serving import RunningServer
from skips import NO_CHROMIUM
from waiting import WAIT_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT_MS = 1000 * WAIT_S
KEY_NAME = "osamd.key"
# Chromium's own windows come with two pages for the menu of its address bar, which took a third of these tests' time.
# The others are what Playwright turns off, too, of what could matter here: this list replaces its list.
FEATURES_OFF = (
    *(
        "WebUIOmniboxPopup",
        "WebUIOmniboxAimPopup",
        "WebUIOmniboxFullPopup",
        "AimEnabled",
        "DestroyProfileOnBrowserClose",
    ),
    *("HttpsUpgrades", "LensOverlay", "MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding"),
    *("PreconnectToSearch", "ThirdPartyStoragePartitioning"),
)


@contextmanager
def run_chromium() -> Iterator[Browser]:
    """A browser until the block ends; skips without one."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(NO_CHROMIUM)
    arguments = [f"--disable-features={','.join(FEATURES_OFF)}"]
    # Chromium's sandbox refuses to run as root, which is what containers are.
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Playground:
    """A page of the playground, and all that went on in it.

    Attributes:
        page: the page.
        server: where it came from.
        prefix: the path in front of everything, without a slash at its end.
        complaints: errors of scripts and of the console, violations of the policy among them.
        addresses: of everything it asked for.
    """

    page: Page
    server: RunningServer
    prefix: str = ""
    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Load the page."""
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)
        self.page.set_default_timeout(WAIT_MS)
        self.page.goto(f"{self.server.url}{self.prefix}/playground")

    def _heard(self, message: ConsoleMessage) -> None:
        # Chromium writes a line for each answer that is an error, which is what some tests are about.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith("blob:"):
            self.addresses.append(request.url)

    def check(self) -> None:
        """There were no errors, and no requests except to our server."""
        assert self.complaints == []
        assert [address for address in self.addresses if not address.startswith(self.server.url)] == []

    def use(self, photo: bytes, name: str = "photo.jpg", *, kind: str = "image/jpeg") -> None:
        """Choose a photo, and wait until it can be clicked on."""
        self.choose(photo, name, kind=kind)
        # Until then a photo that is open already is ready.
        expect(self.page.locator("#photos-name")).to_have_text(name)
        self.wait_until_ready()

    def choose(self, photo: bytes, name: str = "photo.jpg", *, kind: str = "image/jpeg") -> None:
        """Choose a photo as a file."""
        self.page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": photo})

    def wait_until_ready(self) -> None:
        """Return when the photo is embedded."""
        expect(self.status).to_contain_text("Ready")

    def wait_until_embedded(self) -> None:
        """Return when the photo is embedded, objects or not."""
        expect(self.status).to_be_hidden()

    @property
    def status(self) -> Locator:
        """What the page is doing."""
        return self.page.locator("#status")

    @property
    def notice(self) -> Locator:
        """What has gone wrong."""
        return self.page.locator("#notice")

    @property
    def objects(self) -> Locator:
        """The lines under the objects' names."""
        return self.page.locator("#objects .about")

    def wait_for_mask(self) -> None:
        """Return when the active object has its mask."""
        expect(self.page.locator("#objects .is-active .about")).to_contain_text("%")

    def click(self, x: float, y: float, **options: Any) -> None:
        """Click on a pixel of the photo."""
        self.stage.click(position=self.place_of(x, y), **options)

    @property
    def stage(self) -> Locator:
        """What the photo lies on."""
        return self.page.locator("#stage")

    def place_of(self, x: float, y: float) -> Any:
        """Where the middle of a pixel lies on the stage, as the page tells."""
        left, top, scale = (float(self.stage.get_attribute(f"data-{name}") or "nan") for name in ("x", "y", "scale"))
        return {"x": left + (x + 0.5) * scale, "y": top + (y + 0.5) * scale}

    def listen(self) -> list[dict[str, Any]]:
        """Collect from now on what is asked of ``/api/generate``."""
        asked: list[dict[str, Any]] = []

        def heard(request: Request) -> None:
            if request.url.endswith("/api/generate"):
                asked.append(body_of(request))

        self.page.on("request", heard)
        return asked

    def download(self, kind: str) -> bytes:
        """What a button under "Export" gives."""
        with self.page.expect_download() as arriving:
            self.page.locator(f"[data-export={kind}]").click()
        return arriving.value.path().read_bytes()


def body_of(request: Request) -> dict[str, Any]:
    """The JSON a request carries."""
    body: dict[str, Any] = json.loads(request.post_data or "null")
    return body


Opener = Callable[..., Playground]
