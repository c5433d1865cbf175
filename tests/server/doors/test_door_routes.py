"""Every route of every door: who may call it, how it refuses, and what the description of the API tells of that."""

import base64
import re
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from every_door import every_door, run
from serving import KEY

from osamd.server.app import ADMIN_PATHS, create_app
from osamd.server.door import Door
from osamd.server.doors import open_doors
from osamd.server.operations import OperationRoute
from osamd.server.routes.docs import openapi_document
from osamd.settings import DoorName, Settings

# What stands in the places of paths.
PLACES = {"{model}": "builtin", "{name}": "builtin", "{model_id}": "builtin"}
# Routes that need no key at all, by method and path; a new one fails a test until it is listed here.
PUBLIC: set[tuple[str, str]] = {("POST", "/label-studio/{model}/webhook")}
# Guarded like the others, but where the operator says so a client without a key may come in.
KEYLESS = {"/qupath", "/qupath/", "/qupath/version/", "/qupath/weights/", "/qupath/sam3/"}
# Other spellings of routes that are described.
UNDESCRIBED = {"/qupath"}


def routes() -> list[tuple[str, str, Door]]:
    """Method, path and door of each."""
    settings = every_door()
    app = create_app(settings)
    found = [
        (route.method, route.path, door)
        for route in app.routes
        if isinstance(route, OperationRoute)
        for door in open_doors(settings)
        if door.covers(route.path)
    ]
    assert {door.name for _, _, door in found} == set(get_args(DoorName))
    return found


def address_of(path: str) -> str:
    """A path with something in each of its places."""
    for place, value in PLACES.items():
        path = path.replace(place, value)
    assert "{" not in path, "a new place in a path: say in PLACES what stands there"
    return path


def test_every_door_has_one_name_and_no_path_of_another() -> None:
    """The name in the settings is the door's own; nothing is for admins only."""
    for name, door in zip(get_args(DoorName), open_doors(every_door()), strict=True):
        assert name == door.name
        assert not any(door.covers(path) for path in ADMIN_PATHS)
    own = [route.path for route in create_app(every_door(), doors=()).routes if isinstance(route, OperationRoute)]
    assert "/api/generate" in own
    assert not set(own) & {path for _, path, _ in routes()}
    assert set(Settings().doors) == {
        door.name
        for door in open_doors(every_door())
        if not door.is_keyless and not any(door.covers(path) for _, path in PUBLIC)
    }


def test_every_route_refuses_a_missing_and_a_wrong_key(tmp_path: Path) -> None:
    """In words and with a status that tools understand, in every channel; those on the list answer without one."""
    wrong = "wrong-key-2mQv"
    basic = base64.b64encode(f"user:{wrong}".encode()).decode()
    channels: list[dict[str, Any]] = [
        {},
        {"headers": {"X-API-Key": wrong}},
        {"headers": {"Token": wrong}},
        {"headers": {"Authorization": f"Bearer {wrong}"}},
        {"headers": {"Authorization": f"Basic {basic}"}},
        {"params": {"api_key": wrong}},
        {"headers": {"X-API-Key": KEY, "Token": wrong}},
    ]

    async def main(client: httpx2.AsyncClient) -> None:
        for method, path, door in routes():
            for channel in channels:
                reply = await client.request(method, address_of(path), **channel)
                if (method, path) in PUBLIC:
                    assert 200 == reply.status_code, path
                    continue
                assert 401 == reply.status_code, (path, channel)
                if method == "HEAD":
                    continue
                problem = reply.json()
                assert "application/json" == reply.headers["content-type"]
                assert "access_denied" == problem["code"]
                assert problem["message"] == problem["detail"]
                assert reply.headers["x-request-id"] == problem["request_id"]
                assert wrong not in reply.text
                # Without telling which of them is right.
                assert ("more than one API key" in problem["message"]) == (len(channel.get("headers", "")) > 1)
                assert door.is_keyless == (path in KEYLESS)

    run(tmp_path, main)


def test_every_route_lets_the_key_in(tmp_path: Path) -> None:
    """In each header that tools use; what is missing then is a body."""
    basic = base64.b64encode(f"user:{KEY}".encode()).decode()
    headers = [
        {"X-API-Key": KEY},
        {"Token": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"Basic {basic}"},
    ]

    async def main(client: httpx2.AsyncClient) -> None:
        for method, path, _ in routes():
            for header in headers:
                reply = await client.request(method, address_of(path), headers=header)
                assert reply.status_code not in {401, 403, 404, 405}, (path, reply.text)
                assert reply.status_code < 500, (path, reply.text)

    run(tmp_path, main)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe{", b"{}", b"[" * 100_000, b'{"a":' * 50]
)
def test_no_body_is_answered_with_a_server_error(tmp_path: Path, body: bytes) -> None:
    """What is not even JSON, or nothing of the kind, gets a 4xx that says so."""

    async def main(client: httpx2.AsyncClient) -> None:
        for method, path, _ in routes():
            reply = await client.request(method, address_of(path), headers={"X-API-Key": KEY}, content=body)
            assert reply.status_code < 500, (path, reply.text)
            if method == "POST" and (method, path) not in PUBLIC and body != b"{}":
                assert 400 <= reply.status_code < 500, (path, reply.text)
                assert reply.json()["message"]

    run(tmp_path, main)


def test_every_route_is_described_under_its_doors_tag() -> None:
    """With what the guard answers, as the statuses that this door gives them, and with schemas that are there."""
    document: Any = openapi_document(get_args(DoorName))
    for method, path, door in routes():
        if method == "HEAD" or path in UNDESCRIBED:
            continue
        operation = document["paths"][path][method.lower()]
        assert [door.name] == operation["tags"], path
        if (method, path) in PUBLIC:
            assert [] == operation["security"], path
            continue
        assert door.is_keyless == ({} in operation["security"]), path
        assert {"basic": []} in operation["security"], path
        told = {
            status: set(re.findall("`(.+?)`", answer["description"]))
            for status, answer in operation["responses"].items()
        }
        assert "access_denied" in told["401"], path
        for status, answer in operation["responses"].items():
            assert int(status) < 400 or ["application/json"] == list(answer["content"]), path
    assert {tag["name"] for tag in document["tags"]} == set(get_args(DoorName))
    for reference in re.findall("#/components/schemas/([^']+)'", str(document)):
        assert reference in document["components"]["schemas"]


def test_closed_doors_are_not_there() -> None:
    """``OSAMD_DOORS=none`` leaves osamd's own API."""
    document: Any = openapi_document(())

    assert not [path for _, path, _ in routes() if path in document["paths"]]
