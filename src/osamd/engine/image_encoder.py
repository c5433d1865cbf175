"""Encodes images, each once, even if it is requested several times concurrently."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from osamd.engine.admit import Admit
from osamd.engine.cache import SingleFlight
from osamd.engine.exchange import restore
from osamd.engine.image_ids import image_id
from osamd.engine.inference import decode_whole, prepare_image, read_mask
from osamd.engine.remembered_images import EncodedImage, RememberedImages
from osamd.engine.workers import Workers
from osamd.errors import ImageTooLargeError, OverloadedError
from osamd.image_sources import ExchangedEmbedding, ImageSource
from osamd.library.catalog import Model, read_digest
from osamd.models.base import Adapter
from osamd.segment_requests import ImageHandle
from osamd.timings import Timings
from osamd.types import ByteArray, Decode, Embedding, MaskLogits, Prompt

# Their encoders take some tens of megabytes for an image, on a CPU, and not gigabytes.
LIGHT_FAMILIES: Final = frozenset({"builtin"})


@dataclass(frozen=True, slots=True)
class Lookup:
    """An encoded image, and how it was found.

    Attributes:
        image: the encoded image.
        image_id: its handle.
        hit: whether it was cached.
    """

    image: EncodedImage
    image_id: str
    hit: bool

    def handle(self, kept_s: float) -> ImageHandle:
        """The handle returned to callers; it expires ``kept_s`` seconds after its last use."""
        embedding = self.image.embedding
        return ImageHandle(
            image_id=self.image_id,
            model=self.image.model.name,
            width=embedding.width,
            height=embedding.height,
            expires_at=datetime.now(UTC) + timedelta(seconds=kept_s),
            notes=embedding.notes,
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    source: ImageSource
    model: Model
    digest: str
    image_id: str
    owner: str

    def encoded(self, embedding: Embedding) -> EncodedImage:
        return EncodedImage(embedding, self.model, self.digest)

    async def check_unchanged(self) -> None:
        """Refuse to label an embedding with a digest other than that of the loaded model's files."""
        if await read_digest(self.model) != self.digest:
            raise replaced(self.model)


def is_light(model: Model, adapter: Adapter) -> bool:
    """Whether two inferences of a model at the same time take little more memory than one."""
    return adapter.device == "cpu" and model.family in LIGHT_FAMILIES


def replaced(model: Model) -> OverloadedError:
    """The error of a request during which a model's files were replaced."""
    return OverloadedError(f"the files of {model.name} have just been replaced: try again")


class ImageEncoder:
    """Finds cached images and encodes new ones. Belongs to one event loop.

    Args:
        images: the cached images.
        workers: the lanes to prepare and encode on.
        using: holds a model loaded for as long as a block runs.
        max_pixels: of an image, at most.
        decode: decodes images, on a worker thread; None does it in this process.
    """

    def __init__(
        self,
        images: RememberedImages,
        workers: Workers,
        *,
        using: Callable[[Model], AbstractAsyncContextManager[Adapter]],
        max_pixels: int,
        decode: Decode | None,
    ) -> None:
        self._images = images
        self._workers = workers
        self._using = using
        self._max_pixels = max_pixels
        self._decode = decode
        self._flights: SingleFlight[EncodedImage] = SingleFlight()

    async def find_or_encode(
        self, source: ImageSource, model: Model, owner: str, timings: Timings, admit: Admit
    ) -> Lookup:
        """The encoded image of some content.

        Raises:
            RequestError: the image cannot be read, or is not an embedding of this model.
            CapacityError: the engine is overloaded.
            ModelError: the model is not available or failed.
        """
        # Read before holding the model, which is reloaded if its file has changed, and again while holding it.
        digest = await read_digest(model)
        name = image_id(source, model=model.name, digest=digest, owner=owner)
        known = await self._images.find(name, owner=owner, timings=timings)
        if known is not None:
            return Lookup(known, name, hit=True)
        wanted = _Wanted(source, model, digest, name, owner)
        start = time.perf_counter()
        own_timings: list[Timings] = []

        async def encode() -> EncodedImage:
            own_timings.append(timings)
            if source.exchanged is not None:
                return await self._restore(wanted, source.exchanged)
            admit.encode()
            return await self._encode(wanted, timings)

        image = await self._flights.do(name, encode)
        if not own_timings:
            timings.add("encode", time.perf_counter() - start)
        return Lookup(image, name, hit=False)

    async def whole_pixels(self, source: ImageSource, *, model: str, owner: str, timings: Timings) -> ByteArray:
        """The pixels of an image at full size; models may use a smaller one.

        Raises:
            RequestError: the image cannot be read.
            CapacityError: the engine is overloaded.
        """
        decode = functools.partial(decode_whole, source, self._max_pixels, timings, decode=self._decode)
        return await self._workers.run(self._workers.whole, decode, model=model, timings=timings, owner=owner)

    async def mask_of(
        self, prompt: Prompt, adapter: Adapter, embedding: Embedding, *, model: str, owner: str, timings: Timings
    ) -> MaskLogits | None:
        """The mask that a prompt refines, if it is given as a picture; otherwise None.

        Raises:
            InvalidPromptError: the picture is not a mask of this image.
            CapacityError: the engine is overloaded.
        """
        data = prompt.mask_png
        if data is None:
            return None
        read = functools.partial(
            read_mask, adapter, data, embedding, timings, field=f"{prompt.field}.mask_input", decode=self._decode
        )
        return await self._workers.run(self._workers.prepare, read, model=model, timings=timings, owner=owner)

    async def _encode(self, wanted: _Wanted, timings: Timings) -> EncodedImage:
        model, owner, workers = wanted.model.name, wanted.owner, self._workers
        async with self._using(wanted.model) as adapter, contextlib.AsyncExitStack() as stack:
            if not is_light(wanted.model, adapter):
                stack.enter_context(workers.one_at_a_time())
            await wanted.check_unchanged()
            loop = asyncio.get_running_loop()
            prepare = functools.partial(
                prepare_image, adapter, wanted.source, self._max_pixels, timings, decode=self._decode
            )
            prepared = await workers.run_and_hold(workers.prepare, prepare, model=model, timings=timings, owner=owner)
            with prepared:

                def encode() -> EncodedImage:
                    inputs = prepared.use()
                    with timings.stage("encode"):
                        embedding = replace(adapter.encode(inputs), notes=inputs.notes)
                    image = wanted.encoded(embedding)
                    # Stored here and not by the waiter, which may have gone and may retry after a timeout.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(self._remember, wanted, image)
                    return image

                return await workers.run(workers.encode, encode, model=model, timings=timings, owner=owner)

    async def _restore(self, wanted: _Wanted, exchanged: ExchangedEmbedding) -> EncodedImage:
        if exchanged.height * exchanged.width > self._max_pixels:
            raise ImageTooLargeError(
                f"expected an image of at most {self._max_pixels:,} pixels", field="image_embedding"
            )
        async with self._using(wanted.model) as adapter:
            await wanted.check_unchanged()
            shapes = adapter.feature_shapes(height=exchanged.height, width=exchanged.width)
            image = wanted.encoded(restore(exchanged, shapes, model=wanted.model.name))
        self._remember(wanted, image)
        return image

    def _remember(self, wanted: _Wanted, image: EncodedImage) -> None:
        self._images.remember(wanted.image_id, image, owner=wanted.owner)
