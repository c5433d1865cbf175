"""An app with all doors open, in this process."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import get_args

import httpx2
from pydantic import SecretStr
from serving import KEY

from osamd.server.app import create_app
from osamd.settings import DoorName, Settings

ELSEWHERE = ("192.0.2.7", 4711)


def every_door(folder: Path = Path("unused")) -> Settings:
    """Settings that open all."""
    return Settings(api_key=SecretStr(KEY), cache=folder, pull="never", preload=(), threads=1, doors=get_args(DoorName))


def run(folder: Path, main: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
    """Call ``main`` with a client, somewhere on the network, of an app with all doors."""
    app = create_app(every_door(folder).model_copy(update={"wrong_keys_per_minute": 100_000}))

    async def call() -> None:
        transport = httpx2.ASGITransport(app=app, client=ELSEWHERE)
        async with httpx2.AsyncClient(transport=transport, base_url="http://osamd.example") as client:
            await main(client)
        await app.state.services.close()

    asyncio.run(call())
