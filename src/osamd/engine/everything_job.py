"""Jobs of a search for everything: most decode a few clicks, and judge and refine masks; one compares all masks."""

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

from osamd.engine.everything_limits import JOB_MASK_PIXELS, Limits
from osamd.models.base import Adapter, Proposer
from osamd.pixels.everything import Everything, Proposal
from osamd.pixels.proposals import Click, Offer, Search
from osamd.timings import Timings
from osamd.types import Candidate, Cleaning, Embedding, MaskLogits, Prompt

# A draft that is kept and has at least this predicted IoU is decoded again, with itself as the previous mask.
REFINED_FROM: Final = 0.75


@dataclass(slots=True)
class _Decoded:
    """A candidate to judge.

    Attributes:
        click: the point it is from.
        rank: its rank among the candidates of that point.
        candidate: as decoded.
        refined_rank: the rank of what it is refined to if it is kept; None if it is not worth refining.
        is_again: whether ``settle`` brought it back.
        offer: what became of it, once it is known; its mask may still have to be made.
    """

    click: Click
    rank: int
    candidate: Candidate
    refined_rank: int | None = None
    is_again: bool = False
    offer: Offer | None = None


@dataclass(slots=True)
class Work:
    """What a job has decoded and not finished, for the next one or for its own second try.

    Attributes:
        candidates: those to judge.
        drafts: those that were kept and are to be refined, each with the rank of the result.
    """

    candidates: list[_Decoded] = field(default_factory=list)
    drafts: list[tuple[_Decoded, int]] = field(default_factory=list)

    @property
    def is_left(self) -> bool:
        """Whether there is any."""
        return bool(self.candidates or self.drafts)


class Job:
    """A few clicks to decode, after the work that an earlier job left.

    Args:
        adapter: the model the embedding is from.
        embedding: the encoded image.
        plan: the search.
        asked: its parameters.
        timings: the request's stopwatch.
        limits: of the search.
        work: left by an earlier job; what this one leaves goes there.
        clicks: to decode, with a rank for only that candidate; those that are decoded are removed.

    Attributes:
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
        work: Work,
        clicks: list[tuple[Click, int | None]],
    ) -> None:
        self._adapter = adapter
        self._embedding = embedding
        self._plan = plan
        self._cleaning = Cleaning(fill_holes=asked.min_mask_region_area, drop_islands=asked.min_mask_region_area)
        self._timings = timings
        self._room = limits.room
        self._until = limits.until
        self._work = work
        self._clicks = clicks
        self.found: list[Proposal] = []
        self.dropped: list[int] = []

    def steps(self) -> Generator[None, None, None]:
        """Decode the clicks; yields where other jobs may run.

        Each piece of work is removed once it is done, so that nothing is lost if memory runs out on the way.
        """
        work = self._work
        while (work.is_left or self._clicks) and self._has_room():
            if work.candidates:
                self._judge(work.candidates[0])
                del work.candidates[0]
            elif work.drafts:
                work.candidates.append(self._refined(*work.drafts[0]))
                del work.drafts[0]
            else:
                work.candidates += self._decoded(*self._clicks[0])
                del self._clicks[0]
            yield

    def _has_room(self) -> bool:
        pixels = sum(item.mask.inside.size for item in self.found if item.mask is not None)
        return (
            len(self.found) - len(self.dropped) < self._room
            and pixels < JOB_MASK_PIXELS
            and time.monotonic() < self._until
        )

    def _decoded(self, click: Click, rank: int | None) -> list[_Decoded]:
        candidates = self._decode(click)
        if rank is not None:
            draft = candidates[rank % len(candidates)]
            candidate = self._refine(click, draft) if rank >= len(candidates) else draft
            return [_Decoded(click, rank, candidate, is_again=True)]
        self._plan.count_tried()
        # A refined mask ranks after all drafts of its click.
        return [
            _Decoded(click, place, item, place + len(candidates) if self._is_worth_refining(item) else None)
            for place, item in enumerate(candidates)
        ]

    def _refined(self, draft: _Decoded, rank: int) -> _Decoded:
        return _Decoded(draft.click, rank, self._refine(draft.click, draft.candidate))

    def _decode(self, click: Click) -> list[Candidate]:
        """The candidates of a click, by rank."""
        prompt = self._prompt(click)
        with self._timings.stage("decode"):
            if isinstance(self._adapter, Proposer):
                return self._adapter.propose(self._embedding, prompt)
            return self._adapter.decode(self._embedding, prompt, mask_input=None, multimask=True)

    def _is_worth_refining(self, candidate: Candidate) -> bool:
        return isinstance(self._adapter, Proposer) and (candidate.score or 0.0) >= REFINED_FROM

    def _refine(self, click: Click, draft: Candidate) -> Candidate:
        with self._timings.stage("decode"):
            (refined,) = self._adapter.decode(
                self._embedding, self._prompt(click), mask_input=draft.logits, multimask=False
            )
        return refined

    def _judge(self, item: _Decoded) -> None:
        logits = item.candidate.logits
        if logits is None:
            return
        height, width = self._embedding.height, self._embedding.width
        from osamd.pixels.cleaning import clean
        from osamd.pixels.masks import mask_from_logits

        with self._timings.stage("mask"):
            offer = item.offer or self._offer(item, logits)
            if offer.number is None:
                return
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
                item.candidate.score,
                None,
                prompt_index=0,
                mask_index=item.rank,
                logits=logits,
                number=offer.number,
                point=(item.click.x * width, item.click.y * height),
                stability_score=offer.stability_score,
                area=int(mask.inside.sum()),
            )
        )
        if item.refined_rank is not None:
            self._work.drafts.append((item, item.refined_rank))

    def _offer(self, item: _Decoded, logits: MaskLogits) -> Offer:
        if item.is_again:
            offer = self._plan.revive(item.click, item.rank, logits)
        else:
            offer = self._plan.offer(item.click, item.rank, logits, item.candidate.score or 0.0)
        item.offer = offer
        self._drop(offer.dropped)
        return offer

    def _drop(self, numbers: tuple[int, ...]) -> None:
        own = {item.number for item in self.found}
        self.dropped += [number for number in numbers if number not in own]
        self.found = [item for item in self.found if item.number not in numbers]

    def _prompt(self, click: Click) -> Prompt:
        import numpy as np

        place = [[click.x * self._embedding.width, click.y * self._embedding.height]]
        return Prompt(points=np.array(place, np.float32), point_labels=np.ones(1, np.int64))


@dataclass(slots=True)
class Settlement:
    """The comparison of all masks, once every click has been decoded.

    Attributes:
        plan: the search; nothing else may use it meanwhile.
        timings: the request's stopwatch.
        revived: click and rank of masks to decode again.
        dropped: numbers of masks to forget.
    """

    plan: Search
    timings: Timings
    revived: list[tuple[Click, int]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    def steps(self) -> Generator[None, None, None]:
        """Compare them; yields where other jobs may run. Can be run again where memory ran out."""
        self.revived, self.dropped = yield from self.timings.stage_in_steps("mask", self.plan.settle())
