"""Everything mode in the engine: other requests run in between, and nothing outlives its caller."""

import asyncio
import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from engines import picture, reached, request, run, segment
from fake_model import FakeModel, Gate, click

from osamd.engine import Engine, everything_job
from osamd.engine.admit import Admit
from osamd.engine.everything import Begun, Ended, Found, collect
from osamd.engine.everything_job import REFINED_FROM
from osamd.engine.everything_limits import JOB_MASK_PIXELS
from osamd.errors import InferenceError, InvalidPromptError, InvalidRequestError, OverloadedError
from osamd.image_sources import ExchangedEmbedding, ImageSource
from osamd.pixels import masks
from osamd.pixels.everything import Everything, EverythingResult
from osamd.pixels.proposals import Click, Search, suppressed
from osamd.segment_requests import SegmentRequest
from osamd.timings import Timings
from osamd.types import BoolArray, Candidate, Capabilities, Embedding, Mask, MaskLogits, Prompt
from osamd.wire.replies import finish

ALL = Everything(points_per_side=8, pred_iou_thresh=0.0, stability_score_thresh=0.0)
# Masks suppress each other so often that some come back in the end.
CROWDED = replace(ALL, points_per_side=12, box_nms_thresh=0.3, max_masks=1000, skip_explained=False)


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


@dataclass
class Draftsman(FakeModel):
    """Drafts and refined masks are squares around clicks, their sizes and scores drawn by the click.

    Attributes:
        made: all of them, by click and whether refined: logits and scores.
    """

    made: dict[tuple[tuple[float, float], bool], list[Candidate]] = field(default_factory=dict)

    def propose(self, embedding: Embedding, prompt: Prompt) -> list[Candidate]:
        """Two drafts."""
        return self._squares(embedding, prompt, count=2, is_refined=False)

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """One refined mask of either draft."""
        super().decode(embedding, prompt, mask_input=mask_input, multimask=multimask)
        return self._squares(embedding, prompt, count=1, is_refined=True)

    def _squares(self, embedding: Embedding, prompt: Prompt, *, count: int, is_refined: bool) -> list[Candidate]:
        x, y = prompt.points[0].astype(int).tolist()
        random = np.random.default_rng((x, y, is_refined))
        candidates = []
        for score in sorted(random.uniform(0.4, 0.95, count), reverse=True):
            values = np.full((embedding.height, embedding.width), -1.0, np.float32)
            left, top, right, bottom = random.integers(6, 20, 4).tolist()
            values[max(0, y - top) : y + bottom, max(0, x - left) : x + right] = 1.0
            logits = MaskLogits(values, valid_height=embedding.height, valid_width=embedding.width)
            candidates.append(Candidate(logits=logits, score=score))
        self.made[(x, y), is_refined] = candidates
        return candidates


def _inside(candidate: Candidate) -> BoolArray:
    assert candidate.logits is not None
    return candidate.logits.values > 0


def test_likely_drafts_are_refined_and_settled_like_the_others() -> None:
    """What is left is non-maximum suppression of all drafts and refined masks; some come back that were dropped."""
    model = Draftsman()
    everything = run(lambda engine: find(engine, CROWDED), model)
    made = [candidate for candidates in model.made.values() for candidate in candidates]
    corners = [np.argwhere(_inside(candidate)) for candidate in made]
    boxes = np.array([[*place.min(0)[::-1], *place.max(0)[::-1] + 1] for place in corners], np.float32)
    scores = np.array([candidate.score for candidate in made], np.float32)
    left = np.flatnonzero(~finish(suppressed(boxes, scores, 0.3))).tolist()
    found = sorted(
        (item.box.xmin, item.box.ymin, item.box.xmax + 1, item.box.ymax + 1) for item in everything.annotations
    )
    assert found == sorted(tuple(boxes[index].astype(int).tolist()) for index in left)
    refined = {item.score for (_, is_refined), items in model.made.items() if is_refined for item in items}
    assert refined & {item.score for item in everything.annotations}


Settled = tuple[list[tuple[Click, int]], list[int]]


