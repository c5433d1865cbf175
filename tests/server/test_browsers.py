"""What web pages may do, what headers tell browsers, and whose word on a client's address is believed."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import GENERATE, refusal
from pydantic import SecretStr
from serving import KEY, RunningServer, run_server

from osamd.errors import SettingsError
from osamd.server.app import create_app
from osamd.settings import Settings, load_settings

PAGE = "https://annotate.example.com"
EXTENSION = "chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai"
APPS = [EXTENSION, "moz-extension://*", "app://obsidian.md", "tauri://localhost", "vscode-webview://*", "app://-"]
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}


@pytest.fixture(scope="module")
def open_to_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A production server that lets one origin call and believes one proxy network."""
    env = {
        "API_KEY": KEY,
        "OSAMD_CORS_ORIGINS": f"{PAGE}, http://localhost:3000, {', '.join(APPS)}",
        "OSAMD_TRUSTED_PROXIES": "127.0.0.0/8,10.0.0.0/8",
        "OSAMD_PRELOAD": "none",
    }
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A development server without a key, which one origin may call."""
    env = {"APP_ENV": "development", "OSAMD_CORS_ORIGINS": PAGE, "OSAMD_PRELOAD": "none"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env) as running:
        yield running


def test_no_page_may_call_by_default(server: RunningServer) -> None:
    """Without a list there is no CORS: preflights want the key like everything else, and answers permit nothing."""
    with server.client(headers={"Origin": PAGE}) as client:
        preflight = client.options(GENERATE, headers=PREFLIGHT)
        with_key = client.get("/", headers={"X-API-Key": KEY})

    assert (403, "access_denied") == (preflight.status_code, refusal(preflight)["code"])
    assert 200 == with_key.status_code
    assert not any("access-control" in name for name in [*preflight.headers, *with_key.headers])


@pytest.mark.parametrize(
    "origin",
    [
        PAGE,
        "http://localhost:3000",
        EXTENSION,
        "moz-extension://0b1f5ee2-7a5e-4a3f-9f6f-0d8a3c3c2a11",
        "app://obsidian.md",
        "app://-",
        "tauri://localhost",
        "vscode-webview://1mg4rlvkbq2o5k2kpa6q1hs2v8aqd1kgb6c7q3l2m3n4o5p6q7r8",
    ],
)
def test_a_listed_page_may_call(open_to_page: RunningServer, origin: str) -> None:
    """Its preflight needs no key, its request does; it may read our headers, and refusals too."""
    with open_to_page.client(headers={"Origin": origin}) as client:
        preflight = client.options(GENERATE, headers=PREFLIGHT)
        refused = client.post(GENERATE, content=b"")
        greeted = client.get("/", headers={"X-API-Key": KEY})

    assert 200 == preflight.status_code
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "X-API-Key" in preflight.headers["Access-Control-Allow-Headers"]
    assert (403, 200) == (refused.status_code, greeted.status_code)
    for answer in (preflight, refused, greeted):
        assert origin == answer.headers["Access-Control-Allow-Origin"]
        assert "Origin" in answer.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "X-Request-Id" in greeted.headers["Access-Control-Expose-Headers"]


def test_a_listed_page_may_read_what_went_wrong(tmp_path: Path) -> None:
    """A bug's 500 too: without permission, it would be a network error without a status or request id."""
    settings = Settings(api_key=SecretStr(KEY), cache=tmp_path, cors_origins=(PAGE,), preload=(), pull="never")
    app = create_app(settings)

    async def fail() -> None:
        raise RuntimeError("a bug")

    app.state.services.answers.status = fail

    async def main() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"X-API-Key": KEY, "Origin": PAGE}
        async with httpx2.AsyncClient(transport=transport, base_url="http://osamd.example", headers=headers) as client:
            try:
                return await client.get("/api/ps")
            finally:
                await app.state.services.close()

    answer = asyncio.run(main())
    assert (500, PAGE) == (answer.status_code, answer.headers["Access-Control-Allow-Origin"])
    assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://annotate.example.com",
        f"{PAGE}.evil.example",
        f"{PAGE}:444",
        EXTENSION + "x",
        "app://obsidianxmd",
        "app://obsidian.md.evil.example",
        "moz-extension://",
        "moz-extension://a/b",
        "tauri://other",
        "https://moz-extension",
    ],
)
def test_unlisted_origins_are_refused(open_to_page: RunningServer, origin: str) -> None:
    """Another scheme, port or host is another origin: its preflight needs the key and permits nothing."""
    with open_to_page.client(headers={"Origin": origin}) as client:
        preflight = client.options(GENERATE, headers=PREFLIGHT)
        greeted = client.get("/", headers={"X-API-Key": KEY})

    assert 403 == preflight.status_code
    assert not any("access-control" in name for name in [*preflight.headers, *greeted.headers])


