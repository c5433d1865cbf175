"""The one place where a request becomes masks: look up, encode once, decode, cut out.

The engine belongs to one event loop. It never computes on it: images are decoded and encoded on the encode lane,
prompts are decoded on the decode lane, so a click on a known image does not wait behind somebody's encode.
"""

import asyncio
import contextlib
import functools
import hashlib
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from osamd.engine.admit import EVERYTHING, Admit
from osamd.engine.cache import OwnedCache, SingleFlight
from osamd.engine.embedding_files import EmbeddingFiles
from osamd.engine.exchange import restore
from osamd.engine.inference import check_capabilities, decode_prompts, load_model, prepare_image, run_once
from osamd.engine.loaded_models import Loaded, LoadedModels, half_of_memory
from osamd.engine.remembered_images import EncodedImage, RememberedImages
from osamd.engine.workers import Workers, release_memory
from osamd.errors import (
    EmbeddingExpiredError,
    ImageTooLargeError,
    InferenceError,
    InvalidPromptError,
    InvalidRequestError,
    OsamdError,
    UnknownModelError,
)
from osamd.events import Event, ModelLoaded, ModelUnloaded, Sink, tell
from osamd.keep_alive import KeepAlive
from osamd.library.catalog import DEFAULT_MODEL, Model
from osamd.library.families import capabilities_of
from osamd.library.library import Library
from osamd.models.base import Adapter
from osamd.pixels.geometry import check_inside
from osamd.runtime.graphs import GraphCache, graph_folder
from osamd.settings import Settings
from osamd.status import CacheStatus, EngineStatus, Resident, State
from osamd.timings import Timings
from osamd.types import (
    Annotation,
    Capabilities,
    Decode,
    Embedding,
    ExchangedEmbedding,
    ImageHandle,
    ImageSource,
    MaskLogits,
    Prompt,
    SegmentRequest,
    SegmentResult,
)

# Low-resolution masks kept for refinement; 64 MB are 2 600 answers of the built-in model, 250 of SAM's.
REFINEMENT_CACHE_BYTES = 64_000_000
ID_HEX_DIGITS = 32
# Of these, how many tell the image alone.
ROUTING_HEX_DIGITS = 8

Load = Callable[[Model], Adapter]


@dataclass(frozen=True, slots=True)
class _Refinement:
    logits: MaskLogits
    image_id: str


@dataclass(frozen=True, slots=True)
class _Lookup:
    image: EncodedImage
    image_id: str
    hit: bool


