"""The one place where a request becomes masks: look up, encode once, decode, cut out.

The engine belongs to one event loop. It never computes on it: images are decoded and encoded on the encode lane,
prompts are decoded on the decode lane, so a click on a known image does not wait behind somebody's encode.
"""

import asyncio
import functools
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from osamd.cache import OwnedCache, SingleFlight
from osamd.catalog import DEFAULT_MODEL, Catalog, Model
from osamd.errors import (
    DeadlineExceededError,
    EmbeddingExpiredError,
    InvalidPromptError,
    InvalidRequestError,
    OsamdError,
    UnknownModelError,
)
from osamd.events import ModelLoaded, Sink, Timings
from osamd.geometry import check_inside
from osamd.lanes import Lane
from osamd.models.base import Adapter
from osamd.settings import Settings
from osamd.store import Store
from osamd.types import (
    Annotation,
    Box,
    Candidate,
    Embedding,
    ImageHandle,
    ImageSource,
    Mask,
    MaskLogits,
    Prompt,
    SegmentRequest,
    SegmentResult,
)

DECODE_WORKERS = 2
LOAD_CAPACITY = 64
# Low-resolution masks kept for refinement; 64 MB are 2 600 answers of the built-in model, 250 of SAM's.
REFINEMENT_CACHE_BYTES = 64_000_000
ID_HEX_DIGITS = 32

Load = Callable[[Model], Adapter]


@dataclass(frozen=True, slots=True)
class _EmbeddedImage:
    embedding: Embedding
    model: Model


@dataclass(frozen=True, slots=True)
class _Refinement:
    logits: MaskLogits
    image_id: str


@dataclass(frozen=True, slots=True)
class _Found:
    candidate: Candidate
    box: Box
    mask: Mask | None
    prompt_index: int
    mask_index: int


@dataclass(frozen=True, slots=True)
class _Lookup:
    image: _EmbeddedImage
    image_id: str
    hit: bool


