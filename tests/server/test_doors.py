"""A door of another tool, tried with one that was made up: its own spelling of requests, replies, errors and keys."""

import asyncio
import base64
import io
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import CLICK
from pydantic import SecretStr
from serving import KEY
from starlette.requests import Request
from starlette.responses import Response

from osamd.errors import InvalidRequestError
from osamd.image_sources import ImageSource
from osamd.segment_requests import SegmentResult
from osamd.server.answering import answer
from osamd.server.app import create_app
from osamd.server.asks import Ask, Content
from osamd.server.bodies import RawBody
from osamd.server.door import Door, json_errors
from osamd.server.guard import guessing
from osamd.server.guard.auth import ErrorReply
from osamd.server.guard.key_channels import SEARCHED_BYTES, given_secrets, take_secrets
from osamd.server.operations import Operations
from osamd.settings import Settings
from osamd.types import Prompt
from osamd.wire.json_pieces import Room

PREDICT = "/tool/predict"
TOKEN = {"Token": KEY}

operations = Operations()


@operations.post(PREDICT)
async def predict(request: Request) -> Response:
    """What the tool calls."""
    return await answer(request, _ask, _write)


def _ask(body: RawBody, _: Settings) -> Ask[str]:
    try:
        fields = json.loads(b"".join(body.chunks))
    except ValueError:
        raise InvalidRequestError("the body is not JSON") from None
    if "photo" not in fields:
        raise InvalidRequestError("a photo, please", field="photo")
    prompt = Prompt(points=np.array([fields["at"]], np.float32), point_labels=np.array([1]))
    image = ImageSource.of_bytes(base64.b64decode(fields["photo"]))
    return Ask(image=image, how=fields["call_it"], prompts=(prompt,), model=fields.get("model"))


def _write(result: SegmentResult, ask: Ask[str], _: Settings, room: Room) -> Generator[None, None, Content]:
    box = result.annotations[0].box
    yield
    content = json.dumps({ask.how: [box.xmin, box.ymin, box.xmax, box.ymax]}).encode()
    room(len(content))
    return Content([content])


def _write_error(problem: Mapping[str, Any]) -> ErrorReply:
    return ErrorReply(
        problem["status"], json.dumps({"message": f"sorry: {problem['detail']}"}).encode(), "application/json"
    )


TOOL = Door(
    name="tool",
    summary="A tool.",
    paths=("/tool/",),
    operations=operations,
    write_error=_write_error,
    reads_query_and_body=True,
)


def run(
    folder: Path,
    main: Callable[[httpx2.AsyncClient], Awaitable[None]],
    scopes: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> None:
    """Call ``main`` with a client of an app that has the door; ``scopes`` gets the scopes as a server sees them."""
    with_defaults: Any = {"cache": folder, "pull": "never", "threads": 1, "docs": "off", "preload": ()} | settings
    whole = Settings(api_key=SecretStr(KEY), **with_defaults)
    app = create_app(whole, doors=[TOOL])

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scopes is not None:
            scopes.append(scope)
        await app(scope, receive, send)

    async def call() -> None:
        transport = httpx2.ASGITransport(app=served)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://osamd.example") as client,
        ):
            await main(client)

    asyncio.run(call())


def test_a_door_answers_in_its_own_words(tmp_path: Path, photo: bytes) -> None:
    """Its body and its reply are its own; what all protocols share, such as headers and the cache, it has too."""
    body = {"photo": base64.b64encode(photo).decode(), "at": CLICK, "call_it": "cat"}

    async def main(client: httpx2.AsyncClient) -> None:
        first = await client.post(PREDICT, json=body, headers=TOKEN)
        assert 200 == first.status_code, first.text
        x1, y1, x2, y2 = first.json()["cat"]
        assert x1 <= CLICK[0] <= x2
        assert y1 <= CLICK[1] <= y2
        again = await client.post(PREDICT, json=body, headers=TOKEN)
        assert ["miss", "hit"] == [reply.headers["X-Osamd-Cache"] for reply in (first, again)]
        assert "cpu" == again.headers["X-Osamd-Device"]
        assert "decode" in again.headers["Server-Timing"]

    run(tmp_path, main)