class Engine:
    """Answers requests; owns the lanes, the loaded models and what is remembered.

    Args:
        settings: limits and placement.
        library: the models there are, and their files.
        sinks: told about every event.
        load: turns a row of the catalogue into an adapter, on a worker thread; None loads the real one.
        decode: decodes images, on a worker thread; None does it in this process, which hostile ones may hold up.

    Attributes:
        library: as given; closing the engine ends its pulls.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        library: Library,
        sinks: Sequence[Sink] = (),
        load: Load | None = None,
        decode: Decode | None = None,
    ) -> None:
        self._settings = settings
        self.library = library
        store = library.store
        self._sinks = tuple(sinks)
        self._load_adapter = load or functools.partial(load_model, store=store, settings=settings)
        self._decode = decode
        self._models = LoadedModels(
            budget_bytes=settings.model_memory_bytes or half_of_memory(),
            keep_alive_s=settings.keep_alive,
            load=self._load,
            measure=lambda model: store.size(model) or 0,
            unloaded=lambda model: self._emit(ModelUnloaded(model.name)),
            preloaded=self._is_preloaded,
        )
        self._embeddings: OwnedCache[EncodedImage] = OwnedCache(
            capacity_bytes=settings.embedding_cache_bytes, ttl_s=settings.embedding_ttl_s
        )
        self._images = RememberedImages(self._embeddings, _embedding_files(settings), resolve=library.catalog.resolve)
        on_disk_s = settings.embedding_disk_ttl_s if settings.embedding_disk_bytes else 0.0
        self._remembered_s = max(settings.embedding_ttl_s, on_disk_s)
        self._refinements: OwnedCache[_Refinement] = OwnedCache(
            capacity_bytes=REFINEMENT_CACHE_BYTES, ttl_s=settings.embedding_ttl_s
        )
        self._encodes: SingleFlight[EncodedImage] = SingleFlight()
        self._warm: set[str] = set()
        self._draining = False
        # A GPU that was asked for is shown to work before the server is ready, also where nothing is to be preloaded.
        self._to_preload = settings.preload or ((DEFAULT_MODEL,) if settings.device == "cuda" else ())
        self._workers = Workers(settings, unload_idle=self._models.unload_idle, emit=self._emit)

    @property
    def state(self) -> State:
        """Whether every model to preload has been loaded and run once; one that made room since comes back."""
        if self._draining:
            return "stopping"
        if self._workers.is_stuck:
            return "stuck"
        try:
            is_warm = all(self.library.resolve(name).name in self._warm for name in self._to_preload)
        except UnknownModelError:
            is_warm = False
        return "ready" if is_warm else "loading"

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.state == "ready"

    @property
    def residents(self) -> list[Resident]:
        """The loaded models, the most recently used first."""
        return self._models.residents()

    def status(self) -> EngineStatus:
        """How things stand at this moment."""
        return EngineStatus(
            state=self.state,
            lanes=self._workers.status(),
            cache=CacheStatus(len(self._embeddings), self._embeddings.nbytes, self._settings.embedding_cache_bytes),
            residents=tuple(self.residents),
            pulling=self.library.pulls.names,
        )

    def _is_preloaded(self, model: Model) -> bool:
        with contextlib.suppress(UnknownModelError):
            return model.name in {self.library.resolve(name).name for name in self._to_preload}
        return False

    async def preload(self) -> None:
        """Load the configured models and run each once; one that fails leaves the engine not ready.

        Raises:
            OsamdError: the first failure, after all models were tried.
        """
        first: OsamdError | None = None
        for name in self._to_preload:
            try:
                model = self.library.resolve(name)
                # Nobody's request waits here, and a server that gave up would never be ready.
                await self.library.pulls.bring(model, is_patient=True)
                async with self._using(model) as adapter:
                    # On a GPU that was part of loading it. Who already waits for the model must not wait for this
                    # too: his request is its first run.
                    if adapter.device != "cuda" and self._models.users(model) == 1:
                        once = functools.partial(run_once, adapter, model)
                        await self._workers.run(self._workers.load, once, model=model.name, timings=Timings())
                self._warm.add(model.name)
            except OsamdError as error:
                first = first or error
        if first is not None:
            raise first

    async def segment(self, request: SegmentRequest, timings: Timings, *, admit: Admit = EVERYTHING) -> SegmentResult:
        """Answer a request, however long that takes.

        Args:
            request: what to segment.
            timings: the request's stopwatch.
            admit: what may refuse it on the way.

        Raises:
            RequestError: the request cannot be answered as it is.
            CapacityError: too much to do.
            ModelError: the model is not there or failed.
        """
        async with contextlib.AsyncExitStack() as stack:
            known = await self._recall(request.image, request.model, request.owner, timings)
            model = known.image.model if known is not None else self.library.resolve(request.model)
            timings.model = model.name
            admit.model(model)
            # Before anything is pulled, loaded or encoded for it.
            _check_capabilities(request, model, capabilities_of(model.family))
            # Held from here on, so that it is not let go between encoding and decoding.
            with timings.stage("queue"):
                adapter = await stack.enter_async_context(
                    self._using(model, keep_alive_s=request.keep_alive, by_operator=request.by_operator)
                )
            # An export may take less than its family.
            _check_capabilities(request, model, adapter.capabilities)
            lookup = known or await self._look_up(request.image, model, request.owner, timings, admit)
            embedding = lookup.image.embedding
            prompts = _placed_prompts(request, adapter, embedding)
            refined = [self._mask_input(prompt, lookup.image_id, request.owner) for prompt in prompts]
            decode = functools.partial(
                decode_prompts,
                adapter,
                embedding,
                prompts,
                refined,
                multimask=request.multimask,
                most_mask_pixels=self._settings.max_mask_pixels,
                timings=timings,
            )
            try:
                found = await self._workers.run_in_steps(
                    self._workers.decode, decode, model=model.name, timings=timings, owner=request.owner
                )
            except InferenceError as error:
                if request.image.exchanged is None:
                    raise
                # Its shapes fit the graph one by one, but not together.
                raise InvalidRequestError("not an embedding of this model", field="image_embedding") from error
        annotations = tuple(self._finished(item, adapter, lookup.image_id, request) for item in found)
        return SegmentResult(
            image=self._handle(lookup),
            annotations=annotations,
            embedding=embedding if request.with_embedding else None,
            cache_hit=lookup.hit,
            device=adapter.device,
            license=model.license,
        )

    async def embed(
        self, image: ImageSource, *, model: str | None, owner: str, timings: Timings, admit: Admit = EVERYTHING
    ) -> ImageHandle:
        """Encode an image now, so that clicks on it by handle are quick later.

        Arguments as in ``SegmentRequest`` and ``segment``.

        Raises:
            RequestError: the request cannot be answered as it is.
            CapacityError: too much to do.
            ModelError: the model is not there or failed.
        """
        known = await self._recall(image, model, owner, timings)
        row = known.image.model if known is not None else self.library.resolve(model)
        timings.model = row.name
        if known is not None:
            return self._handle(known)
        admit.model(row)
        return self._handle(await self._look_up(image, row, owner, timings, admit))

    async def forget(self, image_id: str, *, owner: str) -> None:
        """Forget an image, in memory and on the disk.

        Raises:
            EmbeddingExpiredError: this owner has no such image.
        """
        if not await self._images.forget(image_id, owner=owner):
            raise _expired()
        self._refinements.drop_if(lambda refinement: refinement.image_id == image_id)

    async def remove(self, model: Model) -> int:
        """Delete a model's files and unload it; returns the bytes freed.

        Raises:
            UnknownModelError: it is not here, nor a part of it.
            InvalidRequestError: its files are not the cache's to delete.
            OverloadedError: it is being pulled.
            StorageError: the cache cannot be written.
        """
        was_here = await asyncio.to_thread(self.library.store.is_present, model)
        freed = await asyncio.to_thread(self.library.store.remove, model, catalog=self.library.catalog)
        self._models.unload(model)
        await asyncio.to_thread(self._forget_graphs, model)
        if not (was_here or freed):
            raise UnknownModelError(f"{model.name} is not on this server", field="model")
        return freed

    def _forget_graphs(self, model: Model) -> None:
        graphs = GraphCache(graph_folder(self._settings.cache), version="")
        for path in self.library.store.places(model):
            graphs.forget(path)

    def drain(self) -> None:
        """Refuse what waits; what runs is finished, and what still comes is answered if it need not wait."""
        self._draining = True
        self.library.pulls.stop()
        self._workers.drain()

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Finish what runs, refuse what waits, and let the workers go.

        Args:
            patience_s: seconds to wait for what runs; None waits however long it takes.

        Returns:
            Whether everything has ended; else some thread still computes something that nobody waits for.
        """
        until = None if patience_s is None else time.monotonic() + patience_s
        self.drain()
        are_pulled = await self.library.pulls.close(patience_s=patience_s)
        left_s = None if until is None else max(0.0, until - time.monotonic())
        has_ended = await self._workers.close(patience_s=left_s)
        await self._models.close()
        left_s = None if until is None else max(0.0, until - time.monotonic())
        is_kept = await self._images.close(patience_s=left_s)
        self._refinements.clear()
        return are_pulled and has_ended and is_kept

    async def _recall(
        self, source: ImageSource, model_name: str | None, owner: str, timings: Timings
    ) -> _Lookup | None:
        """The image of a handle; None where another source is given."""
        if source.image_id is None:
            return None
        image = await self._images.find(source.image_id, owner=owner, timings=timings)
        if image is None or image.digest != image.model.digest:
            raise _expired()
        if model_name is not None and self.library.resolve(model_name).name != image.model.name:
            raise InvalidRequestError(f"this image_id belongs to the model {image.model.name}", field="model")
        return _Lookup(image, source.image_id, hit=True)

    async def _look_up(self, source: ImageSource, model: Model, owner: str, timings: Timings, admit: Admit) -> _Lookup:
        image_id = _image_id(source, model, owner)
        known = await self._images.find(image_id, owner=owner, timings=timings)
        if known is not None:
            return _Lookup(known, image_id, hit=True)
        start = time.perf_counter()
        own_timings: list[Timings] = []

        async def encode() -> EncodedImage:
            own_timings.append(timings)
            if source.exchanged is not None:
                return await self._restore(model, source.exchanged, image_id, owner)
            admit.encode()
            return await self._encode(model, source, image_id, owner, timings)

        image = await self._encodes.do(image_id, encode)
        if not own_timings:
            timings.add("encode", time.perf_counter() - start)
        return _Lookup(image, image_id, hit=False)

    async def _encode(
        self, model: Model, source: ImageSource, image_id: str, owner: str, timings: Timings
    ) -> EncodedImage:
        async with self._using(model) as adapter:
            loop = asyncio.get_running_loop()

            prepare = functools.partial(
                prepare_image, adapter, source, self._settings.max_image_pixels, timings, decode=self._decode
            )
            prepared = await self._workers.run(
                self._workers.prepare, prepare, model=model.name, timings=timings, owner=owner
            )

            def encode() -> EncodedImage:
                with timings.stage("encode"):
                    embedding = adapter.encode(prepared)
                image = EncodedImage(embedding, model, model.digest)
                remember = functools.partial(self._images.remember, image_id, image, owner=owner)
                # Not left to the waiter: he may have gone, and comes back for what took too long.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(remember)
                return image

            return await self._workers.run(self._workers.encode, encode, model=model.name, timings=timings, owner=owner)

    async def _restore(self, model: Model, exchanged: ExchangedEmbedding, image_id: str, owner: str) -> EncodedImage:
        if exchanged.height * exchanged.width > self._settings.max_image_pixels:
            message = f"an image of at most {self._settings.max_image_pixels:,} pixels is wanted"
            raise ImageTooLargeError(message, field="image_embedding")
        async with self._using(model) as adapter:
            image = EncodedImage(restore(exchanged, adapter.feature_shapes, model=model.name), model, model.digest)
        self._images.remember(image_id, image, owner=owner)
        return image

    @contextlib.asynccontextmanager
    async def _using(
        self, model: Model, *, keep_alive_s: KeepAlive = None, by_operator: bool = True
    ) -> AsyncIterator[Adapter]:
        """The model's adapter; its files are pulled and loaded where need be."""
        if not self._models.is_loaded(model):
            await self.library.pulls.bring(model)
        async with self._models.using(model, keep_alive_s=keep_alive_s, by_operator=by_operator) as adapter:
            yield adapter

    async def _load(self, model: Model) -> Loaded:
        start = time.perf_counter()
        load = functools.partial(self._load_adapter, model)
        adapter = await self._workers.run(self._workers.load, load, model=model.name, timings=Timings())
        # When nobody holds it any more, be it a job that outlived its request.
        weakref.finalize(adapter, _return_memory, asyncio.get_running_loop()).atexit = False
        self._emit(ModelLoaded(model.name, adapter.device, time.perf_counter() - start))
        return Loaded(adapter)

    def _emit(self, event: Event) -> None:
        tell(self._sinks, event)

    def _mask_input(self, prompt: Prompt, image_id: str, owner: str) -> MaskLogits | None:
        if prompt.mask_id is None:
            return None
        refinement = self._refinements.get(prompt.mask_id, owner=owner)
        if refinement is None:
            raise EmbeddingExpiredError(
                "this mask_id is unknown or expired: send the prompt without mask_input",
                field=f"{prompt.field}.mask_input",
            )
        if refinement.image_id != image_id:
            raise InvalidPromptError(
                "this mask_id belongs to another image or another model", field=f"{prompt.field}.mask_input"
            )
        return refinement.logits

    def _finished(self, annotation: Annotation, adapter: Adapter, image_id: str, request: SegmentRequest) -> Annotation:
        """The annotation without its logits, which are kept under its ``mask_id`` where the model can refine it."""
        mask_id, logits = None, annotation.logits
        if request.refinable and adapter.capabilities.mask_input and logits is not None:
            mask_id = _mask_id(image_id)
            refinement = _Refinement(logits, image_id)
            self._refinements.put(mask_id, refinement, nbytes=logits.values.nbytes, owner=request.owner)
        return replace(annotation, mask_id=mask_id, logits=None)

    def _handle(self, lookup: _Lookup) -> ImageHandle:
        embedding = lookup.image.embedding
        return ImageHandle(
            image_id=lookup.image_id,
            model=lookup.image.model.name,
            width=embedding.width,
            height=embedding.height,
            expires_at=datetime.now(UTC) + timedelta(seconds=self._remembered_s),
        )


