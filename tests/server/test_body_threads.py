"""Where bodies are parsed: on the event loop only if they are small, and nothing in them takes time."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import GENERATE
from pydantic import SecretStr, field_validator
from serving import KEY, clean_environment
from starlette.requests import Request
from starlette.responses import Response

from osamd.server.answering import answer
from osamd.server.app import create_app
from osamd.server.bodies import parse_fields, read_json, receive_body
from osamd.server.door import Door
from osamd.server.operations import Operations
from osamd.server.routes import generate
from osamd.settings import Settings
from osamd.timings import Timings
from osamd.wire.fields import WireModel
from osamd.wire.schemas import EmbedBody

threads: list[int] = []


class Named(WireModel):
    """A body that notes which thread checks it."""

    name: str

    @field_validator("name")
    @classmethod
    def _note(cls, name: str) -> str:
        threads.append(threading.get_ident())
        return name


def request_of(*chunks: bytes) -> Request:
    """A request whose body comes in these chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    scope = {"type": "http", "method": "POST", "headers": [], "path": "/", "query_string": b"", "server": ("here", 80)}
    return Request(scope, receive)


def test_small_json_is_parsed_on_a_thread() -> None:
    """64 KB of quotation marks take a tenth of a second."""
    body = asyncio.run(read_json(request_of(b'{"name":', b' "x"}'), Named))

    assert body.name == "x"
    assert threads
    assert threading.get_ident() not in threads


def test_a_body_is_not_held_twice() -> None:
    """Its chunks are let go when they are joined, and what was decoded is not in the fields any more."""
    raw = asyncio.run(receive_body(request_of(b'{"image": ', b'"aGk="}'), Settings(), Timings()))
    parsed = parse_fields(raw, EmbedBody, Settings())

    assert not raw.chunks
    assert parsed.fields.image is None
    assert parsed.image is not None
    assert parsed.image.data == b"hi"


DOOR = "/tool/generate"
JSON = "application/json"
HANDLE = b'{"image_id": "unknown", "prompt": {"points": [[1, 1]], "point_labels": [1]}}'
LARGE = HANDLE + b" " * 1024

operations = Operations()


@operations.post(DOOR)
async def through_a_door(request: Request) -> Response:
    """As ``/api/generate``, for another tool."""
    return await answer(request, generate._ask, generate._write)


@pytest.fixture
def parsed_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each body that was parsed, whether that was on the event loop."""
    found: list[bool] = []

    def noted(*args: Any) -> Any:
        found.append(threading.current_thread() is threading.main_thread())
        return parse_fields(*args)

    monkeypatch.setattr(generate, "parse_fields", noted)
    return found


def send(cache: Path, *requests: tuple[str, bytes], media_type: str = JSON, **settings: Any) -> list[int]:
    """Send bodies one after the other to a new app; returns the statuses."""
    with_defaults: Any = {"cache": cache, "pull": "never", "docs": "off", "preload": ()} | settings
    door = Door("tool", "a tool", (DOOR,), operations)
    app = create_app(Settings(api_key=SecretStr(KEY), **with_defaults), doors=[door])

    async def call() -> list[int]:
        transport = httpx2.ASGITransport(app=app)
        headers = {"X-API-Key": KEY, "Content-Type": media_type}
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://osamd.example", headers=headers) as client,
        ):
            return [(await client.post(path, content=body)).status_code for path, body in requests]

    return asyncio.run(call())


def test_clicks_on_known_images_are_parsed_at_once(tmp_path: Path, parsed_on_the_loop: list[bool]) -> None:
    """A thread would take longer to wake; but the first one imports NumPy and builds schemas."""
    statuses = send(tmp_path, *[(GENERATE, HANDLE)] * 3, (GENERATE, LARGE))

    assert [410] * 4 == statuses
    assert [False, True, True, False] == parsed_on_the_loop


def test_what_may_take_long_is_parsed_on_a_thread(tmp_path: Path, parsed_on_the_loop: list[bool]) -> None:
    """A small body may name a file to be read, and those of other tools may be compressed."""
    assert [410] * 4 == send(tmp_path, *[(GENERATE, HANDLE)] * 2, *[(DOOR, HANDLE)] * 2)
    assert [410] * 2 == send(tmp_path, *[(GENERATE, HANDLE)] * 2, image_root=tmp_path)

    assert [False, True, False, False, False, False] == parsed_on_the_loop


def test_long_queries_and_types_are_parsed_on_a_thread(tmp_path: Path, parsed_on_the_loop: list[bool]) -> None:
    """Both may have thousands of parameters, whose parsers are pure Python, beside a small body."""
    query = GENERATE + "?" + "&".join(["trace=1"] * 200)
    assert [410] * 3 == send(tmp_path, *[(GENERATE, HANDLE)] * 2, (query, HANDLE))
    assert [410] * 2 == send(tmp_path, *[(GENERATE, HANDLE)] * 2, media_type=JSON + "; a=b" * 300)

    assert [False, True, False, False, False] == parsed_on_the_loop


# Says whether NumPy is imported on the event loop when the first prompt comes behind a body without one.
NUMPY = """
import asyncio
import sys
import threading
from pathlib import Path
import httpx2
from pydantic import SecretStr
from osamd.server.app import create_app
from osamd.settings import Settings

class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name == "numpy":
            print(threading.current_thread() is threading.main_thread())

async def main(key, cache):
    settings = Settings(api_key=SecretStr(key), cache=Path(cache), pull="never", docs="off", preload=())
    transport = httpx2.ASGITransport(app=create_app(settings))
    async with httpx2.AsyncClient(transport=transport, base_url="http://a", headers={"X-API-Key": key}) as client:
        for prompt in (None, {"points": [[1, 1]], "point_labels": [1]}):
            await client.post("/api/generate", json={"image_id": "unknown", "prompt": prompt})

sys.meta_path.insert(0, Finder)
asyncio.run(main(*sys.argv[1:]))
"""


def test_numpy_is_not_imported_on_the_event_loop(tmp_path: Path) -> None:
    """It takes a tenth of a second; the first body that is parsed may need none, as one without a prompt."""
    command = [sys.executable, "-c", NUMPY, KEY, str(tmp_path)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment({}))

    assert "False\n" == ended.stdout
