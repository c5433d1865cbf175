"""Chains of two models: the detector turns words into boxes, the segmenter each box into a mask.

The parts run one after the other, each as a request of its own that holds its model only while it runs. So a chain
needs no more memory than its larger part; where there is room for both, both stay loaded.
"""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from osamd.engine.admit import Admit
from osamd.engine.cache import OwnedCache
from osamd.engine.prompts import check_capabilities
from osamd.errors import EmbeddingExpiredError, InvalidPromptError, InvalidRequestError, UnknownModelError
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model
from osamd.library.library import Library
from osamd.segment_requests import ImageHandle, SegmentRequest, SegmentResult
from osamd.timings import Timings
from osamd.types import Annotation, Prompt

# Boxes of one request that become masks, the best of all its prompts: each costs a decode.
MOST_BOXES: Final = 100
# Links between the parts' handles of the same image, some 5,000.
CAPACITY_BYTES: Final = 1_000_000
LINK_BYTES: Final = 200


def chain_of(name: str | None, library: Library) -> Model | None:
    """The chain of this name; None if it names a single model, or nothing known."""
    with contextlib.suppress(UnknownModelError):
        model = None if name is None else library.resolve(name)
        return model if model is not None and model.parts else None
    return None


class Segment(Protocol):
    """``Engine.segment``."""

    async def __call__(self, request: SegmentRequest, timings: Timings, *, admit: Admit) -> SegmentResult:
        """Answer a request."""


class Embed(Protocol):
    """``Engine.embed``."""

    async def __call__(
        self, image: ImageSource, *, model: str | None, owner: str, timings: Timings, admit: Admit
    ) -> ImageHandle:
        """Encode an image."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A prompt for the segmenter, and where it comes from.

    Attributes:
        prompt: a box, or the caller's clicks.
        index: of the caller's prompt.
        detected: the detector's answer that has this box; None for clicks.
    """

    prompt: Prompt
    index: int
    detected: Annotation | None


class Chains:
    """Answers requests to chains by requests to their parts. Belongs to one event loop.

    The handle of an image is the segmenter's, so clicks on it may name the chain, the segmenter, or no model.

    Args:
        segment: answers a request to a part.
        embed: encodes an image for a part.
        bring: returns when the files of both parts are here.
        ttl_s: seconds an unused handle is kept.
    """

    def __init__(
        self, *, segment: Segment, embed: Embed, bring: Callable[[Model], Awaitable[None]], ttl_s: float
    ) -> None:
        self._segment = segment
        self._embed = embed
        self._bring = bring
        # By the segmenter's handle of an image: the detectors' handles by model.
        self._links: OwnedCache[Mapping[str, str]] = OwnedCache(capacity_bytes=CAPACITY_BYTES, ttl_s=ttl_s)

    async def segment(self, chain: Model, request: SegmentRequest, timings: Timings, admit: Admit) -> SegmentResult:
        """Answer a request; arguments and errors as for ``Engine.segment``.

        Prompts of words go through both parts, others to the segmenter alone. With words, there is one mask for each
        box; ``multimask`` is ignored.
        """
        try:
            await admit.model(chain)
            _check_prompts(request, chain)
            await self._bring(chain)
            if request.prompts is not None and not any(prompt.texts for prompt in request.prompts):
                result = await self._segment(replace(request, model=chain.parts[1].name), timings, admit=admit)
                return replace(result, image=replace(result.image, model=chain.name), license=chain.license)
            return await self._segment_words(chain, request, timings, admit)
        finally:
            # The parts have set their own names.
            timings.model = chain.name

    async def embed(
        self, chain: Model, image: ImageSource, *, owner: str, timings: Timings, admit: Admit
    ) -> ImageHandle:
        """Encode an image for both parts; arguments and errors as for ``Engine.embed``."""
        detector, segmenter = chain.parts
        try:
            await admit.model(chain)
            await self._bring(chain)
            source = self._detectors_source(image, chain, owner)
            first = await self._embed(source, model=detector.name, owner=owner, timings=timings, admit=admit)
            second = await self._embed(image, model=segmenter.name, owner=owner, timings=timings, admit=admit)
        finally:
            timings.model = chain.name
        self._link(second.image_id, detector, first.image_id, owner)
        return replace(second, model=chain.name)

    def linked(self, image_id: str, *, owner: str) -> tuple[str, ...]:
        """The detectors' handles of an image, given the segmenter's."""
        return tuple((self._links.get(image_id, owner=owner) or {}).values())

    def unlink(self, image_id: str, *, owner: str) -> None:
        """Forget the detectors' handles of an image."""
        self._links.delete(image_id, owner=owner)

    async def _segment_words(
        self, chain: Model, request: SegmentRequest, timings: Timings, admit: Admit
    ) -> SegmentResult:
        detector, segmenter = chain.parts
        prompts = request.prompts
        found = await self._segment(
            replace(
                request,
                image=self._detectors_source(request.image, chain, request.owner),
                model=detector.name,
                prompts=None if prompts is None else tuple(prompt for prompt in prompts if prompt.texts),
                multimask=False,
                with_embedding=False,
                with_pixels=False,
                refinable=False,
                needs_masks=False,
            ),
            timings,
            admit=admit,
        )
        questions = _questions(prompts or (Prompt(texts=("",)),), found)
        if not questions and not (request.refinable or request.with_embedding or request.with_pixels):
            # Nobody needs the handle, so the image need not be encoded by the segmenter.
            return replace(found, image=replace(found.image, model=chain.name), license=chain.license)
        result = await self._segment(
            replace(
                request,
                model=segmenter.name,
                prompts=tuple(question.prompt for question in questions),
                multimask=False,
            ),
            timings,
            admit=admit,
        )
        self._link(result.image.image_id, detector, found.image.image_id, request.owner)
        return replace(
            result,
            image=replace(result.image, model=chain.name),
            annotations=_merged(questions, result),
            cache_hit=found.cache_hit and result.cache_hit,
            device=", ".join(dict.fromkeys((found.device, result.device))),
            license=chain.license,
        )

    def _detectors_source(self, image: ImageSource, chain: Model, owner: str) -> ImageSource:
        """What to give the detector: the image itself, or its own handle of it."""
        if image.image_id is None:
            return image
        linked = (self._links.get(image.image_id, owner=owner) or {}).get(chain.parts[0].name)
        if linked is None:
            raise EmbeddingExpiredError(
                f"{chain.parts[0].name} has not seen the image of this image_id, or not recently: send the image again",
                field="image_id",
            )
        return ImageSource(image_id=linked)

    def _link(self, image_id: str, detector: Model, linked: str, owner: str) -> None:
        links = {**(self._links.get(image_id, owner=owner) or {}), detector.name: linked}
        self._links.put(image_id, links, nbytes=LINK_BYTES * len(links), owner=owner)


