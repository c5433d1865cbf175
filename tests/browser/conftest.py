"""A Chromium for the tests of the playground, and pages of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from chromium import KEY_NAME, Opener, Playground, run_chromium
from playwright.sync_api import Browser, BrowserContext
from serving import KEY, RunningServer

VIEWPORT: dict[str, Any] = {"viewport": {"width": 1200, "height": 800}}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium. Not for the whole session: while it runs, tests with asyncio of their own could not."""
    with run_chromium() as running:
        yield running


@pytest.fixture(scope="package")
def shared_context(browser: Browser) -> BrowserContext:
    """What most pages have in common, since a context of its own makes a page cost half as much again."""
    return browser.new_context(**VIEWPORT)


@pytest.fixture
def open_playground(browser: Browser, shared_context: BrowserContext) -> Iterator[Opener]:
    """Opens playgrounds, and checks at the end what they complained about.

    Those with the key and without options share a context, whose storage is empty and whose permissions are the usual
    ones when a test begins. A test that changes more of it says that it does not share it.
    """
    opened: list[Playground] = []

    def opener(
        server: RunningServer, *, key: str | None = KEY, prefix: str = "", is_shared: bool = True, **options: Any
    ) -> Playground:
        is_plain = key == KEY and is_shared and not options
        context = shared_context if is_plain else browser.new_context(**VIEWPORT | options)
        page = context.new_page()
        context.new_cdp_session(page).send("Storage.clearDataForOrigin", {"origin": server.url, "storageTypes": "all"})
        if key is not None:
            page.add_init_script(f"sessionStorage.setItem({KEY_NAME!r}, {key!r})")
        playground = Playground(page, server, prefix)
        opened.append(playground)
        playground.open()
        return playground

    yield opener
    for playground in opened:
        page = playground.page
        # A route that still fetches would fail in the next test.
        page.unroute_all(behavior="ignoreErrors")
        if page.context is not shared_context:
            page.context.close()
    for page in shared_context.pages:
        page.close()
    shared_context.clear_permissions()
    shared_context.set_offline(offline=False)
    for playground in opened:
        playground.check()


@pytest.fixture
def playground(open_playground: Opener, server: RunningServer) -> Playground:
    """A playground of the shared server that has the key."""
    return open_playground(server)
