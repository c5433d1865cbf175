"""An answer of a cluster has each request id once."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from osamd.cluster.request_ids import NAME, OneRequestId
from osamd.server.app import create_app
from osamd.settings import Settings


def ids(given: bytes) -> list[bytes]:
    """The ids that osamd's app puts into an answer to a request with this one."""
    app = OneRequestId(create_app(Settings(api_key=SecretStr("key-of-this-test-1"), preload=())))
    found: list[bytes] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.extend(value for name, value in message["headers"] if name.lower() == NAME)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/health",
        "headers": [(NAME, given)],
        "query_string": b"",
    }
    scope |= {"http_version": "1.1", "scheme": "http", "root_path": "", "server": ("127.0.0.1", 80), "client": None}
    asyncio.run(app(scope, receive, send))
    return found


@pytest.mark.parametrize(("given", "count"), [(b"id-1", 0), (b"a b", 1), (b"x" * 129, 1)])
def test_rays_id_is_not_repeated(given: bytes, count: int) -> None:
    """Ray adds what it was given; osamd its own if that was not harmless."""
    found = ids(given)
    assert count == len(found)
    assert given not in found
