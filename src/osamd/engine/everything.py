"""Everything mode: many clicks on one image, decoded a few at a time, so that other requests run in between."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Final

from osamd.engine.admit import Admit
from osamd.engine.image_encoder import Lookup
from osamd.engine.inference import LOGITS_BYTES, MOST_CANDIDATES
from osamd.errors import InvalidPromptError, OverloadedError
from osamd.library.catalog import Model
from osamd.library.families import FAMILIES, Family
from osamd.models.base import Adapter, Proposer
from osamd.pixels.everything import Everything, EverythingResult, Progress, Proposal, Stopped
from osamd.pixels.proposals import Click, Search
from osamd.segment_requests import ImageHandle
from osamd.timings import Timings
from osamd.types import Candidate, Capabilities, Cleaning, Embedding, MaskLogits, Prompt

# Clicks of one job. Other jobs wait for one click at most, since each is a step; more only saves overhead.
CLICKS_PER_JOB: Final = 8
# A job ends early when the boxes of its new masks have more pixels together, one byte each.
JOB_MASK_PIXELS: Final = 32_000_000


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
    """News of a search.

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


RunSteps = Callable[[Callable[[], Generator[None, None, None]]], Awaitable[None]]


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
    limits = _Limits(asked, embedding, reserve, are_kept=are_kept)

    async def decode(clicks: Sequence[tuple[Click, int | None]]) -> Found:
        job = _Job(adapter, embedding, plan, asked, timings, limits)
        job.waiting = list(clicks)
        # Runs again where memory ran out; what was decoded by then stays.
        await run(job.steps)
        plan.put_back([click for click, rank in job.waiting if rank is None])
        limits.count(job.found, job.dropped)
        found = [replace(item, logits=None) if keep is None else keep(item) for item in job.found]
        return Found(tuple(found), tuple(job.dropped), plan.progress)

    stopped: Stopped | None = None
    while stopped is None and (clicks := plan.take(CLICKS_PER_JOB)):
        stopped = await limits.reached()
        if stopped is None:
            yield await decode([(click, None) for click in clicks])
    if stopped is None:
        revived, dropped = plan.settle()
        limits.count((), dropped)
        if dropped:
            yield Found((), tuple(dropped), plan.progress)
        while revived and (stopped := await limits.reached()) is None:
            again = [revived.pop(0) for _ in range(min(CLICKS_PER_JOB, len(revived)))]
            yield await decode(again)
    yield Ended(plan.progress, stopped or "all_points")


class _Limits:
    """The limits of a search: masks, seconds and memory."""

    def __init__(
        self, asked: Everything, embedding: Embedding, reserve: Callable[[int], Awaitable[int]], *, are_kept: bool
    ) -> None:
        pixels = embedding.height * embedding.width
        self.until = time.monotonic() + asked.max_seconds
        self._masks = asked.max_masks
        self._canvases = asked.max_masks if asked.max_canvas_pixels is None else asked.max_canvas_pixels // pixels
        self._reserve = reserve
        self._are_kept = are_kept
        # A job ends after the click with which it exceeds its pixels.
        self._job_bytes = JOB_MASK_PIXELS + MOST_CANDIDATES * (pixels + CLICKS_PER_JOB * LOGITS_BYTES)
        self._nbytes: dict[int, int] = {}

    @property
    def room(self) -> int:
        """How many more masks there may be."""
        return min(self._masks, max(1, self._canvases)) - len(self._nbytes)

    def count(self, found: Iterable[Proposal], dropped: Iterable[int]) -> None:
        """Account for new masks, and for those they replaced."""
        for number in dropped:
            self._nbytes.pop(number, None)
        for item in found:
            self._nbytes[item.number] = LOGITS_BYTES + (0 if item.mask is None else item.mask.inside.size)

    async def reached(self) -> Stopped | None:
        """The limit that ends the search now, or None if its next job may run."""
        if self.room <= 0:
            return "max_masks" if self._masks <= self._canvases else "mask_limit"
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            return "max_seconds"
        needed = self._job_bytes + (sum(self._nbytes.values()) if self._are_kept else 0)
        if not self._nbytes:
            # Nothing to answer with yet, so the request is refused if there is no memory for it.
            await self._reserve(min(needed, self._job_bytes))
            return None
        try:
            # Not for longer: two searches that hold memory might wait for each other.
            async with asyncio.timeout(left_s):
                return None if await self._reserve(needed) >= needed else "mask_limit"
        except (OverloadedError, TimeoutError):
            return "mask_limit"


