"""Who is let in: over real sockets, and the middleware alone around osam's own app."""

import asyncio
import hashlib
import hmac
import http.client
import json
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import CLICK, GENERATE, click, refusal
from hypothesis import given
from hypothesis import strategies as st
from pictures import base64_of
from pydantic import SecretStr
from serving import KEY, RunningServer, run_server
from starlette._utils import get_route_path
from waiting import WAIT_S

from osamd.server.app import ADMIN_PATHS, create_app
from osamd.server.guard import guessing
from osamd.server.guard.auth import ApiKeyMiddleware, own_path
from osamd.server.operations import OperationRoute
from osamd.server.routes.docs import openapi_document
from osamd.settings import Settings

READING = {"GET", "HEAD"}
# Every route of the app is in exactly one of these; a new one fails the tests below until somebody decides.
PAGES = {"/docs", "/docs/{name:path}", "/openapi.json", "/playground", "/playground/{name:path}"}
PUBLIC = {"/health", "/ready"} | PAGES
FOR_USERS = {
    "/",
    "/api/generate",
    "/api/embed",
    "/api/images/{image_id}",
    "/api/version",
    "/api/tags",
    "/api/ps",
    "/api/catalog",
    "/api/show",
}
FOR_ADMINS = {"/api/pull", "/api/delete", "/metrics"}
ADDRESSES = {"docs/{name:path}": "docs/start.js", "playground/{name:path}": "playground/app.js", "{image_id}": "img_0"}
USER_KEY = "user-key-2mQv-Rt58"
WRONG_KEYS = ["wrong", KEY[:-1], f"{KEY}x", KEY.upper(), "", "null"]


def routes() -> list[tuple[str, str]]:
    """Every method and path of osamd's own API, with what is not a plain route, such as a mount.

    Those of doors are in ``test_door_routes``.
    """
    app = create_app(Settings(api_key=SecretStr(KEY)), doors=())
    found = [(route.method, route.path) for route in app.routes if isinstance(route, OperationRoute)]
    assert len(found) == len(app.routes)
    assert ("POST", "/api/generate") in found
    return found


def address_of(path: str) -> str:
    """A path with something in each of its places."""
    for place, value in ADDRESSES.items():
        path = path.replace(place, value)
    assert "{" not in path, "a new place in a path: say in ADDRESSES what stands there"
    return path


def test_every_route_is_in_one_list() -> None:
    """Who may call it was decided for every route there is, and for none that is gone."""
    lists = [PUBLIC, FOR_USERS, FOR_ADMINS]

    assert {path for _, path in routes()} == set().union(*lists)
    assert sum(map(len, lists)) == len(set().union(*lists))
    assert {path for _, path in routes()} & ADMIN_PATHS == FOR_ADMINS


def test_every_guarded_route_tells_its_refusals() -> None:
    """The description of the API has what the guard and the admission answer, and what reading a body may end in."""
    document: Any = openapi_document(())
    guard = {
        "403": {"access_denied", "foreign_origin"},
        "413": {"body_too_large"},
        "429": {"rate_limited", "too_many_wrong_keys"},
        "500": {"not_configured"},
        "503": {"overloaded"},
    }
    body = {"408": {"body_timeout"}, "422": {"invalid_request"}}
    seen = set()
    for path, operations in document["paths"].items():
        for operation in operations.values() if path not in PUBLIC else ():
            seen.add(path)
            wanted = guard | (body if "requestBody" in operation else {})
            told = {
                status: set(re.findall("`(.+?)`", answer["description"]))
                for status, answer in operation["responses"].items()
            }
            assert wanted == {status: codes & told.get(status, set()) for status, codes in wanted.items()}, path
            assert path not in FOR_ADMINS or "admin_only" in told["403"], path

    assert FOR_USERS | FOR_ADMINS == seen