def test_a_door_writes_every_error_itself(tmp_path: Path) -> None:
    """A missing key, a body it refuses, a model that is not there, a path below it: all in its own shape."""

    async def main(client: httpx2.AsyncClient) -> None:
        refused = [
            await client.post(PREDICT, json={}),
            await client.post(PREDICT, json={}, headers=TOKEN),
            await client.post(
                PREDICT, json={"photo": "AAAA", "at": [1, 1], "call_it": "x", "model": "none"}, headers=TOKEN
            ),
            await client.get("/tool/nothing", headers=TOKEN),
            await client.post(PREDICT, content=b"{", headers=TOKEN),
        ]
        assert [403, 422, 404, 404, 422] == [reply.status_code for reply in refused]
        for reply in refused:
            assert "application/json" == reply.headers["Content-Type"]
            assert reply.json()["message"].startswith("sorry: ")
        ours = await client.post("/api/generate", json={})
        assert "application/problem+json" == ours.headers["Content-Type"]

    run(tmp_path, main)


def basic(password: str) -> dict[str, str]:
    """A header with any user and this password."""
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


SENT_KEYS = {
    "X-API-Key": {"headers": {"X-API-Key": KEY}},
    "Token": {"headers": {"Token": KEY}},
    "Bearer": {"headers": {"Authorization": f"Bearer {KEY}"}},
    "Basic": {"headers": basic(KEY)},
    "query": {"params": {"api_key": KEY, "other": "1"}},
    "body": {"json": {"api_key": KEY}},
    "the same twice": {"headers": {"Token": KEY, "X-API-Key": KEY}, "params": {"api_key": KEY}},
    "beside an empty one": {"headers": {"Token": "", **basic(KEY)}, "json": {"api_key": ""}},
}


def test_a_key_may_come_in_every_channel_of_a_door(tmp_path: Path) -> None:
    """Each alone lets in, the same key in several too; osamd's own API reads its two headers only."""

    async def main(client: httpx2.AsyncClient) -> None:
        for channel, sent in SENT_KEYS.items():
            reply = await client.post(PREDICT, **{"json": {}, **sent})  # type: ignore[arg-type]
            assert 422 == reply.status_code, channel
        for headers in (TOKEN, basic(KEY)):
            assert 403 == (await client.get("/api/tags", headers=headers)).status_code
        assert 403 == (await client.get("/api/tags", params={"api_key": KEY})).status_code

    run(tmp_path, main)


WRONG = "a-wrong-key-8Tz"
WRONG_KEYS = {
    "Token": {"headers": {"Token": WRONG}},
    "Basic": {"headers": basic(WRONG)},
    "not a password": {"headers": {"Authorization": f"Basic {WRONG}"}},
    "query": {"params": {"api_key": WRONG}},
    "body": {"json": {"api_key": WRONG}},
    "another in the body": {"headers": TOKEN, "json": {"api_key": WRONG}},
    "another in a header": {"headers": {**TOKEN, "X-API-Key": WRONG}},
    "another in the query": {"headers": TOKEN, "params": {"api_key": WRONG}},
}


@pytest.mark.parametrize("sent", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_a_wrong_key_counts_in_every_channel_of_a_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: dict[str, Any]
) -> None:
    """Wrong ones, and two different ones, are refused and counted; missing ones are not counted."""
    monkeypatch.setattr(guessing, "DELAY_S", 0.0)

    async def main(client: httpx2.AsyncClient) -> None:
        for _ in range(4):
            assert 403 == (await client.post(PREDICT, json={})).status_code
        statuses = [(await client.post(PREDICT, **{"json": {}, **sent})).status_code for _ in range(3)]
        assert [403, 403, 429] == statuses

    run(tmp_path, main, wrong_keys_per_minute=2)


def test_the_whole_body_arrives_behind_a_key_in_it(tmp_path: Path, photo: bytes) -> None:
    """The key is looked for at the beginning of a body, which is then read from there."""
    body = {"api_key": KEY, "photo": base64.b64encode(photo).decode(), "at": CLICK, "call_it": "cat"}
    late = {"photo": base64.b64encode(photo).decode(), "api_key": KEY}

    async def main(client: httpx2.AsyncClient) -> None:
        assert 200 == (await client.post(PREDICT, json=body)).status_code
        content = json.dumps(body).encode()
        pieces = [content[start : start + 5] for start in range(0, 200, 5)] + [content[200:]]
        assert 200 == (await client.post(PREDICT, content=iterate(pieces))).status_code
        assert 403 == (await client.post(PREDICT, json=late)).status_code

    run(tmp_path, main)


