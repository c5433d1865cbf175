"""Requests to a running server, as the tests of the wire ask them."""

from typing import Any

import httpx2
from pictures import Inside, base64_of, inside_of

GENERATE = "/api/generate"
# On the cat of the example photo; also its middle.
CLICK = [225, 150]
BOX = [60, 20, 400, 290]


def ask(client: httpx2.Client, photo: bytes, **body: Any) -> dict[str, Any]:
    """The reply to a JSON request, which must succeed."""
    response = client.post(GENERATE, json={"image": base64_of(photo), **body})
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def only_mask(reply: dict[str, Any]) -> Inside:
    """The mask of a reply with one annotation."""
    (annotation,) = reply["annotations"]
    return inside_of(annotation)


def click(point: list[int]) -> dict[str, Any]:
    """A prompt of one foreground point."""
    return {"points": [point], "point_labels": [1]}


def refusal(response: httpx2.Response) -> dict[str, Any]:
    """The problem of a refusal, whose shape is checked."""
    problem: dict[str, Any] = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.status_code == problem["status"]
    assert response.headers["X-Request-Id"] == problem["request_id"]
    assert problem["code"] == problem["title"]
    assert set(problem) <= {"type", "title", "status", "detail", "code", "request_id", "field"}
    return problem