@pytest.mark.parametrize(
    "value",
    [
        *("*", "example.com", "https://example.com/", "https://Example.com", "https://a b", "https://*", "http://*"),
        *("null", "file://*", "file://", "*://*", "app://", "app://a/b", "app://a*", "chrome-extension:ID", "App://a"),
    ],
)
def test_origins_are_checked_at_start(value: str) -> None:
    """An origin that could never match, or that would match all, is a mistake."""
    with pytest.raises(SettingsError, match="OSAMD_CORS_ORIGINS"):
        load_settings(cors_origins=(value,))


# --- without a key --------------------------------------------------------------------------------------------------

EVIL = "https://evil.example"
FOREIGN: list[tuple[str, Mapping[str, str]]] = [
    ("a page's request", {"Origin": EVIL}),
    ("a page's plain form", {"Origin": EVIL, "Content-Type": "text/plain"}),
    ("a sandboxed page or a local file", {"Origin": "null"}),
    ("another server on this machine", {"Origin": "http://localhost:3000"}),
    ("no address", {"Origin": "http://["}),
    ("an image or script element", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
    ("a name resolved to us", {"Host": "evil.example:11368"}),
    ("a name resolved to us, same origin", {"Host": "evil.example", "Origin": "http://evil.example"}),
    ("a name that begins like ours", {"Host": "localhost.evil.example"}),
    ("a name that begins like an address", {"Host": "127.0.0.1.evil.example"}),
]


@pytest.mark.parametrize(("who", "headers"), FOREIGN, ids=[who for who, _ in FOREIGN])
def test_foreign_pages_cannot_drive_a_server_without_a_key(
    keyless: RunningServer, photo: bytes, who: str, headers: Mapping[str, str]
) -> None:
    """Development mode has no key, so a page in the developer's browser is told apart by what browsers always send."""
    del who
    with keyless.client(headers=headers) as client:
        problem = refusal(client.post(GENERATE, content=photo))

    assert (403, "foreign_origin") == (problem["status"], problem["code"])


OWN: list[tuple[str, Mapping[str, str]]] = [
    ("a program", {}),
    ("by address", {"Host": "127.0.0.1:8080"}),
    ("by an address of the network", {"Host": "192.168.1.7:11368"}),
    ("by an IPv6 address", {"Host": "[::1]:11368"}),
    ("as localhost", {"Host": "localhost:11368"}),
    ("as a container", {"Host": "osamd:11368"}),
    ("our own page", {"Host": "localhost:11368", "Origin": "http://localhost:11368"}),
    ("a listed page", {"Origin": PAGE}),
    ("a link that is followed", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}),
]


@pytest.mark.parametrize(("who", "headers"), OWN, ids=[who for who, _ in OWN])
def test_everyone_else_can(keyless: RunningServer, who: str, headers: Mapping[str, str]) -> None:
    """Programs, our own pages and listed ones are let in."""
    del who
    with keyless.client(headers=headers) as client:
        assert 200 == client.get("/").status_code


# --- headers --------------------------------------------------------------------------------------------------------


def answers(client: httpx2.Client) -> list[httpx2.Response]:
    """Answers of every kind: public, private, refused by the guard, by a route, and by the framework."""
    return [
        client.get("/health"),
        client.get("/"),
        client.get("/openapi.json"),
        client.get("/docs/start.js"),
        client.get("/nowhere"),
        client.post(GENERATE, content=b"rubbish"),
        client.post(GENERATE, headers={"X-API-Key": "wrong"}),
        client.put(GENERATE),
    ]


