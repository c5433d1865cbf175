"""``Client`` and ``AsyncClient``: against the real server, and against a scripted server."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import BOX, CLICK
from pictures import png_pixels
from puppet import GOOD, Told, problem, puppet
from serving import KEY, RunningServer, clean_environment, free_port
from waiting import WAIT_S

from osamd.client import AsyncClient, Client
from osamd.errors import (
    AccessError,
    DeadlineExceededError,
    EmbeddingExpiredError,
    InvalidImageError,
    InvalidPromptError,
    InvalidRequestError,
    ModelUnavailableError,
    OsamdError,
    OverloadedError,
    UnknownModelError,
    UnreachableError,
)

POINT = (float(CLICK[0]), float(CLICK[1]))


@pytest.fixture
def ours(server: RunningServer) -> Iterator[Client]:
    """Our client of the shared server."""
    with Client(server.url, api_key=KEY) as opened:
        yield opened


# --- the real server ------------------------------------------------------------------------------------------------


def test_segment_gives_typed_annotations(ours: Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """A reply comes back as values: boxes, masks, sizes and times."""
    found = ours.segment(photo, points=[POINT])

    (expected,), (item,) = clicked["annotations"], found.annotations
    assert (found.model, found.width, found.height) == ("builtin:latest", 451, 300)
    assert tuple(expected["bounding_box"].values()) == item.box
    assert np.array_equal(
        png_pixels(item.mask_png), png_pixels(ours.segment(photo, points=[POINT]).annotations[0].mask_png)
    )
    assert (item.prompt_index, item.mask_index) == (0, 0)
    assert found.raw["annotations"][0]["mask"] == item.mask
    assert found.timings_ms["decode"] > 0


def test_segment_takes_bytes_and_paths(ours: Client, photo: bytes, tmp_path: Path) -> None:
    """An image may be bytes, a path, or a path as text."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(photo)

    assert len({ours.segment(image).image_id for image in (photo, path, str(path))}) == 1
    with pytest.raises(FileNotFoundError):
        ours.segment(tmp_path / "missing.jpg")


def test_segment_sends_every_argument(ours: Client, photo: bytes) -> None:
    """Labels, boxes, layouts, formats, several prompts, refinement and embeddings reach the server."""
    both = ours.segment(photo, points=[POINT, (100, 250)], labels=[1, 0], box=BOX, mask_layout="crop")
    xmin, ymin, xmax, ymax = both.annotations[0].box
    assert png_pixels(both.annotations[0].mask_png).shape == (ymax - ymin + 1, xmax - xmin + 1)

    several = ours.segment(photo, prompts=[{"box": BOX}, {"points": [CLICK], "labels": [1]}], mask_format="rle")
    assert {0, 1} == {item.prompt_index for item in several.annotations}
    with pytest.raises(TypeError, match="mask_format"):
        _ = several.annotations[0].mask_png

    first = ours.segment(photo, points=[POINT], model="builtin", multimask=True, include=["image_embedding"])
    assert first.raw["image_embedding"]["original_width"] == 451
    refined = ours.segment(image_id=first.image_id, mask_input=first.annotations[0].mask_id, points=[POINT])
    assert refined.image_id == first.image_id
    nothing = ours.segment(photo, points=[(20, 20)], labels=[0], mask_format="none")
    assert nothing.annotations == ()


def test_handle_is_used_and_forgotten(ours: Client, photo: bytes) -> None:
    """Embed, click by handle, forget; after that the error is the typed one."""
    handle = ours.embed(photo + b"of the client", model="builtin")
    found = ours.segment(image_id=handle.image_id, points=[POINT])
    ours.forget(handle.image_id)

    assert (handle.model, handle.width, handle.height) == ("builtin:latest", 451, 300)
    assert found.annotations
    with pytest.raises(EmbeddingExpiredError) as caught:
        ours.segment(image_id=handle.image_id)
    assert caught.value.field == "image_id"
    with pytest.raises(EmbeddingExpiredError):
        ours.forget(handle.image_id)


