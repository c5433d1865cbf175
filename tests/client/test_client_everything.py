"""Everything mode through the clients."""

import asyncio
import hashlib
import json
from typing import Any

import pytest
from puppet import GOOD, Told, problem, puppet
from serving import KEY, RunningServer

from osamd.client import AsyncClient, Client, Dropped, EverythingUpdate, FoundObject, Handle, Progress
from osamd.client.routing import HEADER
from osamd.errors import InvalidPromptError, OutOfMemoryError, OverloadedError, UnreachableError

SMALL = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}
DONE = {"event": "done", "points_total": 1, "points_tried": 1, "points_skipped": 0, "masks": 0, "stopped": "all_points"}
IMAGE = {"event": "image", **{name: value for name, value in GOOD.items() if name != "annotations"}}


def lines(*documents: dict[str, Any]) -> Told:
    """An answer in lines."""
    return Told(200, "".join(json.dumps(document) + "\n" for document in documents))


def kept(updates: list[EverythingUpdate]) -> list[FoundObject]:
    """What is left at the end."""
    found: dict[int | None, FoundObject] = {}
    for update in updates:
        if isinstance(update, FoundObject):
            found[update.number] = update
        if isinstance(update, Dropped):
            for number in update.numbers:
                del found[number]
    return list(found.values())


def test_both_clients_send_the_header_that_routes(photo: bytes) -> None:
    """The image's, as with every other request about it, and what kind of answer is expected."""

    async def ask(url: str) -> None:
        async with AsyncClient(url) as client:
            assert [update async for update in client.everything(photo)]

    with puppet(lines(IMAGE, DONE)) as server:
        with Client(server.url) as client:
            assert list(client.everything(photo))
        asyncio.run(ask(server.url))
        sent = [(headers.get(HEADER), headers["Accept"]) for headers in server.asked]

    assert [(hashlib.sha256(photo).hexdigest()[:8], "application/x-ndjson")] * 2 == sent


def test_both_clients_give_what_segment_gives(server: RunningServer, photo: bytes) -> None:
    """First the handle, at last why it ended."""
    with Client(server.url, api_key=KEY) as client:
        whole = client.segment(photo, everything=SMALL, mask_format="rle")
        updates = list(client.everything(image_id=whole.image_id, everything=SMALL, mask_format="rle"))

    async def all_of_them() -> list[EverythingUpdate]:
        async with AsyncClient(server.url, api_key=KEY) as client:
            image_id = whole.image_id
            return [
                update async for update in client.everything(image_id=image_id, everything=SMALL, mask_format="rle")
            ]

    for found in (updates, asyncio.run(all_of_them())):
        assert isinstance(found[0], Handle)
        assert found[-1] == whole.everything
        assert {item.number: (item.mask, item.box, item.area) for item in kept(found)} == {
            item.number: (item.mask, item.box, item.area) for item in whole.annotations
        }
    first = whole.annotations[0]
    assert first.point is not None
    assert first.stability_score is not None


def test_false_is_not_given(photo: bytes) -> None:
    """``segment(everything=False)`` asks for the default prompt."""
    with puppet(Told(200, GOOD)) as told, Client(told.url) as client:
        assert client.segment(photo, everything=False).everything is None
        assert set(told.document(0)) == {"image"}
        client.segment(photo, everything={})
        assert told.document(1)["prompt"] == {"everything": {}}


def test_it_retries_until_the_first_line(photo: bytes) -> None:
    """A busy server is asked again, with the same body."""
    busy = problem("overloaded", 503)
    with puppet(busy, lines(IMAGE, DONE)) as told, Client(told.url, patience_s=5) as client:
        updates = list(client.everything(photo, mask_format="none"))
        assert told.bodies[0] == told.bodies[1]
        assert told.asked[1]["Accept"] == "application/x-ndjson"
        assert told.document(0)["prompt"] == {"everything": True}
    assert isinstance(updates[-1], Progress)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem("invalid_prompt", 422), InvalidPromptError),
        (problem("overloaded", 503), OverloadedError),
        (lines(IMAGE, {"event": "error", "code": "out_of_memory", "detail": "full"}), OutOfMemoryError),
        (lines(IMAGE), UnreachableError),
        (lines(), UnreachableError),
        (Told(200, "<html>"), UnreachableError),
    ],
)
def test_failures_are_raised(photo: bytes, answer: Told, error: type[Exception]) -> None:
    """Those of the reply, those of its last line, and a stream that just ends; not retried."""
    with puppet(answer) as told, Client(told.url, patience_s=0) as client:
        with pytest.raises(error):
            list(client.everything(photo))
        assert len(told.bodies) == 1
