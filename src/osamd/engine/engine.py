"""Turns requests into masks: look up the image, encode it once, decode the prompts, cut out the masks.

The engine belongs to one event loop and never computes on it. Images are prepared and encoded on their own lanes and
prompts decoded on another, so a click on a known image does not wait behind another caller's encode.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Final

from osamd.engine.admit import EVERYTHING, Admit
from osamd.engine.cache import OwnedCache
from osamd.engine.chain import Chains, chain_of
from osamd.engine.embedding_files import embedding_files
from osamd.engine.everything import Steps, Update, check_everything, find_everything
from osamd.engine.exchange import decoding
from osamd.engine.image_encoder import ImageEncoder, Lookup, is_light, replaced
from osamd.engine.image_ids import unknown_image
from osamd.engine.inference import MaskPixels, decode_prompts, load_model, mask_bytes, run_once
from osamd.engine.loaded_models import LoadedModels, half_of_memory
from osamd.engine.preloads import Preloads
from osamd.engine.prompts import check_capabilities, check_mask_pixels, check_masks, placed_prompts
from osamd.engine.refinements import Refinements
from osamd.engine.remembered_images import EncodedImage, RememberedImages
from osamd.engine.shared_prompts import decode_shared
from osamd.engine.workers import Workers
from osamd.errors import (
    InvalidRequestError,
    UnknownModelError,
)
from osamd.events import Event, ModelLoaded, ModelUnloaded, Sink, tell
from osamd.image_sources import ImageSource
from osamd.keep_alive import KeepAlive
from osamd.library.catalog import Model, read_digest
from osamd.library.library import Library
from osamd.models.base import Adapter
from osamd.patience import Patience
from osamd.pixels.everything import Everything
from osamd.runtime.graphs import forget_graphs
from osamd.segment_requests import ImageHandle, SegmentRequest, SegmentResult
from osamd.settings import Settings
from osamd.status import CacheStatus, EngineStatus, Resident, State
from osamd.timings import Timings
from osamd.types import Decode

Load = Callable[[Model], Adapter]

# Of a pixel of a decoded image.
RGB_BYTES: Final = 3


class Engine:
    """Answers requests; owns the lanes, the loaded models and the remembered images.

    Args:
        settings: limits and placement.
        library: the known models and their files.
        sinks: receive every event.
        load: turns a row of the catalogue into an adapter, on a worker thread; None loads the real model.
        decode: decodes images, on a worker thread; None decodes in this process, which hostile images can block.
        parallel: images encoded at the same time.

    Attributes:
        library: as given; closing the engine stops its pulls.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        library: Library,
        sinks: Sequence[Sink] = (),
        load: Load | None = None,
        decode: Decode | None = None,
        parallel: int = 1,
    ) -> None:
        self._settings = settings
        self.library = library
        store = library.store
        self._sinks = tuple(sinks)
        self._load_adapter = load or functools.partial(load_model, store=store, settings=settings)
        self._preloads = Preloads(settings, library)
        self._models = LoadedModels(
            budget_bytes=settings.model_memory_bytes or half_of_memory(),
            keep_alive_s=settings.keep_alive,
            load=self._load,
            measure=lambda model: store.size(model) or 0,
            unloaded=lambda model: self._emit(ModelUnloaded(model.name)),
            wait_s=settings.queue_wait_s,
            preloaded=self._preloads.include,
        )
        self._embeddings: OwnedCache[EncodedImage] = OwnedCache(
            capacity_bytes=settings.embedding_cache_bytes, ttl_s=settings.embedding_ttl_s
        )
        self._images = RememberedImages(self._embeddings, embedding_files(settings), resolve=library.catalog.resolve)
        on_disk_s = settings.embedding_disk_ttl_s if settings.embedding_disk_bytes else 0.0
        self._remembered_s = max(settings.embedding_ttl_s, on_disk_s)
        self._refinements = Refinements(ttl_s=settings.embedding_ttl_s)
        self._draining = False
        self._workers = Workers(settings, unload_idle=self._models.unload_idle, emit=self._emit, parallel=parallel)
        self._encoder = ImageEncoder(
            self._images, self._workers, using=self._using, max_pixels=settings.max_image_pixels, decode=decode
        )
        self._chains = Chains(segment=self.segment, embed=self.embed, bring=self._bring, ttl_s=self._remembered_s)

    @property
    def state(self) -> State:
        """``ready`` once every preloaded model has been loaded and run, even if some have been evicted since."""
        if self._draining:
            return "stopping"
        if self._workers.is_stuck:
            return "stuck"
        return "ready" if self._preloads.are_warm else "loading"

    @property
    def residents(self) -> list[Resident]:
        """The loaded models, the most recently used first."""
        return self._models.residents()

    def status(self) -> EngineStatus:
        """The current state."""
        return EngineStatus(
            state=self.state,
            lanes=self._workers.status(),
            cache=CacheStatus(len(self._embeddings), self._embeddings.nbytes, self._settings.embedding_cache_bytes),
            residents=tuple(self.residents),
            pulling=self.library.pulls.names,
        )

    async def preload(self) -> None:
        """Load the configured models and run each once; one that fails leaves the engine not ready.

        Raises:
            OsamdError: the first failure, after all models were tried.
        """
        self._images.keep_swept()
        await self._preloads.run(self._warm_up)

    async def _warm_up(self, model: Model) -> None:
        # No request is waiting, and without patience the server would never be ready.
        await self.library.pulls.bring(model, is_patient=True)
        async with self._using(model, is_patient=True) as adapter:
            # On a GPU, loading included a run. If a request is waiting for the model, it is the first run
            # itself and must not wait for another one.
            if adapter.device != "cuda" and self._models.users(model) == 1:
                once = functools.partial(run_once, adapter, model)
                await self._workers.run(self._workers.load, once, model=model.name, timings=Timings())

    async def segment(self, request: SegmentRequest, timings: Timings, *, admit: Admit = EVERYTHING) -> SegmentResult:
        """Answer a request, without a deadline.

        Args:
            request: what to segment.
            timings: the request's stopwatch.
            admit: callbacks that may refuse it.

        Raises:
            RequestError: the request is invalid.
            CapacityError: the engine is overloaded.
            ModelError: the model is not available or failed.
        """
        if request.with_pixels and request.image.data is None and request.image.pixels is None:
            raise InvalidRequestError(
                "a cut-out needs the image itself: send it instead of its image_id or embedding", field="mask_format"
            )
        if chain := chain_of(request.model, self.library):
            return await self._chains.segment(chain, request, timings, admit)
        check = functools.partial(check_capabilities, request.prompts or ())
        async with self._opened(request, timings, admit, check) as (model, adapter, lookup):
            embedding = lookup.image.embedding
            prompts = placed_prompts(request.prompts, adapter, embedding, clip=request.clip)
            find_mask = functools.partial(self._refinements.find, image_id=lookup.image_id, owner=request.owner)
            check_mask_pixels(prompts, embedding, most=self._settings.max_mask_pixels)
            read_mask = functools.partial(self._encoder.mask_of, model=model.name, owner=request.owner, timings=timings)
            refined = [find_mask(prompt) or await read_mask(prompt, adapter, embedding) for prompt in prompts]
            most = self._settings.max_mask_pixels
            with timings.stage("queue"):
                worst = mask_bytes(adapter, embedding, prompts, multimask=request.multimask, most_pixels=most)
                whole = embedding.height * embedding.width * RGB_BYTES if request.with_pixels else 0
                most = max(0, min(most, await admit.masks(worst + whole) - whole))
            decode = functools.partial(
                decode_prompts,
                *(adapter, embedding, prompts, refined),
                multimask=request.multimask,
                mask_pixels=MaskPixels(most),
            )
            run = functools.partial(self._workers.run_decoder, model=model.name, owner=request.owner)
            lane = self._workers.second_decoder() if len(prompts) > 1 and is_light(model, adapter) else None
            with decoding(request.image):
                found = await decode_shared(len(prompts), decode, run, lane=lane, owner=request.owner, timings=timings)
            pixels = None
            if request.with_pixels:
                pixels = await self._encoder.whole_pixels(
                    request.image, model=model.name, owner=request.owner, timings=timings
                )
        if request.refinable and adapter.capabilities.mask_input:
            keep = functools.partial(self._refinements.keep, image_id=lookup.image_id, owner=request.owner)
            found = [keep(annotation) for annotation in found]
        return SegmentResult(
            image=lookup.handle(self._remembered_s),
            annotations=tuple(found),
            embedding=embedding if request.with_embedding else None,
            cache_hit=lookup.hit,
            device=adapter.device,
            license=model.license,
            pixels=pixels,
        )

    def everything(
        self, request: SegmentRequest, asked: Everything, timings: Timings, *, are_kept: bool, admit: Admit = EVERYTHING
    ) -> AsyncGenerator[Update, None]:
        """Find everything in an image; ``Begun`` is the first update, ``Ended`` the last. Close it when done.

        Args:
            request: the image and the model, of a chain the segmenter; prompts are ignored. Errors as for ``segment``.
            asked: the parameters.
            timings: as for ``segment``.
            are_kept: whether the caller keeps the masks in memory until the end.
            admit: callbacks that may refuse it.
        """
        if chain := chain_of(request.model, self.library):
            request = replace(request, model=chain.parts[1].name)

        async def run(steps: Steps, *, model: str, timings: Timings) -> None:
            with decoding(request.image):
                await self._workers.run_in_steps(
                    self._workers.decode, steps, model=model, timings=timings, owner=request.owner
                )

        return find_everything(
            self._opened(request, timings, admit, check_everything),
            *(asked, timings),
            run=run,
            keep=functools.partial(self._refinements.keep, owner=request.owner) if request.refinable else None,
            admit=admit,
            are_kept=are_kept,
            kept_s=self._remembered_s,
        )

    async def embed(
        self, image: ImageSource, *, model: str | None, owner: str, timings: Timings, admit: Admit = EVERYTHING
    ) -> ImageHandle:
        """Encode an image now, so that later clicks by handle are fast.

        Arguments as in ``SegmentRequest`` and ``segment``.

        Raises:
            RequestError: the request is invalid.
            CapacityError: the engine is overloaded.
            ModelError: the model is not available or failed.
        """
        if chain := chain_of(model, self.library):
            return await self._chains.embed(chain, image, owner=owner, timings=timings, admit=admit)
        known = await self._recall(image, model, owner, timings)
        row = known.image.model if known is not None else self.library.resolve(model)
        timings.model = row.name
        if known is not None:
            return known.handle(self._remembered_s)
        await admit.model(row)
        lookup = await self._encoder.find_or_encode(image, row, owner, timings, admit)
        return lookup.handle(self._remembered_s)

    def check_room(self, owner: str) -> None:
        """Check whether a new image of this owner could wait to be encoded now.

        Raises:
            OverloadedError: too many are waiting.
        """
        self._workers.prepare.check_room(owner)

    async def forget(self, image_id: str, *, owner: str) -> None:
        """Delete an image, in memory and on disk.

        Raises:
            EmbeddingExpiredError: this owner has no such image.
        """
        for linked in self._chains.linked(image_id, owner=owner):
            await self._images.forget(linked, owner=owner)
        is_known = await self._images.forget(image_id, owner=owner)
        # Only now: if one could not be deleted, the next attempt has to find the others.
        self._chains.unlink(image_id, owner=owner)
        if not is_known:
            raise unknown_image()
        self._refinements.forget(image_id)

    async def remove(self, model: Model) -> int:
        """Delete a model's files and unload it; returns the bytes freed.

        Raises:
            UnknownModelError: none of its files are here.
            InvalidRequestError: its files are not in the cache, so they are not deleted.
            OverloadedError: it is being pulled.
            StorageError: the cache cannot be written.
        """
        was_here = await asyncio.to_thread(self.library.store.is_present, model)
        freed = await asyncio.to_thread(self.library.store.remove, model, catalog=self.library.catalog)
        self._models.unload(model)
        await asyncio.to_thread(lambda: forget_graphs(self._settings.cache, self.library.store.places(model)))
        if not (was_here or freed):
            raise UnknownModelError(f"{model.name} is not on this server", field="model")
        return freed

    def drain(self) -> None:
        """Refuse queued jobs; running ones finish, and new requests are answered only if they need not wait."""
        self._draining = True
        self.library.pulls.stop()
        self._workers.drain()

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Finish running jobs, refuse queued ones, and stop the workers.

        Args:
            patience_s: seconds to wait for running jobs; None waits as long as it takes.

        Returns:
            Whether everything has ended; otherwise some thread still runs an abandoned computation.
        """
        patience = Patience(patience_s)
        self.drain()
        are_pulled = await self.library.pulls.close(patience_s=patience.left())
        has_ended = await self._workers.close(patience_s=patience.left())
        await self._models.close()
        is_kept = await self._images.close(patience_s=patience.left())
        self._refinements.clear()
        return are_pulled and has_ended and is_kept

    async def _bring(self, model: Model) -> None:
        """Pull the files of all members, unless they are loaded."""
        are_loaded = [await self._models.is_loaded(member) for member in model.members]
        if not all(are_loaded):
            await self.library.pulls.bring(model)

    async def _recall(self, source: ImageSource, model_name: str | None, owner: str, timings: Timings) -> Lookup | None:
        """The image of a handle; None if the source is not a handle."""
        if source.image_id is None:
            return None
        image = await self._images.find(source.image_id, owner=owner, timings=timings)
        if image is None or image.digest != await read_digest(image.model):
            raise unknown_image()
        if model_name is not None and self.library.resolve(model_name).name != image.model.name:
            raise InvalidRequestError(f"this image_id belongs to the model {image.model.name}", field="model")
        return Lookup(image, source.image_id, hit=True)

    @contextlib.asynccontextmanager
    async def _opened(
        self, request: SegmentRequest, timings: Timings, admit: Admit, check: Callable[..., None]
    ) -> AsyncIterator[tuple[Model, Adapter, Lookup]]:
        """The model of a request, held loaded, and its encoded image."""
        known = await self._recall(request.image, request.model, request.owner, timings)
        model = known.image.model if known is not None else self.library.resolve(request.model)
        timings.model = model.name
        await admit.model(model)
        # Checked before anything is pulled, loaded or encoded.
        check(model.capabilities, model=model.name)
        if request.needs_masks:
            check_masks(model.capabilities, model=model.name)
        async with contextlib.AsyncExitStack() as stack:
            # Held from here on, so that it is not unloaded between encoding and decoding.
            with timings.stage("queue"):
                using = self._using(model, keep_alive_s=request.keep_alive, by_operator=request.by_operator)
                adapter = await stack.enter_async_context(using)
            # An export may support less than its family.
            check(adapter.capabilities, model=model.name)
            lookup = known or await self._encoder.find_or_encode(request.image, model, request.owner, timings, admit)
            if not self._models.is_current(model, adapter, digest=lookup.image.digest):
                raise replaced(model)
            yield model, adapter, lookup

    @contextlib.asynccontextmanager
    async def _using(
        self, model: Model, *, keep_alive_s: KeepAlive = None, by_operator: bool = True, is_patient: bool = False
    ) -> AsyncIterator[Adapter]:
        """The model's adapter; its files are pulled and loaded if needed."""
        await self._bring(model)
        async with self._models.using(
            model, keep_alive_s=keep_alive_s, by_operator=by_operator, is_patient=is_patient
        ) as adapter:
            yield adapter

    async def _load(self, model: Model) -> Adapter:
        start = time.perf_counter()
        load = functools.partial(self._load_adapter, model)
        adapter = await self._workers.run(self._workers.load, load, model=model.name, timings=Timings())
        self._workers.release_memory_after(adapter)
        self._emit(ModelLoaded(model.name, adapter.device, time.perf_counter() - start))
        return adapter

    def _emit(self, event: Event) -> None:
        tell(self._sinks, event)
