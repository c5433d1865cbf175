"""What the playground does when something is in the way: it says what, and goes on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import Opener, Playground
from playwright.sync_api import Route, expect
from serving import KEY, RunningServer, gated_command, run_server

GENERATE, EMBED, CATALOG = "**/api/generate", "**/api/embed*", "**/api/catalog"
ON = (225, 150)
# The longest wait that the page takes from a server: it does not try by itself before a test presses the button.
LONG_S = 120
# The longest wait that it chooses itself.
OWN_S = 15


def problem(status: int, code: str, *, retry_after: int | None = LONG_S) -> dict[str, Any]:
    """An answer of osamd's that is an error."""
    body = {"type": "about:blank", "title": code, "status": status, "detail": "no", "code": code, "request_id": "r1"}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return {"status": status, "content_type": "application/problem+json", "headers": headers, "body": json.dumps(body)}


# What a host's proxy says while it wakes the machine up.
ASLEEP: dict[str, Any] = {"status": 502, "content_type": "text/html", "body": "<h1>Bad Gateway</h1>"}
STARTING: dict[str, Any] = {"status": 200, "content_type": "text/html", "body": "<p>Starting"}


@pytest.mark.parametrize(
    ("answer", "kind", "title"),
    [
        (problem(503, "overloaded"), "full", "The server is busy"),
        (problem(503, "model_pulling"), "pulling", "The model is being downloaded"),
    ],
)
def test_waits_are_waited_out(
    playground: Playground, photo: bytes, answer: dict[str, Any], kind: str, title: str
) -> None:
    """What is in the way is named, the wait is the one the server asks for, and the click is not lost."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    page.route(GENERATE, lambda route: route.fulfill(**answer))
    playground.click(*ON)
    expect(playground.notice).to_have_attribute("data-kind", kind)
    expect(playground.notice).to_contain_text(title)
    expect(playground.notice).to_contain_text("Next try in")
    seconds = int("".join(filter(str.isdigit, page.locator(".countdown").inner_text())))
    assert OWN_S < seconds <= LONG_S
    page.unroute(GENERATE)
    page.get_by_role("button", name="Try now").click()
    playground.wait_for_mask()
    expect(playground.notice).to_be_hidden()


def test_wait_that_nobody_needs_ends(playground: Playground, photo: bytes) -> None:
    """Undoing the click that waits ends its wait, and the notice goes."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    page.route(GENERATE, lambda route: route.fulfill(**problem(503, "overloaded")))
    playground.click(*ON)
    expect(playground.notice).to_contain_text("Next try in")
    page.keyboard.press("Control+z")
    expect(playground.notice).to_be_hidden()


def test_trying_ends(open_playground: Opener, server: RunningServer, photo: bytes) -> None:
    """What does not mend in five minutes, or was too slow twice, is tried again only when somebody says so."""
    # The clock is the context's.
    playground = open_playground(server, is_shared=False)
    page = playground.page
    page.clock.install()
    playground.use(photo)
    page.keyboard.press("p")
    answers = [problem(503, "overloaded", retry_after=seconds) for seconds in (120, 110, 100, 90)]
    answers += [problem(504, "deadline_exceeded", retry_after=80)] * 2
    page.route(GENERATE, lambda route: route.fulfill(**answers.pop(0)))
    again = page.get_by_role("button", name="Try again")
    playground.click(*ON)
    for seconds in (r"120|11\d", r"110|10\d", r"100|9\d"):
        expect(playground.notice).to_contain_text(re.compile(f"Next try in ({seconds})\\s"))
        page.clock.fast_forward(121_000)
    expect(again).to_be_visible()
    expect(playground.notice).to_contain_text("The server is busy")
    again.click()
    expect(playground.notice).to_contain_text(re.compile(r"Next try in (80|7\d)\s"))
    page.clock.fast_forward(121_000)
    expect(again).to_be_visible()
    expect(playground.notice).to_contain_text("The request timed out")
    assert answers == []
    page.unroute(GENERATE)
    again.click()
    playground.wait_for_mask()


def test_spent_limit(open_playground: Opener, tmp_path: Path, photo: bytes) -> None:
    """A server that lets this key ask twice a minute answers 429 to the first click; the page says when it goes on."""
    env = {"API_KEY": KEY, "OSAMD_REQUESTS_PER_MINUTE": "2"}
    with run_server(cache=tmp_path, env=env) as server:
        playground = open_playground(server)
        playground.use(photo)
        playground.click(*ON)
        expect(playground.notice).to_have_attribute("data-kind", "limit")
        expect(playground.notice).to_contain_text("Too many requests")
        seconds = int("".join(filter(str.isdigit, playground.page.locator(".countdown").inner_text())))
        assert 1 <= seconds <= 30


