"""QuPath's SAM extension: requests as its source has them, and outlines that are the masks of ``/api/generate``."""

import asyncio
import itertools
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
import pytest
from asking import CLICK, GENERATE
from blob_server import serve_blobs
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import Inside, base64_of, inside_of
from pydantic import SecretStr
from serving import KEY
from shelf import LOCAL, Shelf

from osamd.pixels import edge_polygons as edge_polygons_module
from osamd.pixels.edge_polygons import edge_polygons
from osamd.pixels.masks import mask_from_array
from osamd.server.app import create_app
from osamd.settings import Settings
from osamd.wire.replies import finish

BASE = "/qupath/"
BOX = [60, 20, 400, 290]
HERE = ("127.0.0.1", 4711)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with a model of each family."""
    folder = tmp_path_factory.mktemp("qupath")
    with serve_blobs() as web:
        shelf = Shelf(folder, web)
        for name, family in LOCAL.items():
            shelf.add_local(name, family)
        return shelf.write()


def run(
    folder: Path,
    main: Callable[[httpx2.AsyncClient], Awaitable[None]],
    *,
    client: tuple[str, int] = HERE,
    host: str = "localhost:11368",
    **settings: Any,
) -> None:
    """Call ``main`` with a client of an app with this door, as an SSH tunnel makes one."""
    with_defaults: Any = {
        "cache": folder,
        "pull": "never",
        "threads": 1,
        "preload": (),
        "doors": ("qupath",),
    } | settings
    app = create_app(Settings(api_key=SecretStr(KEY), **with_defaults))

    async def call() -> None:
        transport = httpx2.ASGITransport(app=app, client=client)
        async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as opened:
            await main(opened)
        await app.state.services.close()

    asyncio.run(call())


def asked_for(photo: bytes, **fields: Any) -> dict[str, Any]:
    """A request with the fields that the extension always sends."""
    always = {"type": "sam2_t", "multimask_output": False, "checkpoint_url": "osamd:builtin:latest"}
    return always | {"b64img": base64_of(photo)} | fields


def inside_polygons(polygons: list[list[list[list[float]]]], shape: tuple[int, int]) -> Inside:
    """The pixels whose centres are within GeoJSON's polygons, by counting crossings."""
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        within = np.zeros(shape, bool)
        for ring in polygon:
            assert ring[0] == ring[-1]
            for (x1, y1), (x2, y2) in itertools.pairwise(ring):
                first, last = (math.ceil(y - 0.5) for y in sorted((y1, y2)))
                for row in range(first, last):
                    x = x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1)
                    within[row, : math.ceil(x - 0.5)] ^= True
        inside |= within
    return inside


async def ours(client: httpx2.AsyncClient, photo: bytes, model: str, **fields: Any) -> list[Inside]:
    """The masks of ``/api/generate``."""
    body = {"image": base64_of(photo), "model": model, **fields}
    reply = await client.post(GENERATE, json=body, headers={"X-API-Key": KEY})
    assert 200 == reply.status_code, reply.text
    return [inside_of(annotation) for annotation in reply.json()["annotations"]]


def test_outlines_are_the_masks_of_generate(tmp_path: Path, catalog: Path, photo: bytes) -> None:
    """A box, points of both kinds, three candidates, words, examples: without any key, from this machine."""

    async def main(client: httpx2.AsyncClient) -> None:
        async def theirs(path: str, **fields: Any) -> list[Inside]:
            reply = await client.post(path, json=asked_for(photo, **fields))
            assert 200 == reply.status_code, reply.text
            found = []
            for feature in reply.json():
                assert "Feature" == feature["type"]
                assert 0 <= feature["properties"]["quality"] <= 1
                assert "MultiPolygon" == feature["geometry"]["type"]
                found.append(inside_polygons(feature["geometry"]["coordinates"], (300, 451)))
            return found

        async def check(path: str, fields: dict[str, Any], model: str, **expected: Any) -> None:
            masks = await ours(client, photo, model, **expected)
            found = await theirs(path, **fields)
            assert len(masks) == len(found) > 0
            assert all((one == other).all() for one, other in zip(masks, found, strict=True))

        both = {"points": [CLICK, [20, 20]], "point_labels": [1, 0]}
        points = {"point_coords": both["points"], "point_labels": [1, 0]}
        await check(BASE, {"bbox": BOX}, "builtin", prompt={"box": BOX})
        await check("/qupath", points, "builtin", prompt=both)
        await check(BASE, points | {"bbox": BOX}, "builtin", prompt={"box": BOX, **both})
        await check(BASE, points | {"multimask_output": True}, "builtin", prompt=both, multimask=True)
        await check(BASE, points | {"checkpoint_url": None}, "sam2:tiny", prompt=both)
        words = {"type": "sam3", "checkpoint_url": None, "text_prompt": "cat", "confidence_threshold": 0.2}
        await check(f"{BASE}sam3/", words, "sam3", prompt={"texts": ["cat"], "score_threshold": 0.2})
        example_box = {"positive_bboxes": [[60, 20, 340, 270]], "negative_bboxes": []}
        prompt = {"texts": ["cat"], "box": BOX, "score_threshold": 0.2}
        await check(f"{BASE}sam3/", words | example_box, "sam3", prompt=prompt)
        again = await client.post(BASE, json=asked_for(photo, bbox=BOX))
        assert "hit" == again.headers["x-osamd-cache"]

    run(tmp_path, main, catalog=catalog)