class _Job:
    """A few clicks to decode.

    Attributes:
        waiting: clicks that are not decoded yet; with a rank, only that candidate is wanted.
        found: new masks.
        dropped: numbers of earlier masks that better ones replaced.
    """

    def __init__(
        self,
        adapter: Adapter,
        embedding: Embedding,
        plan: Search,
        asked: Everything,
        timings: Timings,
        limits: _Limits,
    ) -> None:
        self._adapter = adapter
        self._embedding = embedding
        self._plan = plan
        self._cleaning = Cleaning(fill_holes=asked.min_mask_region_area, drop_islands=asked.min_mask_region_area)
        self._timings = timings
        self._room = limits.room
        self._until = limits.until
        self.waiting: list[tuple[Click, int | None]] = []
        self.found: list[Proposal] = []
        self.dropped: list[int] = []

    def steps(self) -> Generator[None, None, None]:
        """Decode the clicks; yields where other jobs may run."""
        while self.waiting and self._has_room():
            click, rank = self.waiting[0]
            candidates = self._decode(click)
            del self.waiting[0]
            if rank is None:
                self._plan.count_tried()
            for place, candidate in enumerate(candidates):
                if not self._has_room():
                    break
                if candidate.logits is not None and rank in {None, place}:
                    self._judge(click, place, candidate, candidate.logits, is_again=rank is not None)
                    yield
            yield

    def _has_room(self) -> bool:
        pixels = sum(item.mask.inside.size for item in self.found if item.mask is not None)
        return (
            len(self.found) - len(self.dropped) < self._room
            and pixels < JOB_MASK_PIXELS
            and time.monotonic() < self._until
        )

    def _decode(self, click: Click) -> list[Candidate]:
        """The candidates of a click, by rank."""
        prompt = self._prompt(click)
        with self._timings.stage("decode"):
            if isinstance(self._adapter, Proposer):
                return self._adapter.propose(self._embedding, prompt)
            return self._adapter.decode(self._embedding, prompt, mask_input=None, multimask=True)

    def _judge(self, click: Click, rank: int, candidate: Candidate, logits: MaskLogits, *, is_again: bool) -> None:
        height, width = self._embedding.height, self._embedding.width
        from osamd.pixels.cleaning import clean
        from osamd.pixels.masks import mask_from_logits

        with self._timings.stage("mask"):
            score = candidate.score or 0.0
            offer = self._plan.revive(click, rank, logits) if is_again else self._plan.offer(click, rank, logits, score)
            if offer.number is None:
                return
            self._drop(offer.dropped)
            mask = mask_from_logits(logits, height=height, width=width)
            if mask is None:
                # Too thin for a single pixel of a small image.
                self._plan.withdraw(offer.number)
                return
            mask = clean(mask, self._cleaning)
        self.found.append(
            Proposal(
                mask.box,
                mask,
                candidate.score,
                None,
                prompt_index=0,
                mask_index=rank,
                logits=logits,
                number=offer.number,
                point=(click.x * width, click.y * height),
                stability_score=offer.stability_score,
                area=int(mask.inside.sum()),
            )
        )

    def _drop(self, numbers: tuple[int, ...]) -> None:
        own = {item.number for item in self.found}
        self.dropped += [number for number in numbers if number not in own]
        self.found = [item for item in self.found if item.number not in numbers]

    def _prompt(self, click: Click) -> Prompt:
        import numpy as np

        place = [[click.x * self._embedding.width, click.y * self._embedding.height]]
        return Prompt(points=np.array(place, np.float32), point_labels=np.ones(1, np.int64))
