"""Engines with a fake model, for tests: run one, ask it, hold it up."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from fake_model import FakeModel, Gate
from pictures import encoded
from PIL import Image
from waiting import WAIT_S

from osamd.engine import Engine
from osamd.events import Event
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model, load_catalog
from osamd.library.library import Library
from osamd.library.store import Store
from osamd.segment_requests import ImageHandle, SegmentRequest, SegmentResult
from osamd.settings import load_settings
from osamd.timings import Timings
from osamd.types import Prompt

Answer = TypeVar("Answer")
Main = Callable[[Engine], Coroutine[Any, Any, Answer]]
WIDTH, HEIGHT = 40, 30


class FullStore(Store):
    """A store in which every model is, so that none is pulled; its files are not read, since the models are fake."""

    def is_present(self, model: Model) -> bool:  # noqa: ARG002 - the store's own signature
        """Always."""
        return True

    def size(self, model: Model) -> int | None:  # noqa: ARG002
        """Next to nothing."""
        return 1


def loaded(engine: Engine) -> set[str]:
    """Full names of the models that are loaded."""
    return {resident.model.name for resident in engine.residents}


def picture(shade: int = 0, *, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A small PNG; each shade is another image."""
    return encoded(Image.new("RGB", (width, height), (shade, shade, shade)))


def run(
    main: Main[Answer],
    model: FakeModel | None = None,
    *,
    load: Callable[[Model], FakeModel] | None = None,
    sinks: tuple[Callable[[Event], None], ...] = (),
    parallel: int = 1,
    **flags: Any,
) -> Answer:
    """Run a test's coroutine with an engine on a loop of its own; the engine is closed at the end."""
    fake = FakeModel() if model is None else model
    settings = load_settings(**({"preload": ()} | flags))

    async def whole() -> Answer:
        engine = Engine(
            settings,
            library=Library(settings, catalog=load_catalog(), store=FullStore(Path("nowhere")), sinks=sinks),
            sinks=sinks,
            load=load or (lambda _: fake),
            parallel=parallel,
        )
        try:
            return await asyncio.wait_for(main(engine), WAIT_S)
        finally:
            await engine.close()

    return asyncio.run(whole())


def request(
    image: bytes | str,
    *prompts: Prompt,
    model: str | None = None,
    owner: str = "me",
    multimask: bool = False,
    keep_alive: float | None = None,
) -> SegmentRequest:
    """A request on an image's bytes or a handle; without prompts the model's default decides."""
    source = ImageSource.of_bytes(image) if isinstance(image, bytes) else ImageSource(image_id=image)
    return SegmentRequest(
        source, model=model, prompts=prompts or None, multimask=multimask, owner=owner, keep_alive=keep_alive
    )


async def segment(engine: Engine, asked: SegmentRequest) -> SegmentResult:
    """Answer a request whose timings do not matter."""
    return await engine.segment(asked, Timings())


async def embed(engine: Engine, image: bytes, *, model: str | None = None, owner: str = "me") -> ImageHandle:
    """Encode an image whose timings do not matter."""
    return await engine.embed(ImageSource.of_bytes(image), model=model, owner=owner, timings=Timings())


async def reached(gate: Gate) -> None:
    """Wait until a worker is held up."""
    assert await asyncio.to_thread(gate.reached.wait, WAIT_S)


async def breathe() -> None:
    """Let tasks come as far as they can; hashing an image takes a thread's time."""
    for _ in range(20):
        await asyncio.sleep(0.002)