def test_weights_are_models(tmp_path: Path) -> None:
    """The list of a type has its own model and the built-in one; the version begins like samapi's."""

    async def main(client: httpx2.AsyncClient) -> None:
        listed = (await client.get(f"{BASE}weights/", params={"type": "sam2_bp"})).json()
        assert ["sam2:latest", "builtin:latest"] == [weights["name"] for weights in listed]
        assert {"type": "sam2_bp", "name": "builtin:latest", "url": "osamd:builtin:latest"} == listed[1]
        assert 8 < len((await client.get(f"{BASE}weights/")).json())
        version = await client.get(f"{BASE}version/")
        assert "text/plain; charset=utf-8" == version.headers["content-type"]
        assert version.text.startswith("0.7.1+osamd.")

    run(tmp_path, main)


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "weights elsewhere": ({"checkpoint_url": "https://example.com/sam.pth"}, 422, "URLs of others are not fetched"),
    "no such weights": ({"checkpoint_url": "osamd:nothing"}, 404, "nothing"),
    "no such type": ({"type": "vit_x", "checkpoint_url": None}, 422, "expected one of vit_t, vit_b"),
    "no prompt": ({"bbox": None}, 422, "the prompt is empty"),
    "a short box": ({"bbox": [1, 2, 3]}, 422, "bbox: List should have at least 4 items"),
    "a huge box": ({"bbox": [0, 0, 10**400, 1]}, 422, "expected a finite number"),
    "elsewhere": ({"bbox": [4000, 4000, 4010, 4010]}, 422, "outside the image"),
    "labels missing": ({"point_coords": [[1, 1]], "point_labels": []}, 422, "expected one label per point"),
    "no image": ({"b64img": None}, 422, "b64img"),
    "broken image": ({"b64img": "AAAA"}, 422, "image"),
}


def test_refusals_have_words(tmp_path: Path, photo: bytes) -> None:
    """The extension only logs them."""

    async def main(client: httpx2.AsyncClient) -> None:
        for name, (fields, status, message) in REFUSED.items():
            reply = await client.post(BASE, json=asked_for(photo, bbox=BOX) | fields)
            assert status == reply.status_code, (name, reply.text)
            assert message in reply.json()["message"], name
        negative = asked_for(photo, type="sam3", text_prompt="x", negative_bboxes=[[1, 1, 5, 5]])
        reply = await client.post(f"{BASE}sam3/", json=negative)
        assert (422, True) == (reply.status_code, "negative boxes are not supported" in reply.text)
        assert 404 == (await client.post(f"{BASE}automask/", json={})).status_code

    run(tmp_path, main)


# --- who may come in without a key ----------------------------------------------------------------------------------


async def version_without_key(client: httpx2.AsyncClient, **headers: str) -> tuple[int, str]:
    """Status and code of a request of the extension's."""
    reply = await client.get(f"{BASE}version/", headers=headers)
    return reply.status_code, reply.json()["code"] if reply.status_code != 200 else ""


@pytest.mark.parametrize(
    ("client", "networks", "status"),
    [
        (HERE, None, 200),
        (("::1", 4711), None, 200),
        (("192.0.2.7", 4711), None, 401),
        (("192.0.2.7", 4711), ("192.0.2.0/24",), 200),
        (HERE, (), 401),
    ],
)
def test_only_listed_networks_need_no_key(
    tmp_path: Path, client: tuple[str, int], networks: tuple[str, ...] | None, status: int
) -> None:
    """This machine unless told otherwise; elsewhere a key still opens the door."""

    async def main(opened: httpx2.AsyncClient) -> None:
        assert status == (await version_without_key(opened))[0]
        assert 200 == (await version_without_key(opened, Token=KEY))[0]
        assert 401 == (await version_without_key(opened, Token="wrong-key-4fQ"))[0]
        assert 403 == (await opened.get("/api/tags")).status_code

    settings: Any = {} if networks is None else {"keyless_networks": networks}
    run(tmp_path, main, client=client, **settings)


