"""Bodies as tools and languages send them without being asked: read, or refused with the reason."""

import base64
import gzip
import http.client
import json
import socket
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import numpy as np
import pytest
from asking import CLICK, GENERATE, click, only_mask, refusal
from pictures import base64_of
from serving import KEY, RunningServer
from waiting import WAIT_S

JSON = {"Content-Type": "application/json"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}


def document(photo: bytes) -> dict[str, Any]:
    """The photo and a click on it."""
    return {"image": base64_of(photo), "prompt": click(CLICK)}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("headers", [JSON, {"Content-Type": "text/plain"}, {}])
def test_json_in_the_encodings_of_windows(
    client: httpx2.Client, photo: bytes, clicked: dict[str, Any], encoding: str, headers: dict[str, str]
) -> None:
    """PowerShell's ``-Encoding unicode`` and ``utf8`` are read, with and without a Content-Type."""
    body = json.dumps(document(photo)).encode(encoding)
    response = client.post(GENERATE, content=body, headers=headers)

    assert response.status_code == 200, response.text
    assert np.array_equal(only_mask(clicked), only_mask(response.json()))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_part_of_json_in_the_encodings_of_windows(
    client: httpx2.Client, photo: bytes, clicked: dict[str, Any], encoding: str
) -> None:
    """As in a body of JSON."""
    prompt = json.dumps(click(CLICK)).encode(encoding)

    response = client.post(GENERATE, files={"image": ("a.png", photo), "prompt": (None, prompt)})

    assert response.status_code == 200, response.text
    assert np.array_equal(only_mask(clicked), only_mask(response.json()))


def test_base64_with_line_breaks_in_a_shell_string(
    client: httpx2.Client, photo: bytes, clicked: dict[str, Any]
) -> None:
    """What a shell puts together with ``$(base64 cat.jpg)`` has raw line breaks in a string, which JSON forbids."""
    text = base64.encodebytes(photo).decode()
    body = f'{{"prompt": {json.dumps(click(CLICK))}, "image": "{text}"}}'
    response = client.post(GENERATE, content=body.encode(), headers=JSON)

    assert response.status_code == 200, response.text
    assert np.array_equal(only_mask(clicked), only_mask(response.json()))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "x" * 5000])
def test_compressed_bodies_are_refused_with_the_reason(client: httpx2.Client, photo: bytes, encoding: str) -> None:
    """They are bounded as they are only when they are not unpacked."""
    body = gzip.compress(json.dumps(document(photo)).encode())
    for path in (GENERATE, "/api/embed", "/api/show"):
        problem = refusal(client.post(path, content=body, headers={**JSON, "Content-Encoding": encoding}))

        assert (problem["status"], problem["code"]) == (415, "unsupported_media")
        assert encoding[:100] in problem["detail"]
        assert "send the body uncompressed" in problem["detail"]
        assert len(problem["detail"]) < 400


def test_an_encoding_that_changes_nothing_is_read(client: httpx2.Client, photo: bytes) -> None:
    """``identity`` is the name of none."""
    response = client.post(GENERATE, content=photo, headers={"Content-Encoding": "Identity"})
    assert response.status_code == 200, response.text


def test_a_form_of_a_browser_or_curl_is_read(client: httpx2.Client, clicked: dict[str, Any]) -> None:
    """``curl -d image_id=... -d point=225,150``."""
    form = {"image_id": clicked["image_id"], "point": ",".join(map(str, CLICK))}
    response = client.post(GENERATE, data=form)

    assert response.status_code == 200, response.text
    assert np.array_equal(only_mask(clicked), only_mask(response.json()))


def test_a_form_may_have_the_image(client: httpx2.Client, photo: bytes, clicked: dict[str, Any]) -> None:
    """``curl --data-urlencode image@photo.b64``."""
    form = {"image": base64.encodebytes(photo).decode(), "prompt": json.dumps(click(CLICK))}
    response = client.post(GENERATE, data=form)

    assert response.status_code == 200, response.text
    assert np.array_equal(only_mask(clicked), only_mask(response.json()))


def test_an_image_with_the_type_of_a_form_is_read(client: httpx2.Client, photo: bytes) -> None:
    """``curl --data-binary @photo.jpg`` says so."""
    assert client.post(GENERATE, content=photo, headers=URLENCODED).status_code == 200