def test_every_answer_keeps_browsers_careful(client: httpx2.Client) -> None:
    """No guessing of types, no frames, no scripts, no referrer."""
    for answer in answers(client):
        assert "nosniff" == answer.headers["X-Content-Type-Options"]
        assert "no-referrer" == answer.headers["Referrer-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "Server" not in answer.headers
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_private_answers_are_not_cached(client: httpx2.Client) -> None:
    """Answers that need a key, and refusals, are not cacheable; public files may be."""
    kept = [answer.headers.get("Cache-Control") for answer in answers(client)]

    assert [None, "no-store", None, None] + ["no-store"] * 4 == kept


def test_the_docs_may_run_their_own_scripts_only(client: httpx2.Client) -> None:
    """The one page has a policy that lets its own files run, and nothing inline."""
    policy = client.get("/docs").headers["Content-Security-Policy"]

    assert "default-src 'self'" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy


def test_a_bug_has_all_headers_too(tmp_path: Path) -> None:
    """An unexpected error is answered in the shape of every other, with the headers of every other."""
    (tmp_path / "broken.py").write_text(
        "from osamd.server.app import create_app\n"
        "from osamd.server.process import prepare_process, serve\n"
        "from osamd.settings import load_settings\n"
        "settings = load_settings()\n"
        "prepare_process(settings)\n"
        "app = create_app(settings)\n"
        "app.add_route('/broken', lambda _: 1 / 0)\n"
        "serve(app, settings)\n"
    )
    command = (sys.executable, str(tmp_path / "broken.py"))
    with (
        run_server(cache=tmp_path, env={"API_KEY": KEY, "OSAMD_PRELOAD": "none"}, command=command) as running,
        running.client() as client,
    ):
        answer = client.get("/broken")
    problem = refusal(answer)

    assert (500, "internal_error") == (problem["status"], problem["code"])
    assert "nosniff" == answer.headers["X-Content-Type-Options"]


# --- proxies --------------------------------------------------------------------------------------------------------


def address_seen(running: RunningServer, forwarded: str) -> str:
    """The address in the log for a request with this ``X-Forwarded-For``."""
    with running.client() as client:
        request_id = client.get("/", headers={"X-Forwarded-For": forwarded}).headers["X-Request-Id"]
    address: str = json.loads(running.log_line(request_id))["client"]
    return address


def test_a_trusted_proxys_word_is_believed(open_to_page: RunningServer) -> None:
    """The last address that no trusted proxy has is the client's, so what a client puts in front counts for nothing."""
    assert "203.0.113.9" == address_seen(open_to_page, "203.0.113.9")
    assert "203.0.113.9" == address_seen(open_to_page, "198.51.100.1, 203.0.113.9, 10.2.3.4")


def test_forwarded_headers_are_ignored_by_default(server: RunningServer) -> None:
    """Without the setting the header is ignored, even from loopback."""
    assert "127.0.0.1" == address_seen(server, "203.0.113.9")


@pytest.mark.parametrize("value", ["*", "proxy.example.com", "10.0.0.1/8"])
def test_proxies_are_checked_at_start(value: str) -> None:
    """Names and mistakes would silently trust nobody; a star everybody."""
    with pytest.raises(SettingsError, match="OSAMD_TRUSTED_PROXIES"):
        load_settings(trusted_proxies=(value,))


def test_wrong_keys_count_for_the_client_behind_a_proxy(open_to_page: RunningServer) -> None:
    """One who guesses does not have everybody behind the same proxy refused; an IPv6 customer counts as one."""

    def guess(address: str) -> int:
        headers: dict[str, Any] = {"X-API-Key": "wrong", "X-Forwarded-For": address}
        with open_to_page.client(headers=headers) as client:
            return client.get("/").status_code

    assert {403} == {guess("203.0.113.77") for _ in range(20)}
    assert [429, 403] == [guess("203.0.113.77"), guess("203.0.113.78")]
    assert {403} == {guess(f"2001:db8:1:2::{number:x}") for number in range(1, 21)}
    assert [429, 403] == [guess("2001:db8:1:2:ffff::1"), guess("2001:db8:1:3::1")]