def test_what_a_proxy_or_a_page_sends_needs_a_key(tmp_path: Path) -> None:
    """A proxy on this machine has its address; so has the browser, whatever page it shows."""

    async def main(client: httpx2.AsyncClient) -> None:
        assert (401, "access_denied") == await version_without_key(client, **{"X-Forwarded-For": "192.0.2.7"})
        assert (403, "foreign_origin") == await version_without_key(client, Origin="https://evil.example")
        assert (403, "foreign_origin") == await version_without_key(client, Host="evil.example")

    run(tmp_path, main)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_what_a_trusted_proxy_forwards_needs_a_key_too(header: str, tmp_path: Path) -> None:
    """It may have been told that the client is this machine."""

    async def main(client: httpx2.AsyncClient) -> None:
        told = {"X-Forwarded-For": "127.0.0.1", header: "for=203.0.113.9" if header == "Forwarded" else "127.0.0.1"}
        assert (401, "access_denied") == await version_without_key(client, **told)

    run(tmp_path, main, trusted_proxies=("127.0.0.1/32",))


def test_who_needs_no_key_is_a_user_of_its_own(tmp_path: Path, photo: bytes) -> None:
    """Named anonymous in the log; images of keys are not recognized for it."""

    async def main(client: httpx2.AsyncClient) -> None:
        mine = {"image": base64_of(photo), "model": "builtin", "prompt": {"box": BOX}}
        await client.post(GENERATE, json=mine, headers={"X-API-Key": KEY})
        first = await client.post(BASE, json=asked_for(photo, bbox=BOX))
        assert "miss" == first.headers["x-osamd-cache"]
        counted = (await client.get("/metrics", headers={"X-API-Key": KEY})).text
        labels = 'door="qupath",key="anonymous",method="POST",route="/qupath/",status="200"'
        assert f"osamd_requests_total{{{labels}}}" in counted
        assert 401 == (await client.get("/qupath/nothing", headers={"Token": "wrong-key-4fQ"})).status_code

    run(tmp_path, main)


def test_the_door_is_closed_by_default(tmp_path: Path) -> None:
    """Without ``OSAMD_DOORS`` its paths are unknown, and guarded like all unknown ones."""

    async def main(client: httpx2.AsyncClient) -> None:
        assert 403 == (await client.get(f"{BASE}version/")).status_code
        assert 404 == (await client.get(f"{BASE}version/", headers={"X-API-Key": KEY})).status_code

    run(tmp_path, main, doors=Settings().doors)


# --- outlines -------------------------------------------------------------------------------------------------------

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans())
CHECKERBOARD = (np.indices((6, 7)).sum(axis=0) % 2).astype(bool)
RING = np.pad(np.zeros((1, 1), bool), 1, constant_values=True)


# A part with a hole, and in it another.
NESTED = np.pad(np.pad(RING, 1), 1, constant_values=True)


@given(MASKS, st.sampled_from([0, edge_polygons_module.FEW_PAIRS]))
@example(CHECKERBOARD, 0)
@example(~CHECKERBOARD, 0)
@example(RING, 0)
@example(NESTED, 0)
@example(NESTED, edge_polygons_module.FEW_PAIRS)
def test_outlines_have_exactly_the_pixels(inside: Inside, few_pairs: int) -> None:
    """Corners, diagonals, holes and islands: what is inside by its centre is the mask, and no ring meets another."""
    mask = mask_from_array(inside, offset=(2, 1), height=12, width=12)
    if mask is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edge_polygons_module, "FEW_PAIRS", few_pairs)
        parts = finish(edge_polygons(mask))
    polygons = [[ring.tolist() for ring in (part.exterior, *part.holes)] for part in parts]
    expected = np.zeros((12, 12), bool)
    expected[1 : 1 + inside.shape[0], 2 : 2 + inside.shape[1]] = inside
    rounded = json.loads(json.dumps(polygons), parse_float=lambda text: round(float(text), 2))

    assert (inside_polygons(rounded, (12, 12)) == expected).all()
    vertices = [tuple(point) for polygon in polygons for ring in polygon for point in ring[:-1]]
    assert len(vertices) == len(set(vertices))
    count, _ = cv2.connectedComponents(np.pad(inside, 1).view(np.uint8), connectivity=4)
    assert count - 1 == len(parts)
