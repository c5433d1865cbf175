"""Cache of encoded images: in memory and, if configured, on disk."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from osamd.engine.cache import OwnedCache
from osamd.engine.embedding_files import EmbeddingFiles, KeptEmbedding
from osamd.engine.lanes import Lane, close_lanes
from osamd.errors import OsamdError
from osamd.library.catalog import Model
from osamd.patience import Patience
from osamd.timings import Timings
from osamd.types import Embedding

# Queued writes hold their embeddings in memory, so their number is limited.
WRITE_CAPACITY = 32
READ_CAPACITY = 256
# If the disk takes longer than this, encoding again is faster.
READ_WAIT_S = 2.0
READ_HANG_S = 5.0
WRITE_WAIT_S = 20.0
WRITE_HANG_S = 60.0
SWEEP_EVERY_S = 3600.0
FLUSH_S = 5.0
# How often uses of an image in memory are noted on disk, where the least recently used is deleted first.
NOTE_USE_EVERY_S = 300.0
# Beyond this number of images all are forgotten, and their next uses noted again.
MOST_NOTED = 4096


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image encoded by a model.

    Attributes:
        embedding: the encoder's output.
        model: the model's catalogue row.
        digest: digest of the model files that made it; a handle survives a change of a local file, its embedding must
            not.
    """

    embedding: Embedding
    model: Model
    digest: str


class RememberedImages:
    """Encoded images by handle, visible only to their owner. Belongs to one event loop.

    Args:
        memory: the first tier.
        files: the second tier, or None.
        resolve: finds a catalogue row by name.
    """

    def __init__(
        self, memory: OwnedCache[EncodedImage], files: EmbeddingFiles | None, *, resolve: Callable[[str], Model]
    ) -> None:
        self._memory = memory
        self._files = files
        self._resolve = resolve
        self._reads = Lane("read", workers=1, capacity=READ_CAPACITY, wait_s=READ_WAIT_S, hang_s=READ_HANG_S)
        self._disk = Lane("disk", workers=1, capacity=WRITE_CAPACITY, wait_s=WRITE_WAIT_S, hang_s=WRITE_HANG_S)
        # Number of deletions so far.
        self._forgotten = 0
        self._writes: set[asyncio.Task[None]] = set()
        # Images queued for writing, by owner and handle: memory may have evicted them before they are on disk.
        self._unwritten: dict[tuple[str, str], EncodedImage] = {}
        self._sweeping: asyncio.Task[None] | None = None
        # When a use was last noted on disk, in seconds of the event loop, by owner and handle.
        self._noted: dict[tuple[str, str], float] = {}

    async def find(self, image_id: str, *, owner: str, timings: Timings) -> EncodedImage | None:
        """The image, loaded back into memory if it was on disk; None if it is in neither tier."""
        image = self._memory.get(image_id, owner=owner)
        files = self._files
        if image is not None:
            self._note_use(image_id, owner)
        if image is not None or files is None:
            return image
        if (image := self._unwritten.get((owner, image_id))) is not None:
            self._put(image_id, image, owner)
            return image
        forgotten = self._forgotten
        try:
            kept = await self._reads.run(lambda: files.get(image_id, owner=owner), timings, owner=owner)
            model = self._resolve(kept.model) if kept is not None else None
        # The model was removed, or the disk is too slow: encode the image again.
        except OsamdError:
            return None
        if kept is None or model is None:
            return None
        image = EncodedImage(kept.embedding, model, kept.digest)
        # Do not bring back an image that was deleted during the read.
        if forgotten == self._forgotten:
            self._put(image_id, image, owner)
        return image

    def keep_swept(self) -> None:
        """Delete expired files now and every hour until ``close``, since a write, which does so too, may never come."""
        files = self._files
        if files is None or self._sweeping is not None:
            return

        async def sweep() -> None:
            while True:
                await self._in_background(files.sweep, "")
                await asyncio.sleep(SWEEP_EVERY_S)

        self._sweeping = asyncio.get_running_loop().create_task(sweep())

    def remember(self, image_id: str, image: EncodedImage, *, owner: str) -> None:
        """Store it in memory at once, and on disk in the background.

        Not on disk where the model returns only boxes: its embedding is a picture, which costs nothing to make from the
        photo, and after a restart nobody would know which one belongs to the handle of a chain.
        """
        self._put(image_id, image, owner)
        files = self._files
        if files is None or not image.model.capabilities.masks:
            return
        kept = KeptEmbedding(image.embedding, image.model.name, image.digest)
        self._unwritten[owner, image_id] = image

        async def write() -> None:
            try:
                await self._in_background(lambda: files.put(image_id, kept, owner=owner), owner)
            finally:
                # Unless it was deleted or queued again meanwhile.
                if self._unwritten.get((owner, image_id)) is image:
                    del self._unwritten[owner, image_id]

        self._start(write())

    async def forget(self, image_id: str, *, owner: str) -> bool:
        """Delete it from both tiers; False if neither had it.

        Raises:
            CapacityError: the disk is too slow to confirm the deletion.
        """
        self._forgotten += 1
        had = self._unwritten.pop((owner, image_id), None) is not None
        had = self._memory.delete(image_id, owner=owner) or had
        files = self._files
        if files is None:
            return had
        # Queued behind the earlier writes.
        was_kept = await self._disk.run(lambda: files.delete(image_id, owner=owner), Timings(), owner=owner)
        # A concurrent read may have started, or finished, meanwhile.
        self._forgotten += 1
        return self._memory.delete(image_id, owner=owner) or was_kept or had

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Finish queued writes, for a few seconds at most, and clear the memory.

        Args:
            patience_s: seconds to wait at most; None for no limit on running jobs.

        Returns:
            Whether all jobs have ended.
        """
        patience = Patience(patience_s)
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._writes:
            await asyncio.wait(self._writes, timeout=patience.left(most=FLUSH_S))
        have_ended = await close_lanes([self._disk, self._reads], patience)
        self._memory.clear()
        return have_ended

    def _note_use(self, image_id: str, owner: str) -> None:
        """Note on disk, now and then, that an image in memory was used."""
        files = self._files
        if files is None:
            return
        now = asyncio.get_running_loop().time()
        if now - self._noted.get((owner, image_id), -math.inf) < NOTE_USE_EVERY_S:
            return
        if len(self._noted) >= MOST_NOTED:
            self._noted.clear()
        self._noted[owner, image_id] = now
        self._start(self._in_background(lambda: files.touch(image_id, owner=owner), owner))

    async def _in_background(self, work: Callable[[], None], owner: str) -> None:
        """Run on the disk's lane; if the disk cannot keep up, it is not done."""
        with contextlib.suppress(OsamdError):
            await self._disk.run(work, Timings(), owner=owner)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    def _put(self, image_id: str, image: EncodedImage, owner: str) -> None:
        self._memory.put(image_id, image, nbytes=image.embedding.nbytes, owner=owner)