@pytest.mark.parametrize(
    ("form", "status", "field", "part"),
    [
        (b"point=1,2&image=" + b"A" * 1_000_000, 415, None, "multipart/form-data"),
        (b"pionts=1,2", 422, "pionts", "unknown field"),
        (b"image_id=%ff", 422, None, "UTF-8"),
        (b"image_id=\xff", 422, None, "percent-encoded"),
        (b"a=1&" * 3000, 422, None, "2,048 fields"),
        (b"image=aGk", 422, None, "image"),
    ],
)
def test_a_form_that_cannot_be_is_refused(
    client: httpx2.Client, form: bytes, status: int, field: str | None, part: str
) -> None:
    """With the reason."""
    problem = refusal(client.post(GENERATE, content=form, headers=URLENCODED))

    assert status == problem["status"]
    assert field is None or field == problem["field"]
    assert part in problem["detail"]


@pytest.mark.parametrize(
    ("encoding", "status", "part"), [("base64", 200, ""), ("binary", 200, ""), ("quoted-printable", 422, "as binary")]
)
def test_parts_with_a_transfer_encoding(
    client: httpx2.Client, photo: bytes, encoding: str, status: int, part: str
) -> None:
    """Mail libraries make such; base64 is read, the others are refused by name."""
    content = base64.encodebytes(photo) if encoding == "base64" else photo
    head = (
        f'--seam\r\nContent-Disposition: form-data; name="image"; filename="a"\r\nContent-Transfer-Encoding: {encoding}'
    )
    response = client.post(
        GENERATE,
        content=head.encode() + b"\r\n\r\n" + content + b"\r\n--seam--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=seam"},
    )

    assert status == response.status_code, response.text
    assert part in response.text


@pytest.mark.parametrize("target", ["/api/generate?text=caf\u00e9", "/api/generate?mod\u00e8le=1", "/caf\u00e9"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_letters_that_were_not_percent_encoded(server: RunningServer, photo: bytes, target: str, encoding: str) -> None:
    """They are no HTTP; the answer is a problem like all others, and says what to do."""
    address = urlsplit(server.url)
    head = f"POST {target} HTTP/1.1\r\nHost: here\r\nX-API-Key: {KEY}\r\nContent-Length: {len(photo)}\r\n\r\n"
    with (
        socket.create_connection((address.hostname, address.port), timeout=WAIT_S) as connection,
        http.client.HTTPResponse(connection, method="POST") as answer,
    ):
        # An HTTP library would refuse to send them.
        connection.sendall(head.encode(encoding))
        answer.begin()
        problem = json.loads(answer.read())

    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status, problem["status"], problem["code"]) == (400, 400, "not_http")
    assert "percent-encoded" in problem["detail"]


@pytest.mark.parametrize("field", ["x" * 60_000, "\x01" * 10_000])
def test_names_are_not_repeated_whole(client: httpx2.Client, photo: bytes, field: str) -> None:
    """Wherever they come from, answers are short."""
    body = {"image": base64_of(photo)}
    answers = [
        client.post(GENERATE, json={**body, field: 1}),
        client.post(GENERATE, json={**body, "model": field}),
        client.post(GENERATE, json={**body, "mask_format": field}),
        client.post(GENERATE, json={**body, "prompt": {field: 1}}),
        client.post(GENERATE, json={**body, "image_id": field}),
        client.post(GENERATE, json={"image_id": field}),
        client.post(GENERATE, json={"image_url": field}),
        client.post(GENERATE, json={**body, "keep_alive": field}),
        client.post(GENERATE, json={**body, "image_embedding": {field: 1}}),
        client.post(GENERATE, data={field: "1"}, headers=URLENCODED),
        client.post("/api/show", json={"model": field}),
        client.post("/api/show", json={field: "builtin"}),
        client.post("/api/pull", json={"model": field}),
        client.delete(f"/api/images/{quote(field[:9000])}"),
        client.get(f"/{quote(field[:9000])}"),
    ]

    for answer in answers:
        problem = refusal(answer)
        assert len(answer.content) < 3000, answer.text[:300]
        assert len(problem.get("field", "")) <= 203
