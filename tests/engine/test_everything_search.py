"""Everything mode in the engine: other requests run in between, and nothing outlives its caller."""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace

import pytest
from engines import picture, request, run, segment
from fake_model import FakeModel, Gate, click

from osamd.engine import Engine
from osamd.engine.admit import Admit
from osamd.engine.everything import JOB_MASK_PIXELS, Begun, Ended, Found, collect
from osamd.errors import InvalidPromptError, OverloadedError
from osamd.pixels.everything import Everything, EverythingResult
from osamd.timings import Timings
from osamd.types import Capabilities, Prompt

ALL = Everything(points_per_side=8, pred_iou_thresh=0.0, stability_score_thresh=0.0)


async def find(
    engine: Engine,
    asked: Everything = ALL,
    *,
    owner: str = "me",
    image: bytes | None = None,
    admit: Admit | None = None,
) -> EverythingResult:
    """Everything in a small picture."""
    updates = engine.everything(
        request(image or picture(), owner=owner), asked, Timings(), are_kept=True, admit=admit or Admit()
    )
    return await collect(updates)


def test_clicks_of_the_same_owner_overtake() -> None:
    """A click on another image is answered while everything goes on, although both are the same key's."""
    gate, model = Gate(), FakeModel()

    async def main(engine: Engine) -> tuple[int, int]:
        await segment(engine, request(picture(9), click(3, 3)))
        model.on_decode = gate
        both = [asyncio.create_task(find(engine, image=picture(shade))) for shade in range(3)]
        await asyncio.to_thread(gate.reached.wait)
        clicked = asyncio.create_task(segment(engine, request(picture(9), click(3, 3))))
        await asyncio.sleep(0)
        gate.open()
        await clicked
        before = len(model.decoded)
        await asyncio.gather(*both)
        return before, len(model.decoded)

    before, total = run(main, model)
    assert before < total / 2


def test_a_closed_search_decodes_no_more() -> None:
    """When its caller leaves, the job that runs is the last."""
    model = FakeModel()

    async def main(engine: Engine) -> None:
        updates = engine.everything(request(picture()), ALL, Timings(), are_kept=False)
        async with contextlib.aclosing(updates):
            assert isinstance(await anext(updates), Begun)
            assert isinstance(await anext(updates), Found)
        count = len(model.decoded)
        await segment(engine, request(picture(), click(3, 3)))
        assert len(model.decoded) == count + 1

    run(main, model)


def test_a_cancelled_search_stops_within_its_job() -> None:
    """At its next step."""
    gate, model = Gate(), FakeModel()
    model.on_decode = gate

    async def main(engine: Engine) -> None:
        task = asyncio.create_task(find(engine))
        await asyncio.to_thread(gate.reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await segment(engine, request(picture(), click(3, 3)))

    run(main, model)
    assert len(model.decoded) == 2


def test_stops_at_the_limit_of_masks() -> None:
    """Exactly, though a click gives three."""
    asked = replace(ALL, max_masks=4, box_nms_thresh=1.0)
    everything = run(lambda engine: find(engine, asked))
    assert (len(everything.annotations), everything.stopped) == (4, "max_masks")


@dataclass
class Memory:
    """Grants so many bytes, and notes what was asked for."""

    most: int
    asked: list[int] = field(default_factory=list)

    async def reserve(self, nbytes: int) -> int:
        """The smaller of the two."""
        self.asked.append(nbytes)
        return min(nbytes, self.most)


def test_stops_when_the_memory_for_masks_is_full() -> None:
    """With what it has; it asks for more as it finds more."""
    memory = Memory(most=JOB_MASK_PIXELS + 10_000_000)
    everything = run(lambda engine: find(engine, admit=Admit(masks=memory.reserve)))
    assert everything.stopped == "mask_limit"
    assert everything.annotations
    assert memory.asked == sorted(memory.asked)
    assert memory.asked[-1] > memory.most


def test_no_memory_at_all_is_a_refusal() -> None:
    """There is nothing to answer with."""

    async def refuse(_: int) -> int:
        raise OverloadedError("no memory")

    with pytest.raises(OverloadedError):
        run(lambda engine: find(engine, admit=Admit(masks=refuse)))


def test_masks_that_are_streamed_need_no_more_memory() -> None:
    """Each job asks for the same."""
    memory = Memory(most=10**9)

    async def main(engine: Engine) -> list[object]:
        updates = engine.everything(
            request(picture()), ALL, Timings(), are_kept=False, admit=Admit(masks=memory.reserve)
        )
        return [update async for update in updates]

    updates = run(main)
    assert isinstance(updates[-1], Ended)
    assert len(set(memory.asked)) == 1


def test_models_without_points_are_refused_before_loading() -> None:
    """The message says what they take."""
    model = FakeModel(capabilities=Capabilities(texts=4))
    with pytest.raises(InvalidPromptError, match="takes points"):
        run(find, model)
    assert not model.encoded


def test_a_job_that_ran_out_of_memory_goes_on_where_it_was() -> None:
    """It runs again, but no click is decoded twice, and no mask is lost."""
    failures = [MemoryError()]

    def fail(_: Prompt) -> None:
        if failures and len(model.decoded) == 3:
            raise failures.pop()

    model = FakeModel(on_decode=fail)
    everything = run(find, model)
    whole = run(find)
    assert not failures
    points = [tuple(prompt.points[0].tolist()) for prompt, _, _ in model.decoded]
    assert len(points) == len(set(points))
    assert [item.box for item in everything.annotations] == [item.box for item in whole.annotations]
