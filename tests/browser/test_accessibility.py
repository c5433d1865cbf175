"""axe finds nothing serious in any state of the playground, light or dark, wide or narrow."""

import json
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import Opener, Playground
from playwright.sync_api import Route, expect
from serving import RunningServer

GRAVE = {"serious", "critical"}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WIDE = {"viewport": {"width": 1400, "height": 900}}


def grave(playground: Playground) -> list[str]:
    """What axe finds that shuts somebody out."""
    found: Any = Axe().run(playground.page).response["violations"]
    return [
        f"{item['id']}: {node['html'][:120]}" for item in found if item["impact"] in GRAVE for node in item["nodes"]
    ]


@pytest.mark.parametrize(("scheme", "screen"), [("light", WIDE), ("dark", PHONE)], ids=["light", "dark phone"])
def test_axe(open_playground: Opener, server: RunningServer, photo: bytes, scheme: str, screen: dict[str, Any]) -> None:
    """The empty page, one with a mask, one in which everything is being found, a notice, and each dialog."""
    playground = open_playground(server, color_scheme=scheme, reduced_motion="reduce", **screen)
    page = playground.page
    expect(page.locator("#model-name")).to_have_text("builtin")
    assert grave(playground) == []
    playground.use(photo)
    playground.click(225, 150)
    playground.wait_for_mask()
    page.locator("#everything").click()
    expect(page.locator("#finds")).to_be_visible()
    assert grave(playground) == []
    page.locator("#everything").click()
    expect(page.locator("#finds")).to_be_hidden()
    page.route("**/api/generate", lambda route: route.fulfill(status=502, body="", content_type="text/html"))
    playground.click(300, 100)
    expect(playground.notice).to_be_visible()
    assert grave(playground) == []
    for dialog in ("models", "key", "help"):
        page.evaluate(f"() => document.getElementById('{dialog}-dialog').showModal()")
        assert grave(playground) == [], dialog
        page.evaluate(f"() => document.getElementById('{dialog}-dialog').close()")


def test_axe_of_candidates(open_playground: Opener, server: RunningServer, photo: bytes) -> None:
    """Candidates to choose from, as a model would give them that has them."""
    playground = open_playground(server, color_scheme="dark", reduced_motion="reduce", **PHONE)
    page = playground.page

    def add_capability(route: Route) -> None:
        answer = route.fetch().json()
        answer["models"] = [
            model | {"capabilities": [*model["capabilities"], "multimask"]} for model in answer["models"]
        ]
        route.fulfill(json=answer)

    def repeat(route: Route) -> None:
        fields = json.loads(route.request.post_data or "")
        fields.pop("multimask")
        answer = route.fetch(post_data=json.dumps(fields)).json()
        route.fulfill(json=answer | {"annotations": answer["annotations"] * 3})

    page.route("**/api/catalog", add_capability)
    page.route("**/api/generate", repeat)
    page.reload()
    playground.use(photo)
    page.locator("#multimask").click()
    playground.click(225, 150)
    expect(page.locator("#candidates [role=radio]")).to_have_count(3)
    assert grave(playground) == []
