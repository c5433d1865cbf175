"""Where bodies are parsed: never on the event loop."""

import asyncio
import threading
from typing import Any

from pydantic import field_validator
from starlette.requests import Request

from osamd.server.bodies import parse_fields, read_json, receive_body
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