def test_sleeping_host(open_playground: Opener, server: RunningServer, photo: bytes) -> None:
    """A host that answers in the server's place is taken for one that wakes it up; the page tries by itself."""
    playground = open_playground(server, key=None)
    page = playground.page
    expect(page.locator("#key-dialog")).to_be_visible()
    answers = [ASLEEP]

    def wake(route: Route) -> None:
        if answers:
            route.fulfill(**answers.pop())
        else:
            route.continue_()

    page.route(CATALOG, wake)
    page.locator("#key-input").fill(KEY)
    page.keyboard.press("Enter")
    expect(playground.notice).to_contain_text("The server is starting")
    expect(page.locator("#model-name")).to_have_text("builtin")
    assert answers == []
    page.unroute(CATALOG)
    # A page of the host's own with a good status is no answer of the server's either.
    answers = [STARTING]
    later = ASLEEP | {"headers": {"Retry-After": str(LONG_S)}}
    page.route(EMBED, lambda route: route.fulfill(**(answers.pop() if answers else later)))
    playground.choose(photo)
    expect(playground.notice).to_contain_text("The server is starting")
    expect(playground.notice).to_contain_text(re.compile(r"Next try in 1\d\d\s"))
    assert answers == []
    page.unroute(EMBED)
    page.get_by_role("button", name="Try now").click()
    playground.wait_until_ready()


def test_offline_and_stopped(playground: Playground, photo: bytes) -> None:
    """Without a connection it waits for it and goes on by itself; what the user stops can be tried again."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    page.context.set_offline(offline=True)
    playground.click(*ON)
    expect(playground.notice).to_contain_text("You are offline")
    page.context.set_offline(offline=False)
    playground.wait_for_mask()
    expect(playground.notice).to_be_hidden()
    page.route(GENERATE, lambda route: route.abort("connectionrefused"))
    page.keyboard.press("n")
    playground.click(315, 90)
    expect(playground.notice).to_contain_text("The server cannot be reached")
    page.get_by_role("button", name="Stop").click()
    expect(playground.notice).to_contain_text("Stopped")
    expect(playground.objects.last).to_have_text("No answer")
    page.unroute(GENERATE)
    page.get_by_role("button", name="Try again").click()
    playground.wait_for_mask()


def test_key_that_was_withdrawn(playground: Playground, photo: bytes) -> None:
    """A key that is refused in the middle is asked for again, and the click that ran into it is answered."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    page.route(GENERATE, lambda route: route.fulfill(**problem(403, "access_denied", retry_after=None)))
    playground.click(*ON)
    expect(page.locator("#key-wrong")).to_contain_text("rejected this key")
    page.unroute(GENERATE)
    page.locator("#key-input").fill(KEY)
    page.keyboard.press("Enter")
    playground.wait_for_mask()


def test_forgotten_photo_is_sent_again(playground: Playground, photo: bytes) -> None:
    """A handle that the server no longer knows costs the user nothing."""
    page = playground.page
    with page.expect_response(EMBED) as embedded:
        playground.use(photo)
    page.keyboard.press("p")
    handle = embedded.value.json()["image_id"]
    with playground.server.client() as client:
        client.delete(f"/api/images/{handle}")
    with page.expect_response(EMBED):
        playground.click(*ON)
    playground.wait_for_mask()
    expect(playground.notice).to_be_hidden()


def test_refusal_is_told(playground: Playground, photo: bytes) -> None:
    """What cannot be mended by waiting is told in the server's own words, once."""
    page = playground.page
    playground.use(photo)
    page.keyboard.press("p")
    answer = problem(422, "invalid_prompt", retry_after=None)
    page.route(
        GENERATE, lambda route: route.fulfill(**answer | {"body": answer["body"].replace('"no"', '"too <b>big"')})
    )
    playground.click(*ON)
    expect(playground.notice).to_contain_text("too <b>big")
    page.get_by_role("button", name="Close").click()
    expect(playground.notice).to_be_hidden()


def test_progress_is_honest(open_playground: Opener, tmp_path: Path, photo: bytes) -> None:
    """While the model reads the photo the page says so; a click made meanwhile is answered when it is done."""
    gate = tmp_path / "gate"
    command = gated_command("encode", gate)
    with run_server(cache=tmp_path, env={"API_KEY": KEY}, command=command, wait_for="/health") as server:
        playground = open_playground(server)
        playground.choose(photo)
        expect(playground.status).to_contain_text("Encoding the photo")
        playground.click(*ON)
        expect(playground.objects).to_have_text(["Waiting…"])
        gate.touch()
        playground.wait_for_mask()
