"""A loaded model that segments images in bulk."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from osamd.batch.images import AnyImage, source_of
from osamd.batch.prompts import Prompts, everything_of, prompts_of
from osamd.batch.results import Result
from osamd.engine import Engine
from osamd.engine.everything import collect
from osamd.errors import OsamdError
from osamd.keep_alive import LONGEST_S
from osamd.library.catalog import DEFAULT_MODEL
from osamd.library.library import open_library
from osamd.pixels.careful_decoder import CarefulDecoder
from osamd.segment_requests import SegmentRequest
from osamd.settings import Settings, load_settings
from osamd.timings import Timings

if TYPE_CHECKING:
    from concurrent.futures import Future

Value = TypeVar("Value")

# Enough to read and preprocess images while one is encoded and another is decoded.
AT_ONCE: Final = 8
# Callers wait for all results, so nothing may time out.
PATIENCE_S: Final = 1e9
# Pillow refuses larger images.
MOST_IMAGE_PIXELS: Final = 170_000_000
# For all masks of one image.
MOST_MASK_PIXELS: Final = 10**12


class Segmenter:
    """A loaded model that segments images in bulk; synchronous, without limits on rates, and without caches.

    Images are read, decoded and resized on several threads while others are encoded; ``AT_ONCE`` are held at once.

    Args:
        model: a name or alias of the catalogue, or a chain such as ``yoloworld+builtin``, which turns words into masks;
            it is pulled where it is not here, and that is allowed.
        multimask: whether to return up to three candidates for each prompt, where the model has them.
        device: where it runs.
        threads: of one inference; 0 means one for each core.
        parallel: images encoded at the same time. On a CPU, several with fewer threads each give more images a second
            than one with all of them, and take more memory.

    Raises:
        UnknownModelError: there is no such model.
        ModelError: it could not be pulled or loaded.
        SettingsError: the environment's ``OSAMD_*`` variables do not make sense.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        multimask: bool = False,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int = 0,
        parallel: int = 1,
    ) -> None:
        self._arguments = {
            "model": model,
            "multimask": multimask,
            "device": device,
            "threads": threads,
            "parallel": parallel,
        }
        self._model = model
        self._multimask = multimask
        self._parallel = parallel
        settings = load_settings(
            device=device,
            threads=threads,
            preload=(model,),
            # Not pinned: where memory does not hold both parts of a chain, each makes room for the other.
            keep_alive=LONGEST_S,
            max_image_pixels=MOST_IMAGE_PIXELS,
            max_mask_pixels=MOST_MASK_PIXELS,
            embedding_cache_bytes=0,
            embedding_disk_bytes=0,
            encode_queue=AT_ONCE,
            decode_queue=AT_ONCE,
            queue_wait_s=PATIENCE_S,
            pull_wait_s=PATIENCE_S,
        )
        self._settings: Settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="osamd-batch", daemon=True)
        self._thread.start()
        self._decode = CarefulDecoder()
        self._engine: Engine | None = None
        try:
            self._engine = self._do(self._start())
        except BaseException:
            self.close()
            raise

    def __call__(self, images: Iterable[AnyImage], prompts: Iterable[Prompts] | None = None) -> list[Result]:
        """Segment images; returns when all are done.

        Args:
            images: each a path, the bytes of an encoded image (JPEG, PNG, WebP, GIF, TIFF or BMP), a NumPy array of
                (height, width, 3) uint8 RGB, or a Pillow image. Files and bytes are turned upright by their EXIF
                orientation; arrays and Pillow images are taken as they are in memory.
            prompts: one entry for each image: a prompt, several, or None for the model's default (a click in the
                middle for most). A prompt is an ``osamd.types.Prompt``, or a mapping as in the body of
                ``/api/generate``: ``points`` with ``point_labels``, ``box``, ``texts``; or ``everything`` alone,
                True or its parameters, which finds ``Proposal`` objects, best first. None asks the default of all.

        Safe to call from several threads; at most ``AT_ONCE`` images may then be in work.

        Returns:
            One result for each image, in their order. An invalid image or prompt makes only its own result
            an error.

        Raises:
            ValueError: the number of prompts differs from the number of images.
            RuntimeError: this Segmenter is closed.
        """
        return self._do(self._segment_all(images, prompts))

    def close(self) -> None:
        """Unload the model and stop the threads. Safe to call more than once."""
        if self._loop.is_closed():
            return
        if self._engine is not None:
            self._do(self._engine.close())
        self._decode.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._arguments,)

    def _do(self, work: Coroutine[Any, Any, Value]) -> Value:
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("this Segmenter is closed")
        future: Future[Value] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Such as KeyboardInterrupt: no caller is waiting any more.
            future.cancel()
            raise

    async def _start(self) -> Engine:
        library = open_library(self._settings)
        engine = Engine(self._settings, library=library, decode=self._decode, parallel=self._parallel)
        try:
            engine.library.resolve(self._model)
            await engine.preload()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _segment_all(self, images: Iterable[AnyImage], prompts: Iterable[Prompts] | None) -> list[Result]:
        results: dict[int, Result] = {}
        jobs = enumerate(_pairs(images, prompts))

        async def work() -> None:
            # All workers share one iterator, so that it is consumed only as fast as images are processed.
            for index, (image, asked) in jobs:
                results[index] = await self._segment(image, asked)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [results[index] for index in range(len(results))]

    async def _segment(self, image: AnyImage, asked: Prompts) -> Result:
        if self._engine is None:
            raise RuntimeError("this Segmenter was not started")
        try:
            everything = everything_of(asked)
            request = SegmentRequest(
                image=await asyncio.to_thread(source_of, image),
                model=self._model,
                prompts=None if everything is not None else prompts_of(asked, self._settings),
                multimask=self._multimask,
                owner="batch",
                refinable=False,
            )
            if everything is None:
                found = await self._engine.segment(request, Timings())
            else:
                found = await collect(self._engine.everything(request, everything, Timings(), are_kept=True))
        except OsamdError as error:
            return Result(height=0, width=0, annotations=(), error=error)
        # The logits are of no use here, and often larger than the mask.
        annotations = tuple(replace(annotation, logits=None) for annotation in found.annotations)
        return Result(height=found.image.height, width=found.image.width, annotations=annotations)


def _restored(arguments: dict[str, Any]) -> Segmenter:
    return Segmenter(**arguments)


def _pairs(images: Iterable[AnyImage], prompts: Iterable[Prompts] | None) -> Iterator[tuple[AnyImage, Prompts]]:
    if prompts is None:
        for image in images:
            yield image, None
    else:
        yield from zip(images, prompts, strict=True)
