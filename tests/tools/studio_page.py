"""Runs Label Studio itself, and drives its page in Chromium as a person would."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page, Request, Response
from serving import KEY, clean_environment, free_port, stop

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / ".venv-tools" / "label-studio" / "bin" / "label-studio"
PHOTO = ROOT / "examples" / "cat.jpg"
USER = {"email": "a@example.com", "password": "only-for-this-test"}
# It creates its database first, for minutes on a busy machine.
START_S = 900.0
PAGE_MS = 120_000
# Keys that choose the only label of each tag, in the order of the configuration.
LABEL_KEYS = {"mask": "1", "click": "2", "box": "3"}
TOOLS = {"click": "key-point-tool", "box": "rectangle-tool"}


@contextlib.contextmanager
def run_studio(folder: Path) -> Iterator[httpx2.Client]:
    """A Label Studio with a user until the block ends: a client that has signed in."""
    assert TOOL.exists(), "run make test-tools, which installs Label Studio"
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(TOOL), "start", "--no-browser", "--data-dir", str(folder), "--internal-host", "127.0.0.1"]
    command += ["--port", url.rpartition(":")[2], "--username", USER["email"], "--password", USER["password"]]
    # No reports to its makers, and ML backends on the loopback.
    off = ("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK", "ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")
    env = dict.fromkeys(off, "false") | {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "HOME": str(folder)}
    log = folder / "studio.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=clean_environment(env), stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx2.Client(base_url=url, timeout=PAGE_MS / 1000, headers={"Referer": url}, verify=False) as client:
            until = time.monotonic() + START_S
            while not is_up(client):
                assert process.poll() is None, log.read_text("utf-8", "replace")[-4000:]
                assert time.monotonic() < until, log.read_text("utf-8", "replace")[-4000:]
                time.sleep(0.2)
            sign_in(client, USER)
            yield client
    finally:
        stop(process)


def is_up(client: httpx2.Client) -> bool:
    """Whether it answers yet."""
    with contextlib.suppress(httpx2.TransportError):
        return client.get("/health").status_code == 200
    return False


def sign_in(client: httpx2.Client, user: Mapping[str, str]) -> None:
    """Keep the cookies of a user."""
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', client.get("/user/login/").text)
    assert token is not None
    signed_in = client.post("/user/login/", data={"csrfmiddlewaretoken": token[1], **user})
    assert signed_in.status_code == 302, signed_in.text
    client.headers["X-CSRFToken"] = client.cookies["csrftoken"]


@dataclass(frozen=True)
class Project:
    """A project with the photo as its only task, and a model of osamd as its ML backend."""

    studio: httpx2.Client
    number: int
    task: int

    def stored(self, kind: str) -> list[dict[str, Any]]:
        """The regions of the task's only annotation or prediction, as Label Studio's API has them."""
        (found,) = self.studio.get(f"/api/tasks/{self.task}").json()[kind]
        regions: list[dict[str, Any]] = found["result"]
        return regions


def connected_project(studio: httpx2.Client, backend: str, config: str) -> Project:
    """Make one, as the guide says.

    Args:
        studio: who makes it.
        backend: the backend's URL.
        config: the labelling configuration.
    """
    number = studio.post("/api/projects", json={"title": "cats", "label_config": config}).json()["id"]
    photo = {"file": ("cat.jpg", PHOTO.read_bytes(), "image/jpeg")}
    assert studio.post(f"/api/projects/{number}/import", files=photo).status_code == 201
    task = studio.get("/api/tasks", params={"project": number}).json()["tasks"][0]["id"]
    asked = {"url": backend, "project": number, "is_interactive": True}
    refused = studio.post("/api/ml", json=asked)
    assert "authentication parameters" in refused.text
    asked |= {"auth_method": "BASIC_AUTH", "basic_auth_user": "osamd", "basic_auth_pass": KEY}
    assert studio.post("/api/ml", json=asked).json()["state"] == "CO"
    return Project(studio, number, task)


class StudioPage:
    """A page of a project.

    Args:
        browser: shows it.
        project: whose page.
    """

    def __init__(self, browser: Browser, project: Project) -> None:
        self.root = str(project.studio.base_url).rstrip("/")
        self.project = project
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        cookies = project.studio.cookies.items()
        context.add_cookies([{"name": name, "value": value, "url": self.root} for name, value in cookies])
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PAGE_MS)
        # Nothing beyond the loopback.
        self.page.route(lambda url: not url.startswith((self.root, "data:", "blob:")), lambda route: route.abort())

    def open_task(self, *, regions: int = 0) -> None:
        """Open or reload the task, and switch Auto-Annotation on.

        Args:
            regions: how many are in the draft, which arrives later than the photo.
        """
        self.page.goto(f"{self.root}/projects/{self.project.number}/data?task={self.project.task}")
        self.page.locator("canvas").first.wait_for()
        self.page.wait_for_function("n => Htx.annotationStore.selected.areas.size === n", arg=regions)
        if not self.page.evaluate("Htx.autoAnnotation"):
            self.page.get_by_test_id("bottombar-auto-annotation-toggle").dispatch_event("click")
        self.page.wait_for_function("Htx.autoAnnotation")

    def choose(self, tag: str) -> None:
        """Choose a tag's Auto-Detect tool and its label, which Label Studio drops after each use."""
        tool = self.page.get_by_label(TOOLS[tag], exact=True)
        if not self.page.evaluate(f"Htx.annotationStore.selected.names.get('{tag}').isSelected"):
            self.page.keyboard.press(LABEL_KEYS[tag])
        # The tools for a label are shown with it; those beside the chosen one, below the pointer.
        self.page.locator("button.lsf-tool_smart").first.hover()
        tool.last.click()
        self.page.wait_for_function(f"Htx.annotationStore.selected.names.get('{tag}').isSelected")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a fraction of the photo is on the page."""
        box = self.page.locator("canvas").first.bounding_box()
        assert box is not None
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    @contextlib.contextmanager
    def suggestion(self) -> Iterator[list[dict[str, Any]]]:
        """The regions that the page asks with within the block, and after them the one that it shows."""
        told: list[dict[str, Any]] = []
        with self.page.expect_response(lambda response: "interactive-annotating" in response.url) as waited:
            yield told
        told += asked_regions(waited.value.request)
        (region,) = waited.value.json()["data"]["result"]
        told.append(region)
        # Its id gets a suffix there.
        self.page.wait_for_function(
            "id => [...Htx.annotationStore.selected.suggestions.keys()].some(key => key.split('#')[0] === id)",
            arg=region["id"],
        )

    def click(self, x: float, y: float, *, excludes: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Click at a fraction of the photo: the regions asked with, and the one suggested."""
        self.choose("click")
        with self.suggestion() as told:
            if excludes:
                self.page.keyboard.down("Alt")
            self.page.mouse.click(*self.place(x, y))
            if excludes:
                self.page.keyboard.up("Alt")
        return told[:-1], told[-1]

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Draw a box between fractions of the photo: the regions asked with, and the one suggested."""
        self.choose("box")
        with self.suggestion() as told:
            self.page.mouse.move(*self.place(*start))
            self.page.mouse.down()
            self.page.mouse.move(*self.place((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
            self.page.mouse.move(*self.place(*end))
            self.page.mouse.up()
        return told[:-1], told[-1]

    @contextlib.contextmanager
    def draft_of(self, regions: int) -> Iterator[None]:
        """Wait until a draft with so many regions has been saved, which happens some seconds later."""

        def is_it(response: Response) -> bool:
            if "/drafts" not in response.url or response.request.method not in {"POST", "PATCH"}:
                return False
            draft: Any = response.request.post_data_json
            return len(draft["result"]) == regions

        with self.page.expect_response(is_it):
            yield

    def accept(self) -> None:
        """Accept the suggestion."""
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        self.page.wait_for_function("Htx.annotationStore.selected.suggestions.size === 0")

    def submit(self) -> None:
        """Submit the annotation."""
        with self.page.expect_response(lambda response: "/annotations" in response.url) as waited:
            self.page.get_by_test_id("bottombar-submit-button").click()
        assert waited.value.status == 201
        self.page.get_by_test_id("bottombar-update-button").wait_for()

    def retrieve_predictions(self) -> None:
        """In the table of tasks: choose all, and Retrieve Predictions."""
        self.page.goto(f"{self.root}/projects/{self.project.number}/data")
        self.page.get_by_role("checkbox").first.click()
        self.page.get_by_label("Tasks Actions").click()
        self.page.get_by_text("Retrieve Predictions").click()

        def is_it(response: Response) -> bool:
            return response.request.method == "POST" and "id=retrieve_tasks_predictions" in response.url

        with self.page.expect_response(is_it) as waited:
            self.page.get_by_test_id("dialog-ok-button").click()
        assert waited.value.status == 200


def asked_regions(request: Request) -> list[dict[str, Any]]:
    """The regions of an interactive call."""
    body: Any = request.post_data_json
    regions: list[dict[str, Any]] = body["context"]["result"]
    return regions
