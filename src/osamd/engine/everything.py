"""Everything mode: many clicks on one image, decoded a few at a time, so that other requests run in between."""

import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from osamd.engine.admit import Admit
from osamd.engine.everything_job import Job, Settlement, Work
from osamd.engine.everything_limits import CLICKS_PER_JOB, Limits
from osamd.engine.image_encoder import Lookup
from osamd.errors import InvalidPromptError
from osamd.library.catalog import Model
from osamd.library.families import FAMILIES, Family
from osamd.models.base import Adapter
from osamd.pixels.everything import Everything, EverythingResult, Progress, Proposal, Stopped
from osamd.pixels.proposals import Click, Search
from osamd.segment_requests import ImageHandle
from osamd.timings import Timings
from osamd.types import Capabilities, Embedding


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """The image is encoded; the search begins.

    Attributes:
        image: the handle of the image.
        embedding: the embedding that masks are decoded from.
        cache_hit: whether the embedding was already cached.
        device: the device inference runs on.
        license: SPDX expression of the model's licence.
    """

    image: ImageHandle
    embedding: Embedding
    cache_hit: bool
    device: str
    license: str


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Progress of a search.

    Attributes:
        proposals: new masks.
        dropped: numbers of earlier masks to forget, because better ones replaced them.
        progress: how far the search is.
    """

    proposals: tuple[Proposal, ...]
    dropped: tuple[int, ...]
    progress: Progress


@dataclass(frozen=True, slots=True)
class Ended:
    """The search is over.

    Attributes:
        progress: how far it got.
        stopped: why it ended.
    """

    progress: Progress
    stopped: Stopped


Update = Begun | Found | Ended


def check_everything(can: Capabilities, *, model: str) -> None:
    """Refuse a model that cannot find everything.

    Raises:
        InvalidPromptError: it takes no points, or returns no masks.
    """
    if not (can.points and can.masks):
        raise InvalidPromptError(
            f"everything needs a model that takes points; {model} takes {can.sentence()}", field="prompt.everything"
        )


def with_defaults(asked: Everything, family: Family) -> Everything:
    """The parameters, with a family's defaults where none are given."""
    pred_iou, stability = family.thresholds
    return replace(
        asked,
        points_per_side=asked.points_per_side or family.points_per_side,
        box_nms_thresh=family.box_nms_thresh if asked.box_nms_thresh is None else asked.box_nms_thresh,
        pred_iou_thresh=pred_iou if asked.pred_iou_thresh is None else asked.pred_iou_thresh,
        stability_score_thresh=stability if asked.stability_score_thresh is None else asked.stability_score_thresh,
    )


async def find_everything(
    opened: AbstractAsyncContextManager[tuple[Model, Adapter, Lookup]],
    asked: Everything,
    timings: Timings,
    *,
    run: Callable[..., Awaitable[None]],
    keep: Callable[..., Proposal] | None,
    admit: Admit,
    are_kept: bool,
    kept_s: float,
) -> AsyncGenerator[Update, None]:
    """``Engine.everything``, with what it needs of the engine.

    Args:
        opened: the model, held loaded, and the encoded image.
        asked: the parameters.
        timings: the request's stopwatch.
        run: runs a job in steps for a ``model``.
        keep: stores the logits of a mask of an ``image_id`` and returns it with its ``mask_id``; None for no ids.
        admit: callbacks that may refuse it.
        are_kept: whether the caller keeps the masks in memory until the end.
        kept_s: seconds after which the image's handle expires.
    """
    async with opened as (model, adapter, lookup):
        embedding = lookup.image.embedding
        yield Begun(lookup.handle(kept_s), embedding, lookup.hit, adapter.device, model.license)
        if keep is not None:
            keep = functools.partial(keep, image_id=lookup.image_id) if adapter.capabilities.mask_input else None
        found = search(
            adapter,
            embedding,
            with_defaults(asked, FAMILIES[model.family]),
            run=functools.partial(run, model=model.name, timings=timings),
            reserve=admit.masks,
            keep=keep,
            are_kept=are_kept,
            timings=timings,
        )
        async with contextlib.aclosing(found) as updates:
            async for update in updates:
                yield update


