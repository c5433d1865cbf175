"""The header by which load balancers keep an image and its clicks on one server."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import CLICK
from puppet import GOOD, Told, puppet
from serving import KEY, RunningServer

from osamd.client import AsyncClient, Client
from osamd.client.arguments import embed_call, forget_call, segment_call
from osamd.client.routing import HEADER

PIXELS = np.zeros((5, 7), np.uint8)


@pytest.mark.parametrize("kind", ["bytes", "path", "data URI", "array"])
def test_an_image_and_its_handles_have_the_same_header(
    server: RunningServer, photo: bytes, tmp_path: Path, kind: str
) -> None:
    """However the image is given, its header is that of the handles that the server gives for it."""
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo)
    uri = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    image: Any = {"bytes": photo, "path": file, "data URI": uri, "array": PIXELS}[kind]
    with Client(server.url, api_key=KEY) as client:
        found = client.segment(image, points=[(3, 3) if kind == "array" else CLICK])

    handle = segment_call(None, {"image_id": found.image_id}).headers
    assert (
        {HEADER: found.image_id[4:12]} == handle == segment_call(image, {}).headers == embed_call(image, None).headers
    )
    assert handle == forget_call(found.image_id).headers
    assert [handle[HEADER]] * len(found.annotations) == [str(item.mask_id)[5:13] for item in found.annotations]


def test_both_clients_send_it(photo: bytes) -> None:
    """With every request about an image, and with no other."""

    async def asking(url: str) -> None:
        async with AsyncClient(url) as client:
            await client.segment(photo)
            await client.wait_until_ready()

    with puppet(Told(200, GOOD)) as server:
        with Client(server.url) as client:
            client.segment(photo)
            client.wait_until_ready()
        asyncio.run(asking(server.url))
        sent = [headers.get(HEADER) for headers in server.asked]

    expected = segment_call(photo, {}).headers[HEADER]
    assert [expected, None, expected, None] == sent


@pytest.mark.parametrize(
    "image", ["https://example.com/cat.jpg", "data:image/png;base64,*", "data:image/png;base64,A", "data:"]
)
def test_without_content_there_is_no_header(image: str) -> None:
    """An image that the server fetches, and text that is not base64: any server may answer."""
    assert {} == segment_call(image, {}).headers


@pytest.mark.parametrize("handle", ["img_1", "", "img_" + "A" * 32, "img_" + "1" * 32 + "\r\nX-API-Key: mine"])
def test_no_other_handle_becomes_a_header(handle: str) -> None:
    """Text from elsewhere cannot add headers; the server says what is wrong with it."""
    assert {} == segment_call(None, {"image_id": handle}).headers == forget_call(handle).headers


def test_the_server_ignores_it(server: RunningServer, photo: bytes) -> None:
    """A wrong header costs nothing but the route."""
    with Client(server.url, api_key=KEY) as client:
        found = client.segment(photo, points=[CLICK])
    with server.client() as http:
        body = {"image_id": found.image_id, "prompt": {"points": [CLICK], "point_labels": [1]}}
        answer = http.post("/api/generate", json=body, headers={HEADER: "deadbeef"})

    assert 200 == answer.status_code, answer.text