@pytest.mark.parametrize(("method", "path"), routes(), ids=str)
def test_users_reach_all_but_admin_routes(with_user: RunningServer, method: str, path: str) -> None:
    """A key with the role ``user`` gets 403 ``admin_only`` on admins' routes, and past the guard on all others."""
    with with_user.client(headers={"X-API-Key": USER_KEY}) as client:
        answer = client.request(method, address_of(path))
    code = answer.json()["code"] if answer.headers.get("content-type") == "application/problem+json" else None

    if path in FOR_ADMINS:
        assert (403, "admin_only") == (answer.status_code, refusal(answer)["code"])
    else:
        assert answer.status_code not in {401, 403, 500}
        assert code not in {"admin_only", "access_denied"}


@pytest.mark.parametrize(("method", "path"), routes(), ids=str)
def test_every_route_is_public_or_guarded(server: RunningServer, method: str, path: str) -> None:
    """A route is on the public list and read-only, or refuses a missing and a wrong key."""
    address = address_of(path)
    with server.client(headers={}) as client:
        missing = client.request(method, address)
        wrong = client.request(method, address, headers={"X-API-Key": "wrong"})

    if path in PUBLIC and method in READING:
        assert (missing.status_code, wrong.status_code) == (200, 200)
    else:
        assert method == "HEAD" or refusal(missing)["code"] == "access_denied"
        assert (missing.status_code, wrong.status_code) == (403, 403)


@pytest.fixture(scope="module")
def with_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a key of each role."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys").write_text(f"someone user {USER_KEY}\n")
    env = {"API_KEY": KEY, "API_KEY_FILE": str(folder / "keys"), "OSAMD_PRELOAD": "none"}
    with run_server(cache=folder, env=env) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/", GENERATE, "/nowhere", "/metrics", "/api", "/health/x", "/docsx", "/openapi.jsonx"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_unknown_paths_are_guarded(server: RunningServer, method: str, path: str) -> None:
    """Whether a path exists is told to nobody without the key."""
    with server.client(headers={}) as client:
        response = client.request(method, path)

    assert (response.status_code, refusal(response)["code"]) == (403, "access_denied")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_public_paths_are_for_reading(server: RunningServer, method: str) -> None:
    """A public path is public for GET and HEAD only."""
    with server.client(headers={}) as client:
        assert client.request(method, "/health").status_code == 403
        assert client.head("/health").status_code != 403


