"""What masks and replies may hold in memory, from decoding to the last byte sent."""

import asyncio
import base64
import functools
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import FullStore, breathe, picture
from fake_model import FakeModel
from pydantic import SecretStr
from starlette.applications import Starlette
from waiting import WAIT_S

from osamd.engine import Engine
from osamd.library.catalog import load_catalog
from osamd.library.library import Library
from osamd.server.app import create_app
from osamd.server.services import Services
from osamd.settings import Settings
from osamd.status import MemoryStatus
from osamd.types import Candidate, MaskLogits, Prompt

ALICE, BOB = "alice-secret-Zk41-d9", "bob-secret-9Lpd-c2"
SIDE = 1000
CAPACITY = 4 * 1024 * 1024
PHOTO = base64.b64encode(picture(width=SIDE, height=SIDE)).decode()
WHOLE = {"box": [0, 0, SIDE - 1, SIDE - 1]}
Send = Callable[[Any], Awaitable[None]]


class InProcess:
    """An app with a fake model, asked without a socket."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self.services: Services = app.state.services

    @property
    def memory(self) -> MemoryStatus:
        """What masks and replies hold now."""
        return self.services.memory.status()

    async def ask(self, key: str, *, send: Send | None = None, **fields: Any) -> tuple[int, Any]:
        """The status and the reply of ``POST /api/generate``; ``send`` is awaited before each piece is taken."""
        body = json.dumps({"image": PHOTO, **fields}).encode()
        headers = [(b"x-api-key", key.encode()), (b"content-length", b"%d" % len(body))]
        path = "/api/generate"
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
        }
        scope |= {"raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers}
        scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {}}
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        pieces: list[bytes] = []
        status = 0

        async def receive() -> Any:
            if messages:
                return messages.pop()
            return await asyncio.Event().wait()

        async def take(message: Any) -> None:
            nonlocal status
            if send is not None:
                await send(message)
            status = message.get("status", status)
            pieces.append(message.get("body", b""))

        await self.app(scope, receive, take)
        return status, json.loads(b"".join(pieces))


def run(folder: Path, main: Callable[[InProcess], Awaitable[None]], model: FakeModel | None = None) -> None:
    """Run a test's coroutine with an app of two users; at its end nothing may be held."""
    fake = FakeModel() if model is None else model
    keys = folder / "keys"
    keys.write_text(f"alice user {ALICE}\nbob user {BOB}\n")
    settings = Settings(api_key=SecretStr("admin-secret-71bK-x0"), api_key_file=keys, mask_memory_bytes=CAPACITY)

    async def whole() -> None:
        library = Library(settings, catalog=load_catalog(), store=FullStore(Path("nowhere")))
        engine = Engine(settings, library=library, load=lambda _: fake)
        one = InProcess(create_app(settings, engine))
        try:
            await asyncio.wait_for(main(one), 3 * WAIT_S)
            assert (0, 0) == (one.memory.held, one.memory.waiting)
        finally:
            await engine.close()
            await one.services.pools.close()

    asyncio.run(whole())


def test_memory_waits_do_not_delay_another_key(tmp_path: Path) -> None:
    """One key's requests are decoded as memory allows; the others wait, and all are answered."""
    decoding: list[Prompt] = []
    go_on = threading.Event()
    held: list[int] = []
    apps: list[InProcess] = []

    def on_decode(prompt: Prompt) -> None:
        decoding.append(prompt)
        held.append(apps[0].memory.held)
        if len(prompt.boxes):
            assert go_on.wait(WAIT_S)

    async def main(one: InProcess) -> None:
        apps.append(one)
        many = [asyncio.create_task(one.ask(ALICE, prompt=WHOLE)) for _ in range(6)]
        while len(decoding) < 2 or one.memory.waiting < 4:
            await breathe()
        status, reply = await one.ask(BOB, prompt={"points": [[5, 5]], "point_labels": [1]})
        assert (200, 1, 4) == (status, len(reply["annotations"]), one.memory.waiting)
        go_on.set()
        assert [200] * 6 == [status for status, _ in await asyncio.gather(*many)]
        assert SIDE * SIDE < max(held) <= CAPACITY

    run(tmp_path, main, FakeModel(on_decode=on_decode))


def test_a_reply_is_counted_until_its_last_byte_is_sent(tmp_path: Path) -> None:
    """The masks are gone when it is written, its own bytes when they are taken, or when the client has left."""
    held: list[int] = []

    async def main(one: InProcess) -> None:
        async def slowly(message: Any) -> None:
            held.append(one.memory.held)
            await breathe()
            if leaves and message["type"] == "http.response.body":
                raise OSError("gone")

        for leaves in (False, True):
            before = len(held)
            asked = one.ask(ALICE, send=slowly, prompt=WHOLE)
            if leaves:
                with pytest.raises(OSError, match="gone"):
                    await asked
            else:
                _, reply = await asked
            assert 0 == one.memory.held
            assert {len(json.dumps(reply, separators=(",", ":")))} == set(held[before:])

    run(tmp_path, main)


def noise() -> MaskLogits:
    """A mask of single pixels."""
    values = np.random.default_rng(3).choice([-1.0, 1.0], (SIDE, SIDE)).astype(np.float32)
    return MaskLogits(values=values, valid_height=SIDE, valid_width=SIDE)


def test_polygons_of_noise_are_refused_before_they_are_made(tmp_path: Path) -> None:
    """They would take hundreds of bytes a pixel; the same mask as PNG or run lengths takes less than one."""

    async def main(one: InProcess) -> None:
        status, problem = await one.ask(ALICE, prompt=WHOLE, mask_format="polygon")
        assert (422, "invalid_prompt") == (status, problem["code"])
        assert "request fewer masks, mask_format png" in problem["detail"]
        for mask_format in ("png", "rle"):
            assert 200 == (await one.ask(ALICE, prompt=WHOLE, mask_format=mask_format))[0]

    run(tmp_path, main, FakeModel(candidates=[Candidate(logits=noise(), score=1.0)]))


def test_an_embedding_in_a_reply_counts_too(tmp_path: Path) -> None:
    """Three million numbers are more than one request may have; a small image's are not."""

    async def main(one: InProcess) -> None:
        ask = functools.partial(one.ask, ALICE, mask_format="none", include=["image_embedding"])
        status, problem = await ask()
        assert (422, "invalid_prompt") == (status, problem["code"])
        status, reply = await ask(image=base64.b64encode(picture(3)).decode())
        assert (200, 3) == (status, len(reply["image_embedding"]["embedding"]))

    run(tmp_path, main)