def _hold_settling(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> list[str]:
    """Hold up ``settle`` after its first step; returns what happens in it."""
    steps: list[str] = []
    real = Search.settle

    def settle(plan: Search) -> Generator[None, None, Settled]:
        # On the loop, the gate would stop the test, too.
        gate.reached.set()
        assert threading.current_thread() is not threading.main_thread()
        settling = real(plan)
        next(settling)
        steps.append("begun")
        gate(None)
        yield
        steps.append("continued")
        settled = yield from settling
        steps.append("ended")
        return settled

    monkeypatch.setattr(Search, "settle", settle)
    return steps


def test_masks_are_settled_on_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop and other requests go on meanwhile, and the time counts."""
    gate = Gate()
    whole = run(lambda engine: find(engine, CROWDED), Draftsman())
    steps = _hold_settling(monkeypatch, gate)

    async def main(engine: Engine) -> EverythingResult:
        task = asyncio.create_task(find(engine, CROWDED))
        await reached(gate)
        await segment(engine, request(picture(9), click(3, 3), owner="another"))
        gate.open()
        return await task

    assert _summary(run(main, Draftsman())) == _summary(whole)
    assert steps == ["begun", "continued", "ended"]


def test_settling_ends_with_its_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its next step."""
    gate = Gate()
    steps = _hold_settling(monkeypatch, gate)

    async def main(engine: Engine) -> None:
        task = asyncio.create_task(find(engine, CROWDED))
        await reached(gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()

    # Closing the engine waits for what runs.
    run(main, Draftsman())
    assert steps == ["begun"]


def test_settling_that_ran_out_of_memory_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same result."""
    failures = [MemoryError()]
    real = Search.settle

    def settle(plan: Search) -> Generator[None, None, Settled]:
        settling = real(plan)
        next(settling)
        if failures:
            raise failures.pop()
        return (yield from settling)

    whole = run(lambda engine: find(engine, CROWDED), Draftsman())
    monkeypatch.setattr(Search, "settle", settle)
    assert _summary(run(lambda engine: find(engine, CROWDED), Draftsman())) == _summary(whole)
    assert not failures


def test_only_likely_drafts_are_refined() -> None:
    """The others may be wrong altogether."""
    model = Draftsman()
    run(lambda engine: find(engine, replace(ALL, box_nms_thresh=1.0, max_masks=1000, skip_explained=False)), model)
    likely = {
        point
        for (point, is_refined), drafts in model.made.items()
        if not is_refined and any((draft.score or 0.0) >= REFINED_FROM for draft in drafts)
    }
    assert {point for point, is_refined in model.made if is_refined} == likely
    assert 0 < len(likely) < 64


def test_a_refinement_that_ran_out_of_memory_is_made_again() -> None:
    """And nothing else of its click is lost."""
    failures = [MemoryError()]

    def fail(_: Prompt) -> None:
        if failures and len(model.decoded) == 2:
            raise failures.pop()

    model, spared = Draftsman(on_decode=fail), Draftsman()
    everything = run(find, model)
    whole = run(find, spared)
    assert not failures
    assert len(model.decoded) == len(spared.decoded)
    assert [item.box for item in everything.annotations] == [item.box for item in whole.annotations]


def _summary(found: EverythingResult) -> list[tuple[object, ...]]:
    return [(item.score, item.box, item.mask_index) for item in found.annotations]


@pytest.mark.parametrize("make", [FakeModel, Draftsman])
@pytest.mark.parametrize("asked", [CROWDED, replace(ALL, points_per_side=1, box_nms_thresh=1.0)])
def test_large_masks_are_found_in_more_jobs(
    make: type[FakeModel], asked: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job ends when its masks are large. What it has not judged, refined or decoded again is left to the next one."""
    whole = run(lambda engine: find(engine, asked), make())
    monkeypatch.setattr(everything_job, "JOB_MASK_PIXELS", 1)
    found = run(lambda engine: find(engine, asked), make())
    assert _summary(found) == _summary(whole)
    assert found.stopped == whole.stopped == "all_points"


def test_a_mask_that_ran_out_of_memory_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that comes back in the end; nothing is lost, and nobody hears of a mask that never was."""
    calls = 0
    failing = 0

    def cut(logits: MaskLogits, *, height: int, width: int) -> Mask | None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise MemoryError
        return real(logits, height=height, width=width)

    real = masks.mask_from_logits
    monkeypatch.setattr(masks, "mask_from_logits", cut)
    whole = run(lambda engine: find(engine, CROWDED), Draftsman())
    count = calls
    for number in (1, count // 2, count):
        calls, failing = 0, number
        found = run(lambda engine: find(engine, CROWDED), Draftsman())
        assert calls == count + 1
        assert _summary(found) == _summary(whole)


def test_an_embedding_that_does_not_fit_together_is_the_callers_mistake() -> None:
    """As for a click: each array fits the graph, but not in combination."""

    def fail(_: Prompt) -> None:
        raise InferenceError("shapes")

    arrays = (np.zeros((3, 30, 40), np.float32),)
    image = ImageSource.of_embedding(ExchangedEmbedding(height=30, width=40, arrays=arrays))

    async def main(engine: Engine) -> EverythingResult:
        asked = SegmentRequest(image, owner="me")
        return await collect(engine.everything(asked, ALL, Timings(), are_kept=True))

    with pytest.raises(InvalidRequestError, match="not an embedding of this model"):
        run(main, FakeModel(on_decode=fail))
    with pytest.raises(InferenceError):
        run(find, FakeModel(on_decode=fail))