@pytest.mark.parametrize(
    "target",
    [
        "/health/../api/generate",
        "/docs/../api/generate",
        "/docs/%2e%2e/api/generate",
        "//api/generate",
        "/api/generate/",
        "/API/GENERATE",
        "/api/generate?/health",
        "/health;/../api/generate",
        "/api%2fgenerate",
        "http://health/api/generate",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_key(server: RunningServer, target: str) -> None:
    """However a path is written, an image without a key is never segmented."""
    host, port = server.url.removeprefix("http://").split(":")
    for method in ("GET", "POST"):
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
        connection.request(method, target, body=b"{}")
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        assert response.status in {403, 404}
        assert b"annotations" not in answer


def test_unknown_path_with_key_is_404(client: httpx2.Client) -> None:
    """With the key a wrong path or method is told apart, in the shape of every error."""
    nowhere, method = refusal(client.get("/nowhere")), refusal(client.get(GENERATE))

    assert (nowhere["status"], nowhere["code"]) == (404, "not_found")
    assert (method["status"], method["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("key", WRONG_KEYS)
@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_wrong_key_is_refused(server: RunningServer, header: str, key: str) -> None:
    """A key that is nearly right is wrong."""
    value = key if header == "X-API-Key" else f"Bearer {key}".strip()
    with server.client(headers={header: value}) as client:
        problem = refusal(client.post(GENERATE, json={}))

    assert (problem["status"], problem["code"]) == (403, "access_denied")
    assert "X-API-Key" in problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"x-api-key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": "Basic abc", "X-API-Key": KEY},
    ],
)
def test_right_key_is_let_in(server: RunningServer, headers: Mapping[str, str]) -> None:
    """The key may come in either header."""
    with server.client(headers=headers) as client:
        assert client.get("/").status_code == 200


def test_other_schemes_are_refused(server: RunningServer) -> None:
    """The key as a password, bare, in the query or in a cookie is no key."""
    others = [{"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}, {"Cookie": f"X-API-Key={KEY}"}]
    with server.client(headers={}) as client:
        assert [403] * 3 == [client.get("/", headers=headers).status_code for headers in others]
        assert client.get("/", params={"api_key": KEY, "X-API-Key": KEY}).status_code == 403


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", "schl\u00fcssel".encode(), "schl\u00fcssel".encode("latin-1"), b"\x80" * 500]
)
def test_key_of_odd_bytes_is_refused(server: RunningServer, raw: bytes) -> None:
    """Bytes beyond ASCII in the header are a wrong key, not a crash."""
    with server.client(headers={}) as client:
        response = client.get("/", headers=[(b"X-API-Key", raw)])

    assert response.status_code == 403


def test_refusal_comes_before_the_body(server: RunningServer) -> None:
    """Without the key nobody can make the server read a body."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 50000000\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")


# --- configurations -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["", "  "], ids=["unset", "blank"])
def keyless(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A production server whose operator forgot the key."""
    env = {"API_KEY": request.param, "OSAMD_PRELOAD": "none"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env) as running:
        yield running


def test_production_without_key_is_500(keyless: RunningServer, photo: bytes) -> None:
    """Every guarded path answers 500 and names the variable to set, whatever key is sent; probes still answer."""
    with keyless.client(headers={}) as client:
        answers = [
            client.post(GENERATE, content=photo),
            client.post(GENERATE, content=photo, headers={"X-API-Key": KEY}),
            client.post(GENERATE, content=photo, headers={"X-API-Key": ""}),
            client.get("/"),
            client.get("/nowhere"),
        ]
        assert client.get("/health").status_code == 200

    for response in answers:
        problem = refusal(response)
        assert (problem["status"], problem["code"]) == (500, "not_configured")
        assert "API_KEY" in problem["detail"]


def test_development_without_key_lets_in_and_warns(tmp_path: Path, photo: bytes) -> None:
    """Development without a key: everything is let in, and a warning is printed."""
    with (
        run_server(cache=tmp_path, env={"APP_ENV": "Development"}) as running,
        running.client(headers={}) as client,
    ):
        assert client.post(GENERATE, content=photo).status_code == 200
        assert client.post(GENERATE, content=photo, headers={"X-API-Key": "anything"}).status_code == 200
        printed = running.log_text()

    (warning,) = [line for line in printed.splitlines() if "WARNING" in line]
    assert "API_KEY is not set" in warning
    assert "production" in warning


def test_development_with_key_checks_it(tmp_path: Path, photo: bytes) -> None:
    """Development with a key is as strict as production, and prints no warning."""
    with (
        run_server(cache=tmp_path, env={"APP_ENV": "development", "API_KEY": KEY}) as running,
        running.client(headers={}) as client,
    ):
        assert client.post(GENERATE, content=photo).status_code == 403
        assert client.post(GENERATE, content=photo, headers={"X-API-Key": KEY}).status_code == 200
        assert "WARNING" not in running.log_text()


def test_key_beyond_ascii_works(tmp_path: Path) -> None:
    """A key of any letters, with a line's end behind it as files have, is matched by its UTF-8 bytes."""
    secret = "schl\u00fcssel-schl\u00fcssel-\u9375"
    with (
        run_server(
            cache=tmp_path, env={"API_KEY": f"{secret}\n", "OSAMD_PRELOAD": "none"}, wait_for="/health"
        ) as running,
        running.client(headers={}) as client,
    ):
        assert client.get("/", headers=[(b"X-API-Key", secret.encode())]).status_code == 200
        assert client.get("/", headers=[(b"X-API-Key", secret.encode()[:-1])]).status_code == 403


def test_key_stays_secret(tmp_path: Path, photo: bytes) -> None:
    """Neither the server's key nor a caller's attempt is in the log or in a reply, at the finest log level."""
    attempt = "an-attempt-9Qz"
    env = {"API_KEY": KEY, "OSAMD_LOG_LEVEL": "debug", "OSAMD_PRELOAD": "builtin,sam:100m"}
    replies: list[httpx2.Response] = []
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running:
        for headers in ({"X-API-Key": KEY}, {"X-API-Key": attempt}, {"Authorization": f"Bearer {attempt}"}):
            with running.client(headers=headers) as client:
                body = {"image": base64_of(photo), "prompt": click(CLICK)}
                replies += [
                    client.get("/"),
                    client.get("/openapi.json"),
                    client.get("/ready"),
                    client.post(GENERATE, json=body),
                    client.post(GENERATE, json=body | {"model": "sam_vit_b"}),
                    client.post(GENERATE, content=b"rubbish"),
                    client.get("/nowhere"),
                ]
    seen = running.log_text() + "".join(f"{reply.headers}{reply.text}" for reply in replies)

    assert "POST /api/generate 403" in seen
    assert KEY not in seen
    assert attempt not in seen


# --- the middleware alone -------------------------------------------------------------------------------------------

THREE_LINES = """\
from osam._server import app as osam_app
from osamd.server.guard.auth import ApiKeyMiddleware
app = ApiKeyMiddleware(osam_app)
"""


@pytest.fixture
def osam_home(tmp_path: Path) -> Path:
    """A folder with the three lines, and a home where osam may write its log."""
    (tmp_path / "wrapped.py").write_text(THREE_LINES)
    (tmp_path / ".cache" / "osam").mkdir(parents=True)
    return tmp_path


UVICORN = (sys.executable, "-m", "uvicorn", "wrapped:app", "--port", "{port}")


def test_three_lines_guard_osam(osam_home: Path) -> None:
    """Osam's own server, wrapped in three lines, asks for the key and works with it."""
    env = {"HOME": str(osam_home), "API_KEY": KEY}
    with run_server(cache=osam_home, env=env, command=UVICORN, cwd=osam_home, wait_for="/") as running:
        with running.client(headers={}) as client:
            missing = client.post(GENERATE, json={"model": "nope"})
            wrong = client.post(GENERATE, json={"model": "nope"}, headers={"X-API-Key": "wrong"})
            greeting = client.get("/")
        with running.client() as client:
            allowed = client.get("/")
            answered = client.post(GENERATE, json={"model": "nope"})

    assert [403] * 3 == [response.status_code for response in (missing, wrong, greeting)]
    assert missing.json()["code"] == "access_denied"
    assert (allowed.status_code, allowed.text) == (200, "osam is running")
    # osam itself has no such model; that it says so shows that the request reached it.
    assert answered.status_code == 400
    assert "nope" in answered.json()["detail"]


def test_three_lines_want_a_key_in_production(osam_home: Path) -> None:
    """Wrapped osam without a key answers 500 and names the variable."""
    with (
        run_server(
            cache=osam_home,
            env={"HOME": str(osam_home), "APP_ENV": "development"},
            command=UVICORN,
            cwd=osam_home,
            wait_for="/",
        ) as relaxed,
        relaxed.client(headers={}) as client,
    ):
        assert client.get("/").text == "osam is running"
    assert "API_KEY is not set" in relaxed.log_text()

    answers = guarded_answers(ApiKeyMiddleware(echo, api_key="", app_env=""), [(b"x-api-key", KEY.encode())])
    assert answers[0]["status"] == 500
    assert "API_KEY" in json.loads(answers[1]["body"])["detail"]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An app that lets everybody in."""
    del receive
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def guarded_answers(
    app: ApiKeyMiddleware, headers: list[tuple[bytes, bytes]], *, kind: str = "http", path: str = "/"
) -> list[dict[str, Any]]:
    """The messages an app sends for one request or WebSocket."""
    sent: list[dict[str, Any]] = []
    scope = {"type": kind, "method": "GET", "path": path, "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize("path", ["/", "/health"])
def test_websocket_is_guarded(path: str) -> None:
    """A WebSocket without the key is closed before it is accepted, on public paths too; with the key it is let in."""
    guarded = ApiKeyMiddleware(echo, api_key=KEY, app_env="", public_paths={"/health"})
    refused = guarded_answers(guarded, [], kind="websocket", path=path)
    wrong = guarded_answers(guarded, [(b"x-api-key", b"wrong")], kind="websocket", path=path)
    allowed = guarded_answers(guarded, [(b"x-api-key", KEY.encode())], kind="websocket", path=path)

    assert ["websocket.close"] == [message["type"] for message in refused]
    assert refused[0]["code"] == 1008
    assert refused == wrong
    assert ["websocket.accept"] == [message["type"] for message in allowed]


def test_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are compared by ``hmac.compare_digest`` and by nothing else: its word decides."""
    compared: list[tuple[bytes, bytes]] = []

    def agreeing(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return True

    monkeypatch.setattr(hmac, "compare_digest", agreeing)
    guarded = ApiKeyMiddleware(echo, api_key=KEY, app_env="")
    for headers in ([(b"x-api-key", b"anything")], [(b"authorization", b"Bearer other")]):
        assert guarded_answers(guarded, headers)[0]["status"] == 200

    assert compared == [(digest(b"anything"), digest(KEY.encode())), (digest(b"other"), digest(KEY.encode()))]


def digest(secret: bytes) -> bytes:
    """What is compared in a secret's place: all are of one length."""
    return hashlib.sha256(secret).digest()


def test_one_request_is_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated header is not a key and is not tried; ``Authorization`` counts only without ``X-API-Key``."""
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def recording(given: bytes, key: bytes) -> bool:
        compared.append(given)
        return compare(given, key)

    monkeypatch.setattr(hmac, "compare_digest", recording)
    monkeypatch.setattr(guessing, "DELAY_S", 0.0)
    guarded = ApiKeyMiddleware(echo, api_key=KEY, app_env="", wrong_keys_per_minute=3)
    right = KEY.encode()
    guesses = [
        [(b"x-api-key", right), (b"x-api-key", b"wrong")],
        [(b"authorization", b"Bearer wrong"), (b"authorization", b"Bearer " + right)],
        [(b"x-api-key", b"wrong"), (b"authorization", b"Bearer " + right)],
        [(b"x-api-key", b"more"), *[(b"x-api-key", b"wrong")] * 300],
        [(b"x-api-key", right), (b"authorization", b"Bearer of somebody else")],
    ]

    replies = [guarded_answers(guarded, headers) for headers in guesses]
    assert [403, 403, 403, 429, 200] == [reply[0]["status"] for reply in replies]
    assert [True, True, False] == [b"more than one API key" in reply[1]["body"] for reply in replies[:3]]
    assert [digest(b"wrong"), digest(right)] == compared


def test_key_is_in_no_repr() -> None:
    """Printing the guard, the settings or the app shows no key."""
    settings = Settings(api_key=SecretStr(KEY))
    shown = [repr(ApiKeyMiddleware(echo, api_key=KEY)), repr(settings), str(settings), settings.model_dump_json()]

    assert not any(KEY in text for text in shown)
    assert KEY not in repr(create_app(settings).user_middleware)


@given(path=st.text("/am", max_size=8).map("/".__add__), prefix=st.text("/am", max_size=6))
def test_a_path_is_what_the_framework_routes(path: str, prefix: str) -> None:
    """Whatever prefix a proxy or a mount adds, the guard looks at the path that Starlette routes."""
    scope = {"type": "http", "path": path, "root_path": prefix}

    assert get_route_path(scope) == own_path(scope)
