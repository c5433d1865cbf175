"""Images in, encoded images out: each is encoded once, however many ask for it at the same time."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from osamd.engine.admit import Admit
from osamd.engine.cache import SingleFlight
from osamd.engine.exchange import restore
from osamd.engine.image_ids import image_id
from osamd.engine.inference import decode_whole, prepare_image
from osamd.engine.remembered_images import EncodedImage, RememberedImages
from osamd.engine.workers import Workers
from osamd.errors import ImageTooLargeError, OverloadedError
from osamd.library.catalog import Model
from osamd.models.base import Adapter
from osamd.timings import Timings
from osamd.types import ByteArray, Decode, Embedding, ExchangedEmbedding, ImageHandle, ImageSource


@dataclass(frozen=True, slots=True)
class Lookup:
    """An encoded image, and how it was found.

    Attributes:
        image: as its model sees it.
        image_id: its handle.
        hit: whether it was known before.
    """

    image: EncodedImage
    image_id: str
    hit: bool

    def handle(self, kept_s: float) -> ImageHandle:
        """What a caller is told of it, when it is forgotten so many seconds after its last use."""
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

    def check_unchanged(self) -> None:
        """Refuse to label an embedding with files that are not those of the model just loaded."""
        if self.model.digest != self.digest:
            raise replaced(self.model)


def replaced(model: Model) -> OverloadedError:
    """What a request gets between two versions of a model's files."""
    return OverloadedError(f"the files of {model.name} have just been replaced: try again")


class ImageEncoder:
    """Finds images that are remembered and encodes those that are not. Belongs to one event loop.

    Args:
        images: what is remembered.
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
            RequestError: the image cannot be read, or is no embedding of this model.
            CapacityError: too much to do.
            ModelError: the model is not there or failed.
        """
        # Read before the model is held, which is loaded anew when its file has changed, and again when it is held.
        digest = model.digest
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
        """The pixels of an image at its whole size; what a model looks at may be smaller.

        Raises:
            RequestError: the image cannot be read.
            CapacityError: too much to do.
        """
        decode = functools.partial(decode_whole, source, self._max_pixels, timings, decode=self._decode)
        return await self._workers.run(self._workers.prepare, decode, model=model, timings=timings, owner=owner)

    async def _encode(self, wanted: _Wanted, timings: Timings) -> EncodedImage:
        run = functools.partial(self._workers.run, model=wanted.model.name, timings=timings, owner=wanted.owner)
        async with self._using(wanted.model) as adapter:
            wanted.check_unchanged()
            loop = asyncio.get_running_loop()
            prepare = functools.partial(
                prepare_image, adapter, wanted.source, self._max_pixels, timings, decode=self._decode
            )
            prepared = await run(self._workers.prepare, prepare)

            def encode() -> EncodedImage:
                with timings.stage("encode"):
                    embedding = replace(adapter.encode(prepared), notes=prepared.notes)
                image = wanted.encoded(embedding)
                # Not left to the waiter, who may have gone, and comes back for what took too long.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._remember, wanted, image)
                return image

            return await run(self._workers.encode, encode)

    async def _restore(self, wanted: _Wanted, exchanged: ExchangedEmbedding) -> EncodedImage:
        if exchanged.height * exchanged.width > self._max_pixels:
            raise ImageTooLargeError(
                f"expected an image of at most {self._max_pixels:,} pixels", field="image_embedding"
            )
        async with self._using(wanted.model) as adapter:
            wanted.check_unchanged()
            image = wanted.encoded(restore(exchanged, adapter.feature_shapes, model=wanted.model.name))
        self._remember(wanted, image)
        return image

    def _remember(self, wanted: _Wanted, image: EncodedImage) -> None:
        self._images.remember(wanted.image_id, image, owner=wanted.owner)
