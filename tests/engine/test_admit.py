"""The engine has no policy: what may be refused, and when, is its caller's business."""

import asyncio

import pytest
from engines import embed, picture, request, run, segment
from fake_model import FakeModel, click

from osamd.engine import Engine
from osamd.engine.admit import Admit
from osamd.errors import AdminOnlyError, RateLimitedError
from osamd.library.catalog import Model
from osamd.timings import Timings

IMAGES = 64
AT_ONCE = 8


def test_a_batch_is_never_refused() -> None:
    """A caller that bounds how many images it has at once meets no limit made for the clients of a server."""

    async def main(engine: Engine) -> int:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(shade: int) -> int:
            async with slots:
                return len((await segment(engine, request(picture(shade), click(5, 5)))).annotations)

        return sum(await asyncio.gather(*(one(shade) for shade in range(IMAGES))))

    assert IMAGES == run(main, encodes_per_minute=1, requests_per_minute=1, concurrent_requests=1)


def test_a_model_may_be_refused_before_it_is_loaded() -> None:
    """The callback is told the model of the name, or of the handle, and its error is the request's."""
    loads: list[str] = []
    asked: list[str] = []

    async def refuse(model: Model) -> None:
        asked.append(model.name)
        raise AdminOnlyError("not for you")

    def load(model: Model) -> FakeModel:
        loads.append(model.name)
        return FakeModel()

    async def main(engine: Engine) -> None:
        admit = Admit(model=refuse)
        with pytest.raises(AdminOnlyError):
            await engine.segment(request(picture(), click(5, 5), model="sam2:tiny"), Timings(), admit=admit)
        assert not loads
        handle = await embed(engine, picture())
        with pytest.raises(AdminOnlyError):
            await engine.segment(request(handle.image_id, click(5, 5)), Timings(), admit=admit)

    run(main, load=load)
    assert ["sam2:tiny", "builtin:latest"] == asked


def test_only_images_to_encode_are_counted() -> None:
    """The callback is told of each encode that begins, not of images that are known, and may refuse one."""
    left = [1]

    def take() -> None:
        if not left:
            raise RateLimitedError("too many")
        left.pop()

    async def main(engine: Engine) -> None:
        admit = Admit(encode=take)
        for _ in range(3):
            await engine.segment(request(picture(0), click(5, 5)), Timings(), admit=admit)
        with pytest.raises(RateLimitedError):
            await engine.segment(request(picture(1), click(5, 5)), Timings(), admit=admit)

    run(main)
