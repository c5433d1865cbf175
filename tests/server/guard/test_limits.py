"""Bodies and images over the limits, refused as early as it can be known."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import GENERATE, refusal
from connections import answer_on, open_request
from pictures import disc_picture, encoded
from PIL import Image
from serving import KEY, RunningServer, run_server

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that takes bodies of up to a mebibyte and images of up to 200 x 200 pixels."""
    env = {"API_KEY": KEY, "OSAMD_MAX_BODY_BYTES": str(MEBIBYTE), "OSAMD_MAX_IMAGE_PIXELS": "40000"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env) as running:
        yield running


def test_a_declared_body_over_the_limit_is_refused_unread(narrow: RunningServer) -> None:
    """With ``Content-Length`` over the limit the answer comes before any of the body is sent."""
    with open_request(narrow, f"Content-Length: {MEBIBYTE + 1}", "Content-Type: image/png") as connection:
        answer = answer_on(connection)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "body_too_large"' in answer
    assert b"1,048,576 bytes" in answer


def test_a_length_with_many_zeros_is_a_length(narrow: RunningServer) -> None:
    """Longer than Python converts."""
    with open_request(narrow, f"Content-Length: {'0' * 5000}2", "Content-Type: application/json") as connection:
        connection.sendall(b"{}")
        answer = answer_on(connection)

    assert answer.startswith(b"HTTP/1.1 422 ")


def test_expecting_client_is_not_asked_for_its_body(narrow: RunningServer) -> None:
    """A client that waits for ``100 Continue`` gets 413 at once."""
    headers = (f"Content-Length: {MEBIBYTE + 1}", "Expect: 100-continue")
    with open_request(narrow, *headers) as connection:
        answer = answer_on(connection)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_streamed_body_is_refused_once_over_the_limit(narrow: RunningServer) -> None:
    """Without a length, the refusal comes as soon as the limit is passed, while the client could still send."""
    with open_request(narrow, "Transfer-Encoding: chunked") as connection:
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(MEBIBYTE // 0x10000 + 1):
            connection.sendall(piece)
        # The last, empty chunk was never sent: the request is not complete.
        answer = answer_on(connection)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "body_too_large"' in answer


def test_body_at_the_limit_is_taken(narrow: RunningServer) -> None:
    """The limit itself is allowed."""
    picture = encoded(disc_picture())
    with narrow.client() as client:
        fits = client.post(GENERATE, content=picture + bytes(MEBIBYTE - len(picture)))
        over = client.post(GENERATE, content=picture + bytes(MEBIBYTE - len(picture) + 1))

    assert (fits.status_code, over.status_code) == (200, 413)


def test_pixel_cap_is_a_setting(narrow: RunningServer) -> None:
    """The operator's pixel cap is the one that counts, and the message has the numbers."""
    with narrow.client() as client:
        fits = client.post(GENERATE, content=encoded(Image.new("L", (200, 200))))
        over = refusal(client.post(GENERATE, content=encoded(Image.new("L", (201, 200)))))

    assert fits.status_code == 200
    assert (over["status"], over["code"]) == (413, "image_too_large")
    assert "201 x 200 = 40,200 pixels" in over["detail"]


@pytest.mark.parametrize("filler", ["[],", "{},", "0,"], ids=["lists", "objects", "numbers"])
def test_json_of_too_many_values_is_refused_unparsed(server: RunningServer, filler: str) -> None:
    """Millions of small values in a field nobody reads would hold the interpreter for seconds."""
    body = '{"x": [' + filler * 200_000 + "0]}"
    with server.client() as client:
        problem = refusal(client.post(GENERATE, content=body, headers={"Content-Type": "application/json"}))

    assert (problem["status"], problem["code"]) == (422, "invalid_request")
    assert "more than 100,000 values" in problem["detail"]


@pytest.mark.parametrize("name", ["prompt", "prompts"])
def test_fields_of_json_have_no_more_values_than_bodies(server: RunningServer, photo: bytes, name: str) -> None:
    """A part of a multipart body that is JSON is no way around the limit."""
    text = "[" + "[]," * 200_000 + "0]"
    with server.client() as client:
        problem = refusal(client.post(GENERATE, files={"image": ("cat.jpg", photo)}, data={name: text}))

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", name)
    assert "more than 100,000 values" in problem["detail"]


def test_multipart_of_too_many_parts_is_refused(server: RunningServer) -> None:
    """Tiny parts cost far more than their bytes; the last of these would be no such field."""
    with server.client() as client:
        parts = [("point", (None, "1,1"))] * 2048
        problem = refusal(client.post(GENERATE, files=[*parts, ("nonsense", (None, ""))]))
        files = refusal(client.post(GENERATE, files=[*parts, ("image", ("cat.jpg", b"no image"))]))

    for one in (problem, files):
        assert (one["status"], one["code"]) == (422, "invalid_request")
        assert "more than 2,048 parts" in one["detail"]


def test_bodies_about_models_are_small(server: RunningServer) -> None:
    """What only names a model is refused above 64 KiB, not parsed."""
    with server.client() as client:
        problem = refusal(client.post("/api/show", content=b'{"model": "' + b"a" * 70_000 + b'"}'))

    assert (problem["status"], problem["code"]) == (413, "body_too_large")
    assert "65,536" in problem["detail"]


def test_a_named_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    """A file below the image folder is read no further than a body would be."""
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MEBIBYTE + 1)
    env = {
        "API_KEY": KEY,
        "OSAMD_MAX_BODY_BYTES": str(MEBIBYTE),
        "OSAMD_IMAGE_ROOT": str(tmp_path),
        "OSAMD_PRELOAD": "none",
    }
    with run_server(cache=tmp_path, env=env) as running, running.client() as client:
        problem = refusal(client.post(GENERATE, json={"image_path": "huge.jpg"}))

    assert (problem["status"], problem["code"], problem["field"]) == (413, "body_too_large", "image_path")
