"""Everything mode: many clicks on one image, decoded a few at a time, so that other requests run in between."""

import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Final

from osamd.engine.admit import Admit
from osamd.engine.everything_limits import CLICKS_PER_JOB, JOB_MASK_PIXELS, Limits
from osamd.engine.image_encoder import Lookup
from osamd.errors import InvalidPromptError
from osamd.library.catalog import Model
from osamd.library.families import FAMILIES, Family
from osamd.models.base import Adapter, Proposer
from osamd.pixels.everything import Everything, EverythingResult, Progress, Proposal, Stopped
from osamd.pixels.proposals import Click, Search
from osamd.segment_requests import ImageHandle
from osamd.timings import Timings
from osamd.types import Candidate, Capabilities, Cleaning, Embedding, Prompt

# A draft that is kept and has at least this predicted IoU is decoded again, with itself as the previous mask.
REFINED_FROM: Final = 0.75


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


Draft = tuple[Click, int, Candidate]
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
    limits = Limits(asked, embedding, reserve, are_kept=are_kept)
    drafts: list[Draft] = []

    async def decode(clicks: Sequence[tuple[Click, int | None]]) -> Found:
        job = _Job(adapter, embedding, plan, asked, timings, limits, drafts)
        job.waiting = list(clicks)
        # Runs again where memory ran out; what was decoded by then stays.
        await run(job.steps)
        plan.put_back([click for click, rank in job.waiting if rank is None])
        limits.count(job.found, job.dropped)
        found = [replace(item, logits=None) if keep is None else keep(item) for item in job.found]
        return Found(tuple(found), tuple(job.dropped), plan.progress)

    stopped: Stopped | None = None
    while stopped is None and ((clicks := plan.take(CLICKS_PER_JOB)) or drafts):
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


class _Job:
    """A few clicks to decode.

    Attributes:
        waiting: clicks that are not decoded yet; with a rank, only that candidate is wanted.
        drafts: kept masks to refine, and the ranks of the refined ones; what is left of it is for the next job.
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
        limits: Limits,
        drafts: list[Draft],
    ) -> None:
        self._adapter = adapter
        self._embedding = embedding
        self._plan = plan
        self._cleaning = Cleaning(fill_holes=asked.min_mask_region_area, drop_islands=asked.min_mask_region_area)
        self._timings = timings
        self._room = limits.room
        self._until = limits.until
        self.waiting: list[tuple[Click, int | None]] = []
        self.drafts = drafts
        self.found: list[Proposal] = []
        self.dropped: list[int] = []

    def steps(self) -> Generator[None, None, None]:
        """Decode the clicks; yields where other jobs may run."""
        while (self.drafts or self.waiting) and self._has_room():
            if self.drafts:
                click, place, draft = self.drafts[0]
                refined = self._refine(click, draft)
                del self.drafts[0]
                self._judge(click, place, refined)
                yield
                continue
            click, rank = self.waiting[0]
            if rank is not None:
                candidate = self._decode_again(click, rank)
                del self.waiting[0]
                self._judge(click, rank, candidate, is_again=True)
                yield
                continue
            candidates = self._decode(click)
            del self.waiting[0]
            self._plan.count_tried()
            for place, candidate in enumerate(candidates):
                if not self._has_room():
                    break
                is_kept = self._judge(click, place, candidate)
                if is_kept and self._is_worth_refining(candidate):
                    # A refined mask ranks after all drafts of its click.
                    self.drafts.append((click, place + len(candidates), candidate))
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

    def _decode_again(self, click: Click, rank: int) -> Candidate:
        candidates = self._decode(click)
        draft = candidates[rank % len(candidates)]
        return self._refine(click, draft) if rank >= len(candidates) else draft

    def _is_worth_refining(self, candidate: Candidate) -> bool:
        return isinstance(self._adapter, Proposer) and (candidate.score or 0.0) >= REFINED_FROM

    def _refine(self, click: Click, draft: Candidate) -> Candidate:
        with self._timings.stage("decode"):
            (refined,) = self._adapter.decode(
                self._embedding, self._prompt(click), mask_input=draft.logits, multimask=False
            )
        return refined

    def _judge(self, click: Click, rank: int, candidate: Candidate, *, is_again: bool = False) -> bool:
        """Whether the mask is kept for now."""
        logits = candidate.logits
        if logits is None:
            return False
        height, width = self._embedding.height, self._embedding.width
        from osamd.pixels.cleaning import clean
        from osamd.pixels.masks import mask_from_logits

        with self._timings.stage("mask"):
            score = candidate.score or 0.0
            offer = self._plan.revive(click, rank, logits) if is_again else self._plan.offer(click, rank, logits, score)
            if offer.number is None:
                return False
            self._drop(offer.dropped)
            mask = mask_from_logits(logits, height=height, width=width)
            if mask is None:
                # Too thin for a single pixel of a small image.
                self._plan.withdraw(offer.number)
                return False
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
        return True

    def _drop(self, numbers: tuple[int, ...]) -> None:
        own = {item.number for item in self.found}
        self.dropped += [number for number in numbers if number not in own]
        self.found = [item for item in self.found if item.number not in numbers]

    def _prompt(self, click: Click) -> Prompt:
        import numpy as np

        place = [[click.x * self._embedding.width, click.y * self._embedding.height]]
        return Prompt(points=np.array(place, np.float32), point_labels=np.ones(1, np.int64))