class Engine:
    """Answers requests; owns the lanes, the loaded models and what is remembered.

    Args:
        settings: limits and placement.
        catalog: the models there are.
        store: where their files are.
        sinks: told about every event.
        load: turns a row of the catalogue into an adapter, on a worker thread; None loads the real one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        catalog: Catalog,
        store: Store,
        sinks: Sequence[Sink] = (),
        load: Load | None = None,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._sinks = tuple(sinks)
        self._load_adapter = load or functools.partial(_load_model, store=store, settings=settings)
        self._images: OwnedCache[_EmbeddedImage] = OwnedCache(
            capacity_bytes=settings.embedding_cache_bytes, ttl_s=settings.embedding_ttl_s
        )
        self._refinements: OwnedCache[_Refinement] = OwnedCache(
            capacity_bytes=REFINEMENT_CACHE_BYTES, ttl_s=settings.embedding_ttl_s
        )
        self._encodes: SingleFlight[_EmbeddedImage] = SingleFlight()
        self._loads: SingleFlight[Adapter] = SingleFlight()
        self._adapters: dict[str, Adapter] = {}
        self._load_lane = Lane("load", workers=1, capacity=LOAD_CAPACITY)
        self._encode_lane = Lane("encode", workers=1, capacity=settings.encode_queue)
        self._decode_lane = Lane("decode", workers=DECODE_WORKERS, capacity=settings.decode_queue)

    @property
    def ready(self) -> bool:
        """Whether every model of ``settings.preload`` is loaded."""
        try:
            return all(self._catalog.resolve(name).name in self._adapters for name in self._settings.preload)
        except UnknownModelError:
            return False

    @property
    def loaded(self) -> tuple[str, ...]:
        """Full names of the models that are loaded."""
        return tuple(self._adapters)

    async def preload(self) -> None:
        """Load the configured models; one that fails leaves the engine not ready and is logged by the caller.

        Raises:
            OsamdError: the first failure, after all models were tried.
        """
        first: OsamdError | None = None
        for name in self._settings.preload:
            try:
                await self._adapter(self._catalog.resolve(name))
            except OsamdError as error:
                first = first or error
        if first is not None:
            raise first

    async def segment(self, request: SegmentRequest, timings: Timings) -> SegmentResult:
        """Answer a request.

        Raises:
            RequestError: the request cannot be answered as it is.
            CapacityError: too much to do, or not done in time.
            ModelError: the model is not there or failed.
        """
        async with _deadline(self._settings.deadline_s):
            lookup = await self._look_up(request.image, request.model, request.owner, timings)
            model, embedding = lookup.image.model, lookup.image.embedding
            adapter = await self._adapter(model)
            prompts = self._checked_prompts(request, adapter, embedding, model)
            refined = [self._mask_input(prompt, lookup.image_id, request.owner) for prompt in prompts]
            decode = functools.partial(
                _decode_prompts, adapter, embedding, prompts, refined, multimask=request.multimask, timings=timings
            )
            found = await self._decode_lane.run(decode, timings)
        annotations = tuple(self._annotation(item, adapter, lookup.image_id, request.owner) for item in found)
        return SegmentResult(
            image=self._handle(lookup),
            annotations=annotations,
            embedding=embedding,
            cache_hit=lookup.hit,
            device=adapter.device,
            license=model.license,
        )

    async def embed(self, image: ImageSource, *, model: str | None, owner: str, timings: Timings) -> ImageHandle:
        """Encode an image now, so that clicks on it by handle are quick later.

        Raises:
            RequestError: the request cannot be answered as it is.
            CapacityError: too much to do, or not done in time.
            ModelError: the model is not there or failed.
        """
        async with _deadline(self._settings.deadline_s):
            return self._handle(await self._look_up(image, model, owner, timings))

    def forget(self, image_id: str, *, owner: str) -> None:
        """Forget an image.

        Raises:
            EmbeddingExpiredError: this owner has no such image.
        """
        if not self._images.delete(image_id, owner=owner):
            raise _expired()

    async def close(self) -> None:
        """Finish what runs, refuse what waits, and let the workers go."""
        for lane in (self._encode_lane, self._decode_lane, self._load_lane):
            await asyncio.to_thread(lane.close)
        self._adapters.clear()
        self._images.clear()
        self._refinements.clear()

    async def _look_up(self, source: ImageSource, model_name: str | None, owner: str, timings: Timings) -> _Lookup:
        if source.image_id is not None:
            image = self._images.get(source.image_id, owner=owner)
            if image is None:
                raise _expired()
            if model_name is not None and self._catalog.resolve(model_name).name != image.model.name:
                raise InvalidRequestError(f"this image_id belongs to the model {image.model.name}", field="model")
            return _Lookup(image, source.image_id, hit=True)
        if source.data is None:
            raise RuntimeError("an ImageSource needs data or image_id")
        model = self._catalog.resolve(model_name or DEFAULT_MODEL)
        image_id = await asyncio.to_thread(_image_id, source.data, model, owner)
        known = self._images.get(image_id, owner=owner)
        if known is not None:
            return _Lookup(known, image_id, hit=True)
        start = time.perf_counter()
        own_timings: list[Timings] = []

        async def encode() -> _EmbeddedImage:
            own_timings.append(timings)
            return await self._encode(model, source.data or b"", image_id, owner, timings)

        image = await self._encodes.do(image_id, encode)
        if not own_timings:
            timings.add("encode", time.perf_counter() - start)
        return _Lookup(image, image_id, hit=False)

    async def _encode(self, model: Model, data: bytes, image_id: str, owner: str, timings: Timings) -> _EmbeddedImage:
        adapter = await self._adapter(model)
        encode = functools.partial(_encode_image, adapter, data, self._settings.max_image_pixels, timings)
        image = _EmbeddedImage(await self._encode_lane.run(encode, timings), model)
        self._images.put(image_id, image, nbytes=image.embedding.nbytes, owner=owner)
        return image

    async def _adapter(self, model: Model) -> Adapter:
        adapter = self._adapters.get(model.name)
        if adapter is not None:
            return adapter
        return await self._loads.do(model.name, functools.partial(self._load, model))

    async def _load(self, model: Model) -> Adapter:
        start = time.perf_counter()
        adapter = await self._load_lane.run(functools.partial(self._load_adapter, model), Timings())
        self._adapters[model.name] = adapter
        self._emit(ModelLoaded(model.name, adapter.device, time.perf_counter() - start))
        return adapter

    def _emit(self, event: ModelLoaded) -> None:
        for sink in self._sinks:
            sink(event)

    def _checked_prompts(
        self, request: SegmentRequest, adapter: Adapter, embedding: Embedding, model: Model
    ) -> tuple[Prompt, ...]:
        height, width = embedding.height, embedding.width
        if request.prompts is None:
            return (adapter.default_prompt(height=height, width=width),)
        for index, prompt in enumerate(request.prompts):
            field = "prompt" if len(request.prompts) == 1 else f"prompts[{index}]"
            _check_capabilities(prompt, adapter, model, field)
            check_inside(prompt, height=height, width=width, field=field)
        return request.prompts

    def _mask_input(self, prompt: Prompt, image_id: str, owner: str) -> MaskLogits | None:
        if prompt.mask_id is None:
            return None
        refinement = self._refinements.get(prompt.mask_id, owner=owner)
        if refinement is None:
            raise EmbeddingExpiredError(
                "this mask_id is unknown or expired: send the prompt without mask_input", field="prompt.mask_input"
            )
        if refinement.image_id != image_id:
            raise InvalidPromptError(
                "this mask_id belongs to another image or another model", field="prompt.mask_input"
            )
        return refinement.logits

    def _annotation(self, found: _Found, adapter: Adapter, image_id: str, owner: str) -> Annotation:
        mask_id = None
        logits = found.candidate.logits
        if adapter.capabilities.mask_input and logits is not None:
            mask_id = f"mask_{uuid.uuid4().hex}"
            self._refinements.put(mask_id, _Refinement(logits, image_id), nbytes=logits.values.nbytes, owner=owner)
        return Annotation(
            box=found.box,
            mask=found.mask,
            score=found.candidate.score,
            text=found.candidate.text,
            prompt_index=found.prompt_index,
            mask_index=found.mask_index,
            mask_id=mask_id,
        )

    def _handle(self, lookup: _Lookup) -> ImageHandle:
        embedding = lookup.image.embedding
        return ImageHandle(
            image_id=lookup.image_id,
            model=lookup.image.model.name,
            width=embedding.width,
            height=embedding.height,
            expires_at=datetime.now(UTC) + timedelta(seconds=self._settings.embedding_ttl_s),
        )


class _deadline:  # noqa: N801 - reads as a statement: async with _deadline(...)
    """``asyncio.timeout`` that raises the error of the tree."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *details: object) -> None:
        try:
            await self._timeout.__aexit__(*details)  # type: ignore[arg-type]
        except TimeoutError:
            raise DeadlineExceededError(f"not finished within {self._seconds:g} s") from None