def test_async_client_does_the_same(server: RunningServer, photo: bytes) -> None:
    """The asyncio client segments, embeds, forgets, waits and fails alike, several requests at once."""

    async def use() -> None:
        async with AsyncClient(server.url, api_key=KEY) as client:
            await client.wait_until_ready()
            found, boxed = await asyncio.gather(
                client.segment(photo, points=[POINT]), client.segment(photo, box=BOX, model="builtin")
            )
            assert found.image_id == boxed.image_id
            handle = await client.embed(photo + b"of the other client")
            await client.forget(handle.image_id)
            with pytest.raises(EmbeddingExpiredError):
                await client.segment(image_id=handle.image_id)
            with pytest.raises(TypeError):
                await client.segment(photo, image_id=handle.image_id)
        async with AsyncClient(server.url, api_key="wrong") as stranger:
            with pytest.raises(AccessError):
                await stranger.segment(photo)

    asyncio.run(use())


@pytest.mark.parametrize(
    ("call", "kind", "part"),
    [
        (lambda client, photo: client.segment(photo, model="nope"), UnknownModelError, "nope"),
        (
            lambda client, photo: client.segment(photo, points=[(9000, 1)]),
            InvalidPromptError,
            "prompt.points[0]: point",
        ),
        (lambda client, _: client.segment(b"rubbish"), InvalidImageError, "image: not an image"),
        (lambda client, photo: client.segment(photo, model="sam_vit_b"), ModelUnavailableError, "sha256-3346b9cc"),
        (lambda client, photo: client.embed(photo, model="nope"), UnknownModelError, "nope"),
    ],
)
def test_errors_are_typed(
    ours: Client, photo: bytes, call: Callable[[Client, bytes], object], kind: type[OsamdError], part: str
) -> None:
    """What the server refuses is raised as the error of the tree, with the field in front of its message."""
    with pytest.raises(kind) as caught:
        call(ours, photo)

    assert part in str(caught.value)


def test_field_is_not_repeated_in_the_message(ours: Client, photo: bytes) -> None:
    """A message that names its field already is not prefixed again."""
    with pytest.raises(OsamdError) as caught:
        ours.segment(photo, box=[1, 2, 3])

    assert str(caught.value).startswith("prompt.box: ")
    assert str(caught.value).count("prompt.box") == 1


def test_url_may_be_the_endpoint(server: RunningServer, photo: bytes) -> None:
    """The address may end in a slash or in ``/api/generate``, as the seed's constant does."""
    for suffix in ("", "/", "/api/generate", "/api/generate/"):
        with Client(server.url + suffix, api_key=KEY, patience_s=0) as client:
            assert client.segment(photo, mask_format="none").width == 451


# --- a server that says what it is told to --------------------------------------------------------------------------


def tree(root: type[OsamdError]) -> Iterator[type[OsamdError]]:
    """Every error below one."""
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


CODES = {kind.code: kind for kind in tree(OsamdError)}


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_has_its_type(code: str) -> None:
    """Each code of the tree is raised as the class that carries it, with the request's id for what is the server's."""
    kind = CODES[code]
    with (
        puppet(problem(code, kind.status)) as server,
        Client(server.url, patience_s=0) as client,
        pytest.raises(OsamdError) as caught,
    ):
        client.segment(b"x")

    assert type(caught.value) is kind
    assert f"told {code}" in str(caught.value)
    assert ("id-1" in str(caught.value)) == (kind.status >= 500)


def test_unknown_code_raises_the_root_class() -> None:
    """A code of a later version is still an error of the tree."""
    with (
        puppet(problem("brand_new", 418)) as server,
        Client(server.url) as client,
        pytest.raises(OsamdError, match="told brand_new"),
    ):
        client.segment(b"x")


def test_no_patience_tries_once() -> None:
    """``patience_s=0`` raises the first error: server busy, or connection refused."""
    with puppet(problem("overloaded", 503)) as full, Client(full.url, patience_s=0) as client:
        with pytest.raises(OverloadedError):
            client.segment(b"x")
        assert len(full.asked) == 1
    with (
        Client(f"http://127.0.0.1:{free_port()}", patience_s=0) as client,
        pytest.raises(UnreachableError, match="cannot reach http://127"),
    ):
        client.segment(b"x")


