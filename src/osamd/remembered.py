"""The encoded images a server remembers: in memory, and on the disk where that is given room."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from osamd.cache import OwnedCache
from osamd.catalog import Model
from osamd.embedding_files import EmbeddingFiles, KeptEmbedding
from osamd.errors import OsamdError, UnknownModelError
from osamd.events import Timings
from osamd.lanes import Lane
from osamd.types import Embedding

# Files that wait to be written hold their embeddings in memory, so only so many may.
DISK_CAPACITY = 32
FLUSH_S = 5.0


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as a model sees it.

    Attributes:
        embedding: what the model made of it.
        model: the row of the catalogue.
        digest: of the files that made it: a handle outlives a local file's change, its embedding must not.
    """

    embedding: Embedding
    model: Model
    digest: str


class RememberedImages:
    """Encoded images by handle, each for its owner alone. Belongs to one event loop.

    Args:
        memory: the first tier.
        files: the second tier, or None.
        resolve: finds a row of the catalogue by name.
    """

    def __init__(
        self, memory: OwnedCache[EncodedImage], files: EmbeddingFiles | None, *, resolve: Callable[[str], Model]
    ) -> None:
        self._memory = memory
        self._files = files
        self._resolve = resolve
        self._lane = Lane("disk", workers=1, capacity=DISK_CAPACITY)
        self._writes: set[asyncio.Task[None]] = set()

    async def find(self, image_id: str, *, owner: str, timings: Timings) -> EncodedImage | None:
        """The image, in memory again when it was on the disk; None when nobody remembers it."""
        image = self._memory.get(image_id, owner=owner)
        files = self._files
        if image is not None or files is None:
            return image
        kept = await self._lane.run(lambda: files.get(image_id, owner=owner), timings)
        if kept is None:
            return None
        try:
            model = self._resolve(kept.model)
        except UnknownModelError:
            return None
        image = EncodedImage(kept.embedding, model, kept.digest)
        self._put(image_id, image, owner)
        return image

    def remember(self, image_id: str, image: EncodedImage, *, owner: str) -> None:
        """Keep it in memory at once, and on the disk soon."""
        self._put(image_id, image, owner)
        files = self._files
        if files is None:
            return
        kept = KeptEmbedding(image.embedding, image.model.name, image.digest)

        async def write() -> None:
            # A disk that cannot keep up misses some.
            with contextlib.suppress(OsamdError):
                await self._lane.run(lambda: files.put(image_id, kept, owner=owner), Timings())

        task = asyncio.get_running_loop().create_task(write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def forget(self, image_id: str, *, owner: str) -> bool:
        """Forget it in both tiers; False when neither had it."""
        had = self._memory.delete(image_id, owner=owner)
        files = self._files
        if files is None:
            return had
        # After the writes that were asked for before.
        return await self._lane.run(lambda: files.delete(image_id, owner=owner), Timings()) or had

    async def close(self) -> None:
        """Write what is still to be written, for a few seconds at most, and let the memory go."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=FLUSH_S)
        await asyncio.to_thread(self._lane.close)
        self._memory.clear()

    def _put(self, image_id: str, image: EncodedImage, owner: str) -> None:
        self._memory.put(image_id, image, nbytes=image.embedding.nbytes, owner=owner)
