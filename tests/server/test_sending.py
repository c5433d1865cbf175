import asyncio
from typing import Any

import pytest

from osamd.server.sending import SEND_BYTES, PiecewiseResponse


def sent(pieces: list[bytes]) -> list[Any]:
    """What a response sends."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    response = PiecewiseResponse(pieces, media_type="application/json", headers={"Vary": "Accept"})
    asyncio.run(response({"type": "http"}, None, send))  # type: ignore[arg-type]
    return messages


@pytest.mark.parametrize(
    "sizes", [[], [0], [5], [5, 6], [SEND_BYTES], [SEND_BYTES + 1], [3 * SEND_BYTES, 1], [1, SEND_BYTES], [9] * 1000]
)
def test_all_of_it_is_sent_in_parts(sizes: list[int]) -> None:
    """None is larger than allowed, tiny ones go together, and only the last one is the last."""
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]

    start, *bodies = sent(pieces)

    assert dict(start["headers"])[b"content-length"] == str(sum(sizes)).encode()
    assert {b"vary", b"content-type", b"content-length"} == {name for name, _ in start["headers"]}
    assert b"".join(pieces) == b"".join(message["body"] for message in bodies)
    assert all(len(message["body"]) <= SEND_BYTES for message in bodies)
    assert [True] * (len(bodies) - 1) + [False] == [message["more_body"] for message in bodies]
    assert len(bodies) <= 2 * sum(sizes) // SEND_BYTES + 2


def test_others_get_their_turn_between_two_parts() -> None:
    """Even if the connection accepts everything at once, as that of a fast client does."""
    turns, seen = 0, []

    async def send(message: Any) -> None:
        if message.get("body"):
            seen.append(turns)

    async def respond() -> None:
        nonlocal turns
        pieces = [bytes(SEND_BYTES)] * 4
        response = PiecewiseResponse(pieces, media_type="application/json", headers={})
        sending = asyncio.create_task(response({"type": "http"}, None, send))  # type: ignore[arg-type]
        while not sending.done():
            await asyncio.sleep(0)
            turns += 1

    asyncio.run(respond())

    assert len(seen) == len(set(seen)) == 4