def test_timeout_is_a_deadline_error() -> None:
    """A server that never answers is given up after ``timeout_s``, and not asked again."""
    with puppet() as server, Client(server.url, timeout_s=0.5) as client:
        with pytest.raises(DeadlineExceededError):
            client.segment(b"x")
        assert server.came.wait(WAIT_S)
        assert len(server.asked) == 1


# --- the client by itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["plain", "  with-space\n", "schl\u00fcssel"])
def test_key_is_sent_as_bytes(key: str) -> None:
    """The key travels in X-API-Key, without the white space a file leaves around it, in UTF-8."""
    with puppet(Told(200, GOOD)) as server, Client(server.url, api_key=key) as client:
        client.segment(b"x")

    assert server.asked[0]["X-API-Key"].encode("latin-1").decode() == key.strip()


@pytest.mark.parametrize("key", ["two\nlines", "tab\tin", "nul\0", "del\x7f"])
def test_key_with_control_characters_is_refused_unseen(key: str) -> None:
    """No header can hold it, and the message does not show it."""
    with pytest.raises(InvalidRequestError, match="control character") as caught:
        Client(api_key=key)

    assert "api_key" == caught.value.field
    assert key not in str(caught.value)
    assert repr(key)[1:-1] not in str(caught.value)


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_no_key_sends_no_header(key: str | None) -> None:
    """Without a key there is no header to be wrong."""
    with puppet(Told(200, GOOD)) as server, Client(server.url, api_key=key) as client:
        client.segment(b"x")

    assert "X-API-Key" not in server.asked[0]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_key_is_in_no_repr(kind: type[Client] | type[AsyncClient]) -> None:
    """Printing a client shows where it talks to and not with what."""
    client = kind("http://127.0.0.1:1/", api_key=KEY)

    assert repr(client) == f"{kind.__name__}('http://127.0.0.1:1')"
    assert KEY not in str(client)


def test_image_and_handle_exclude_each_other(photo: bytes) -> None:
    """Exactly one of image and image_id; anything unknown is a mistake of the programmer."""
    with Client("http://127.0.0.1:1", patience_s=0) as client:
        with pytest.raises(TypeError, match="either image or image_id"):
            client.segment(photo, image_id="img_1")
        with pytest.raises(TypeError, match="either image or image_id"):
            client.segment()
        with pytest.raises(TypeError, match="pionts"):
            client.segment(photo, pionts=[(1, 1)])  # type: ignore[call-arg] # as a user would misspell it


@pytest.mark.parametrize("patience_s", [-1.0, float("nan")])
def test_patience_cannot_be_negative(patience_s: float) -> None:
    """A patience that makes no sense is refused at once."""
    with pytest.raises(ValueError, match="patience_s"):
        Client(patience_s=patience_s)


def test_client_needs_nothing_of_the_server() -> None:
    """Importing the client loads neither numpy nor the server's libraries."""
    script = (
        "import sys, osamd.client; print(sorted({'numpy', 'cv2', 'PIL', 'onnxruntime', 'fastapi', 'pydantic'}"
        " & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment({}), capture_output=True, text=True, check=True
    )

    assert ended.stdout == "[]\n"


def test_timings_of_a_proxy_may_have_any_form() -> None:
    """What cannot be read is left out, and the answer is there."""
    timing = 'cdn;dur=12.5;desc="edge", cache;desc="hit;a";dur=1, broken;dur=fast, nothing, decode;dur=5.0'
    with puppet(Told(200, GOOD, {"Server-Timing": timing})) as server, Client(server.url) as client:
        found = client.segment(b"x")
    assert {"cdn": 12.5, "cache": 1.0, "decode": 5.0} == found.timings_ms


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ftp://me:s3cr3t@host/path@2", "ftp://host/path@2"),
        ("http://me:s3cr3t@host:x//path", "http://host:x//path"),
        ("me:s3cr3t@host", "host"),
    ],
)
def test_a_password_in_an_address_is_not_repeated(given: str, told: str) -> None:
    """Not even in the message about an address that is wrong."""
    with pytest.raises(InvalidRequestError, match=f"got '{told}'") as caught:
        Client(given)
    assert "s3cr3t" not in str(caught.value)
