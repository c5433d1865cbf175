"""A door of another tool, tried with one that was made up: its own spelling of requests, replies, errors and keys."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from asking import CLICK
from fastapi import APIRouter, Request, Response
from pydantic import SecretStr
from serving import KEY
from starlette.types import Scope

from osamd.errors import InvalidRequestError
from osamd.server.answering import Ask, Content, answer
from osamd.server.app import create_app
from osamd.server.bodies import RawBody
from osamd.server.door import Door
from osamd.settings import Settings
from osamd.types import ImageSource, Prompt, SegmentResult
from osamd.wire.replies import Room

PREDICT = "/tool/predict"
TOKEN = {"Token": KEY}

router = APIRouter()


@router.post(PREDICT)
async def predict(request: Request) -> Response:
    """What the tool calls."""
    return await answer(request, _ask, _write)


def _ask(body: RawBody, _: Settings) -> Ask[str]:
    fields = json.loads(b"".join(body.chunks))
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


def _write_error(problem: Mapping[str, Any]) -> tuple[bytes, str]:
    return json.dumps({"message": f"sorry: {problem['detail']}"}).encode(), "application/json"


def _token(scope: Scope) -> Sequence[bytes]:
    return [value for name, value in scope["headers"] if name == b"token"]


TOOL = Door(paths=("/tool/",), router=router, write_error=_write_error, key_channels=(_token,))


def run(folder: Path, main: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
    """Call ``main`` with a client of an app that has the door."""
    settings = Settings(api_key=SecretStr(KEY), cache=folder, pull="never", threads=1, docs="off")
    app = create_app(settings, doors=[TOOL])

    async def whole() -> None:
        transport = httpx2.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://osamd.example") as client,
        ):
            await main(client)

    asyncio.run(whole())


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
        assert [403, 422, 404, 404, 500] == [reply.status_code for reply in refused]
        for reply in refused:
            assert "application/json" == reply.headers["Content-Type"]
            assert reply.json()["message"].startswith("sorry: ")
        ours = await client.post("/api/generate", json={})
        assert "application/problem+json" == ours.headers["Content-Type"]

    run(tmp_path, main)


def test_a_key_counts_where_its_door_reads_it(tmp_path: Path) -> None:
    """The tool's header opens the door alone, and osamd's own header everything but the door."""

    async def main(client: httpx2.AsyncClient) -> None:
        own = {"X-API-Key": KEY}
        assert 403 == (await client.post(PREDICT, json={}, headers=own)).status_code
        assert 403 == (await client.get("/api/tags", headers=TOKEN)).status_code
        assert 200 == (await client.get("/api/tags", headers=own)).status_code
        wrong = await client.post(PREDICT, json={}, headers={"Token": "guess"})
        assert 403 == wrong.status_code
        assert "sorry" in wrong.json()["message"]

    run(tmp_path, main)