def _check_capabilities(request: SegmentRequest, model: Model, capabilities: Capabilities) -> None:
    for prompt in request.prompts or ():
        check_capabilities(prompt, capabilities, model=model.name, field=prompt.field)


def _placed_prompts(request: SegmentRequest, adapter: Adapter, embedding: Embedding) -> tuple[Prompt, ...]:
    """The request's prompts, which lie inside the image, or the model's own one."""
    height, width = embedding.height, embedding.width
    if request.prompts is None:
        return (adapter.default_prompt(height=height, width=width),)
    for prompt in request.prompts:
        check_inside(prompt, height=height, width=width, field=prompt.field)
    return request.prompts


def _embedding_files(settings: Settings) -> EmbeddingFiles | None:
    if not settings.embedding_disk_bytes:
        return None
    return EmbeddingFiles(
        settings.cache / "osamd" / "embeddings",
        capacity_bytes=settings.embedding_disk_bytes,
        ttl_s=settings.embedding_disk_ttl_s,
    )


def _expired() -> EmbeddingExpiredError:
    return EmbeddingExpiredError("this image_id is unknown or expired: send the image again", field="image_id")


def _image_id(source: ImageSource, model: Model, owner: str) -> str:
    """The handle and cache key, equal only for the same content, model and owner.

    Its first digits are those of the content's SHA-256, so that a router may send an image and clicks on it, which name
    it by its handle, to the same server.
    """
    if not source.sha256:
        raise RuntimeError("an ImageSource needs image_id, or content with its SHA-256")
    bound = hashlib.sha256(f"{owner}\0{model.name}\0{model.digest}\0{source.sha256}".encode()).hexdigest()
    return f"img_{source.sha256[:ROUTING_HEX_DIGITS]}{bound[: ID_HEX_DIGITS - ROUTING_HEX_DIGITS]}"


def _mask_id(image_id: str) -> str:
    """A new name for a mask, which begins with its image's routing digits."""
    routing = image_id.removeprefix("img_")[:ROUTING_HEX_DIGITS]
    return f"mask_{routing}{uuid.uuid4().hex[: ID_HEX_DIGITS - ROUTING_HEX_DIGITS]}"


def _return_memory(loop: asyncio.AbstractEventLoop) -> None:
    """Give what a freed model held back to the system, on a thread."""
    # A loop that has ended needs nothing any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.run_in_executor, None, release_memory)