def _check_prompts(request: SegmentRequest, chain: Model) -> None:
    """Refuse prompts that the chain cannot answer, before any work."""
    prompts = request.prompts or ()
    check_capabilities(prompts, chain.capabilities, model=chain.name)
    for prompt in prompts:
        has_mask = prompt.mask_id is not None or prompt.mask_png is not None
        if prompt.texts and (len(prompt.points) or len(prompt.boxes) or has_mask):
            raise InvalidPromptError(
                f"{chain.name} takes words, or points, boxes and masks, but not both in one prompt: give two prompts",
                field=prompt.path("texts"),
            )
    if request.image.exchanged is not None and (not prompts or any(prompt.texts for prompt in prompts)):
        raise InvalidRequestError(
            f"{chain.name} cannot find words in an embedding: send the image instead", field="image_embedding"
        )


def _questions(prompts: tuple[Prompt, ...], found: SegmentResult) -> list[_Question]:
    """The segmenter's prompts, in the order of the caller's.

    Args:
        prompts: the caller's.
        found: the detector's answer to those of them that have words.
    """
    best = sorted(found.annotations, key=lambda detected: -(detected.score or 0.0))[:MOST_BOXES]
    kept = {id(detected) for detected in best}
    by_prompt: dict[int, list[Annotation]] = {}
    for detected in found.annotations:
        if id(detected) in kept:
            by_prompt.setdefault(detected.prompt_index, []).append(detected)
    questions = []
    asked = 0
    for index, prompt in enumerate(prompts):
        if not prompt.texts:
            questions.append(_Question(prompt, index, None))
            continue
        questions += [
            _Question(_box_prompt(detected, prompt.field), index, detected) for detected in by_prompt.get(asked, ())
        ]
        asked += 1
    return questions


def _box_prompt(detected: Annotation, field: str) -> Prompt:
    import numpy as np

    box = detected.box
    return Prompt(boxes=np.array([[box.xmin, box.ymin, box.xmax, box.ymax]], np.float32), field=field)


def _merged(questions: list[_Question], result: SegmentResult) -> tuple[Annotation, ...]:
    """The segmenter's answers under the caller's prompts, with the detector's words and scores."""
    merged = []
    counts: Counter[int] = Counter()
    for annotation in result.annotations:
        question = questions[annotation.prompt_index]
        detected = question.detected
        if detected is not None:
            annotation = replace(  # noqa: PLW2901
                annotation, score=detected.score, text=detected.text, predicted_iou=annotation.score
            )
        merged.append(replace(annotation, prompt_index=question.index, mask_index=counts[question.index]))
        counts[question.index] += 1
    return tuple(merged)