def _expired() -> EmbeddingExpiredError:
    return EmbeddingExpiredError("this image_id is unknown or expired: send the image again", field="image_id")


def _image_id(data: bytes, model: Model, owner: str) -> str:
    """The handle and cache key: made from content, model and owner, so equal only when all three are."""
    digest = hashlib.sha256(b"\0".join([owner.encode(), model.name.encode(), model.digest.encode()]) + b"\0")
    digest.update(data)
    return f"img_{digest.hexdigest()[:ID_HEX_DIGITS]}"


def _load_model(model: Model, *, store: Store, settings: Settings) -> Adapter:
    # Imported here: ONNX Runtime costs a tenth of a second that /health must not wait for.
    from osamd.models import build_model  # noqa: PLC0415
    from osamd.sessions import choose_placement  # noqa: PLC0415

    paths = store.paths(model)
    placement = choose_placement(
        device=settings.device, onnx_providers=settings.onnx_providers, threads=settings.threads
    )
    return build_model(model, paths, placement)


def _encode_image(adapter: Adapter, data: bytes, max_pixels: int, timings: Timings) -> Embedding:
    from osamd.images import decode_image  # noqa: PLC0415 - Pillow is not needed before the first image

    with timings.stage("decode_image"):
        pixels = decode_image(data, max_pixels=max_pixels)
    with timings.stage("encode"):
        return adapter.encode(pixels)


def _decode_prompts(
    adapter: Adapter,
    embedding: Embedding,
    prompts: Sequence[Prompt],
    refined: Sequence[MaskLogits | None],
    *,
    multimask: bool,
    timings: Timings,
) -> list[_Found]:
    found: list[_Found] = []
    for prompt_index, (prompt, mask_input) in enumerate(zip(prompts, refined, strict=True)):
        with timings.stage("decode"):
            candidates = adapter.decode(embedding, prompt, mask_input=mask_input, multimask=multimask)
        with timings.stage("mask"):
            for mask_index, candidate in enumerate(candidates):
                placed = _place(candidate, embedding)
                if placed is not None:
                    found.append(_Found(candidate, *placed, prompt_index, mask_index))
    return found


def _place(candidate: Candidate, embedding: Embedding) -> tuple[Box, Mask | None] | None:
    """The candidate in whole image pixels; None when its mask is empty."""
    from osamd.masks import mask_from_logits  # noqa: PLC0415 - OpenCV is not needed before the first mask

    height, width = embedding.height, embedding.width
    if candidate.logits is not None:
        mask = mask_from_logits(candidate.logits, height=height, width=width)
        return None if mask is None else (mask.box, mask)
    if candidate.box is None:
        raise RuntimeError("a candidate needs logits or a box")
    x1, y1, x2, y2 = candidate.box
    box = Box(
        xmin=min(width - 1, max(0, int(x1))),
        ymin=min(height - 1, max(0, int(y1))),
        xmax=min(width - 1, max(0, int(x2))),
        ymax=min(height - 1, max(0, int(y2))),
    )
    return box, None


def _check_capabilities(prompt: Prompt, adapter: Adapter, model: Model, field: str) -> None:
    can = adapter.capabilities
    refused = [
        (len(prompt.points) > 0 and not can.points, "points"),
        (len(prompt.boxes) > can.boxes, "boxes" if len(prompt.boxes) > 1 else "box"),
        (len(prompt.texts) > can.texts, "texts"),
        (prompt.mask_id is not None and not can.mask_input, "mask_input"),
    ]
    for is_refused, part in refused:
        if is_refused:
            raise InvalidPromptError(f"{model.name} takes {can.sentence()}", field=f"{field}.{part}")