async def collect(updates: AsyncGenerator[Update, None], *, with_embedding: bool = False) -> EverythingResult:
    """All updates of ``Engine.everything`` as one result, the best masks first.

    Args:
        updates: consumed and closed.
        with_embedding: whether the result includes the embedding.
    """
    kept: dict[int, Proposal] = {}
    async with contextlib.aclosing(updates):
        begun = await anext(updates)
        if not isinstance(begun, Begun):
            raise TypeError("expected Begun first")
        async for update in updates:
            if isinstance(update, Found):
                for number in update.dropped:
                    del kept[number]
                kept |= {item.number: item for item in update.proposals}
            if isinstance(update, Ended):
                ended = update
    return EverythingResult(
        image=begun.image,
        annotations=tuple(sorted(kept.values(), key=lambda item: -(item.score or 0.0))),
        embedding=begun.embedding if with_embedding else None,
        cache_hit=begun.cache_hit,
        device=begun.device,
        license=begun.license,
        progress=ended.progress,
        stopped=ended.stopped,
    )


Steps = Callable[[], Generator[None, None, None]]
RunSteps = Callable[[Steps], Awaitable[None]]


async def search(
    adapter: Adapter,
    embedding: Embedding,
    asked: Everything,
    *,
    run: RunSteps,
    reserve: Callable[[int], Awaitable[int]],
    keep: Callable[[Proposal], Proposal] | None = None,
    are_kept: bool,
    timings: Timings,
) -> AsyncGenerator[Found | Ended, None]:
    """Find everything in an encoded image.

    Args:
        adapter: the model the embedding is from.
        embedding: the encoded image.
        asked: the parameters.
        run: runs a job in steps.
        reserve: called with the bytes that masks need from now on; may wait, and returns the bytes granted.
        keep: stores a mask's logits and returns it with a ``mask_id``; None drops the logits.
        are_kept: whether the caller keeps the masks in memory until the end.
        timings: the request's stopwatch.

    Raises:
        OsamdError: what ``run`` raises, and what ``reserve`` raises before the first job.
    """
    plan = Search(asked, height=embedding.height, width=embedding.width)
    limits = Limits(asked, embedding, reserve, are_kept=are_kept)
    work = Work()

    async def decode(clicks: list[tuple[Click, int | None]]) -> Found:
        """Run a job, which removes the clicks that it decodes."""
        job = Job(adapter, embedding, plan, asked, timings, limits, work, clicks)
        # Runs again where memory ran out; what was decoded by then stays.
        await run(job.steps)
        limits.count(job.found, job.dropped)
        found = [replace(item, logits=None) if keep is None else keep(item) for item in job.found]
        return Found(tuple(found), tuple(job.dropped), plan.progress)

    stopped: Stopped | None = None
    while stopped is None and ((clicks := plan.take(CLICKS_PER_JOB)) or work.is_left):
        stopped = await limits.reached()
        if stopped is None:
            new: list[tuple[Click, int | None]] = [(click, None) for click in clicks]
            yield await decode(new)
            plan.put_back([click for click, _ in new])
    if stopped is None:
        settlement = Settlement(plan, timings)
        await run(settlement.steps)
        revived = settlement.revived
        limits.count((), settlement.dropped)
        if settlement.dropped:
            yield Found((), tuple(settlement.dropped), plan.progress)
        while (revived or work.is_left) and (stopped := await limits.reached()) is None:
            again: list[tuple[Click, int | None]] = [revived.pop(0) for _ in range(min(CLICKS_PER_JOB, len(revived)))]
            yield await decode(again)
            revived[:0] = [(click, rank) for click, rank in again if rank is not None]
    yield Ended(plan.progress, stopped or "all_points")