@pytest.mark.parametrize("piece", [b"x", b'"', b"x" * 1000, b"x" * 100_000])
def test_only_the_beginning_of_a_body_is_searched_for_a_key(piece: bytes) -> None:
    """However large it is, and in however small pieces it arrives; then it is passed on whole."""
    count = 0

    async def receive() -> dict[str, Any]:
        nonlocal count
        count += 1
        return {"type": "http.request", "body": piece, "more_body": True}

    async def main() -> None:
        scope: dict[str, Any] = {"method": "POST", "query_string": b"", "headers": [], "state": {}}
        again = await take_secrets(scope, receive)
        received = count
        assert received == math.ceil(SEARCHED_BYTES / len(piece))
        assert not given_secrets(scope)
        for _ in range(received):
            assert piece == (await again())["body"]
        assert count == received

    asyncio.run(main())


async def iterate(pieces: list[bytes]) -> AsyncIterator[bytes]:
    """A body in pieces."""
    for piece in pieces:
        yield piece


def test_keys_in_queries_and_bodies_are_in_no_log(tmp_path: Path) -> None:
    """Not where a server in front of the app, such as uvicorn, reads the query once more, and not in a problem."""
    scopes: list[dict[str, Any]] = []

    async def main(client: httpx2.AsyncClient) -> None:
        replies = [
            await client.post(PREDICT, params={"api_key": KEY, "x": "1"}, json={}),
            await client.post(f"{PREDICT}?api%5Fkey={WRONG}", json={"api_key": WRONG}),
            await client.post("/tool/nowhere", params={"api_key": KEY}, json={"api_key": KEY}),
        ]
        seen = "".join(f"{reply.headers}{reply.text}" for reply in replies) + str(scopes) + caught.getvalue()
        assert [422, 403, 404] == [reply.status_code for reply in replies]
        assert "door=tool" in seen
        assert KEY not in seen
        assert WRONG not in seen
        assert b"x=1" == scopes[0]["query_string"]

    caught = io.StringIO()
    handler = logging.StreamHandler(caught)
    logger = logging.getLogger("osamd")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        run(tmp_path, main, scopes)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_slashes_are_joined_in_a_doors_paths(tmp_path: Path) -> None:
    """A tool adds its path to an address that ends in a slash; a path of ours with two is unknown."""

    async def main(client: httpx2.AsyncClient) -> None:
        assert 422 == (await client.post("/tool///predict", json={}, headers=TOKEN)).status_code
        assert 403 == (await client.post("/tool//predict", json={})).status_code
        assert 404 == (await client.get("/api//tags", headers={"X-API-Key": KEY})).status_code

    run(tmp_path, main)


def test_a_door_is_a_label_of_the_metrics(tmp_path: Path) -> None:
    """And is told by ``/ready``."""

    async def main(client: httpx2.AsyncClient) -> None:
        await client.post(PREDICT, json={}, headers=TOKEN)
        counted = (await client.get("/metrics", headers={"X-API-Key": KEY})).text
        assert 'osamd_requests_total{door="tool",key="API_KEY",method="POST"' in counted
        assert ["tool"] == (await client.get("/ready")).json()["doors"]

    run(tmp_path, main)


def test_errors_of_tools_are_json_with_a_message() -> None:
    """The default: what tools look for beside what osamd has, and 401 for a key."""
    write = json_errors(statuses={"overloaded": 429}, key_advice="put it there")
    problem = {"status": 403, "code": "access_denied", "detail": "the header", "request_id": "1"}
    denied, busy = write(problem), write({"status": 503, "code": "overloaded", "detail": "full"})

    assert (401, 429) == (denied.status, busy.status)
    assert "application/json" == denied.media_type
    told = json.loads(denied.body)
    assert ("put it there", "put it there", "1", 401) == tuple(
        told[name] for name in ("message", "detail", "request_id", "status")
    )
    assert {"WWW-Authenticate": "Bearer"} == denied.headers
    assert {} == busy.headers
