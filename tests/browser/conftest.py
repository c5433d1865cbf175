"""A Chromium for the tests of the playground, and pages of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from chromium import KEY_NAME, Opener, Playground, run_chromium
from playwright.sync_api import Browser
from serving import KEY, RunningServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium. Not for the whole session: while it runs, tests with asyncio of their own could not."""
    with run_chromium() as running:
        yield running


@pytest.fixture
def open_playground(browser: Browser) -> Iterator[Opener]:
    """Opens playgrounds, each in a context of its own, and checks at the end what they complained about."""
    opened: list[Playground] = []

    def opener(server: RunningServer, *, key: str | None = KEY, prefix: str = "", **options: Any) -> Playground:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}} | options)
        if key is not None:
            context.add_init_script(f"sessionStorage.setItem({KEY_NAME!r}, {key!r})")
        playground = Playground(context.new_page(), server, prefix)
        opened.append(playground)
        playground.open()
        return playground

    yield opener
    for playground in opened:
        # A route that still fetches would fail in the next test.
        playground.page.unroute_all(behavior="ignoreErrors")
        playground.page.context.close()
    for playground in opened:
        playground.check()


@pytest.fixture
def playground(open_playground: Opener, server: RunningServer) -> Playground:
    """A playground of the shared server that has the key."""
    return open_playground(server)
