"""Segment many images without a server.

::

    from osamd.batch import Segmenter

    with Segmenter("builtin") as segment:
        for result in segment(["a.jpg", "b.jpg"], [{"points": [[225, 150]], "point_labels": [1]}] * 2):
            print(result.boxes, result.scores, result.masks.shape)

A ``Segmenter`` belongs to one process. It can be pickled, as can its arguments; a copy reloads the model. Worker pools
and Ray Data's ``map_batches(Segmenter, ...)`` rely on that.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from pydantic import ValidationError

from osamd.engine import Engine
from osamd.engine.everything import collect
from osamd.errors import InvalidImageError, InvalidPromptError, OsamdError
from osamd.image_sources import ImageSource
from osamd.keep_alive import LONGEST_S
from osamd.library.catalog import DEFAULT_MODEL
from osamd.library.library import open_library
from osamd.pixels.careful_decoder import CarefulDecoder
from osamd.pixels.everything import Everything
from osamd.segment_requests import SegmentRequest
from osamd.settings import Settings, load_settings
from osamd.timings import Timings
from osamd.types import Annotation, BoolArray, FloatArray, IntArray, Prompt
from osamd.wire.schemas import PromptSchema, invalid_request

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    AnyImage = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8] | Image.Image

AnyPrompt = Prompt | Mapping[str, Any]
# The prompts for one image: one, several, everything, or None for the model's default.
Prompts = AnyPrompt | Sequence[AnyPrompt] | Everything | None

Value = TypeVar("Value")

# Enough to read and preprocess images while one is encoded and another is decoded.
AT_ONCE: Final = 8
# Callers wait for all results, so nothing may time out.
PATIENCE_S: Final = 1e9
# Pillow refuses larger images.
MOST_IMAGE_PIXELS: Final = 170_000_000
# For all masks of one image.
MOST_MASK_PIXELS: Final = 10**12
CHANNELS: Final = 3
PIXEL_AXES: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The objects found in one image, or why it failed.

    Attributes:
        height: rows of the upright image; 0 if it failed.
        width: columns of the upright image; 0 if it failed.
        annotations: the objects, in the order of the prompts, best first within each; empty if it failed.
        error: why this image failed, or None; other images are not affected.
    """

    height: int
    width: int
    annotations: tuple[Annotation, ...]
    error: OsamdError | None = None

    @property
    def masks(self) -> BoolArray:
        """(N, height, width) bool, one per annotation, in the same order; all False for objects without a mask.

        Raises:
            OsamdError: the image failed.
        """
        import numpy as np

        masks = np.zeros((len(self._found()), self.height, self.width), np.bool_)
        for canvas, annotation in zip(masks, self.annotations, strict=True):
            box = annotation.box
            if annotation.mask is not None:
                canvas[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = annotation.mask.inside
        return masks

    @property
    def boxes(self) -> IntArray:
        """(N, 4) int64: xmin, ymin, xmax, ymax in whole image pixels, both corners included.

        Raises:
            OsamdError: the image failed.
        """
        import numpy as np

        boxes = [(item.box.xmin, item.box.ymin, item.box.xmax, item.box.ymax) for item in self._found()]
        return np.array(boxes, np.int64).reshape(-1, 4)

    @property
    def scores(self) -> FloatArray:
        """(N,) float32: the model's confidence, 0..1; NaN if it has none.

        Raises:
            OsamdError: the image failed.
        """
        import numpy as np

        return np.array([np.nan if item.score is None else item.score for item in self._found()], np.float32)

    def _found(self) -> tuple[Annotation, ...]:
        if self.error is not None:
            raise self.error
        return self.annotations


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

    def __call__(self, images: "Iterable[AnyImage]", prompts: "Iterable[Prompts] | None" = None) -> list[Result]:
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

    async def _segment_all(self, images: "Iterable[AnyImage]", prompts: "Iterable[Prompts] | None") -> list[Result]:
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

    async def _segment(self, image: "AnyImage", asked: Prompts) -> Result:
        if self._engine is None:
            raise RuntimeError("this Segmenter was not started")
        try:
            everything = self._everything(asked)
            request = SegmentRequest(
                image=await asyncio.to_thread(_source, image),
                model=self._model,
                prompts=None if everything is not None else self._prompts(asked),
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

    def _everything(self, asked: Prompts) -> Everything | None:
        """The parameters of everything mode, or None if something else is asked."""
        if isinstance(asked, Everything):
            return asked
        if not isinstance(asked, Mapping):
            return None
        schema = _parsed(asked, "prompt")
        if not schema.wants_everything:
            return None
        return schema.to_everything(most_seconds=PATIENCE_S, max_canvas_pixels=None)

    def _prompts(self, asked: Any) -> tuple[Prompt, ...] | None:
        if asked is None or isinstance(asked, Everything):
            return None
        if isinstance(asked, Prompt | Mapping):
            return (self._prompt(asked, "prompt"),)
        if not isinstance(asked, Sequence) or isinstance(asked, str | bytes):
            raise _not_a_prompt(asked, "prompt")
        return tuple(self._prompt(prompt, f"prompts[{index}]") for index, prompt in enumerate(asked))

    def _prompt(self, prompt: Any, field: str) -> Prompt:
        if isinstance(prompt, Prompt):
            return prompt
        if not isinstance(prompt, Mapping):
            raise _not_a_prompt(prompt, field)
        return _parsed(prompt, field).to_prompt(self._settings, field)


def _parsed(prompt: Mapping[str, Any], field: str) -> PromptSchema:
    try:
        return PromptSchema.model_validate(dict(prompt))
    except ValidationError as error:
        found = invalid_request(error.errors(include_url=False, include_input=False, include_context=False))
        raise InvalidPromptError(str(found), field=f"{field}.{found.field}" if found.field else field) from None


def _not_a_prompt(given: object, field: str) -> InvalidPromptError:
    return InvalidPromptError(
        f"expected a mapping, an osamd.types.Prompt or an Everything; got {type(given).__name__}", field=field
    )


def _restored(arguments: dict[str, Any]) -> Segmenter:
    return Segmenter(**arguments)


def _pairs(images: "Iterable[AnyImage]", prompts: "Iterable[Prompts] | None") -> "Iterator[tuple[AnyImage, Prompts]]":
    if prompts is None:
        for image in images:
            yield image, None
    else:
        yield from zip(images, prompts, strict=True)


def _source(image: Any) -> ImageSource:
    """Convert any supported image; runs on a thread, since it reads files and hashes.

    Raises:
        InvalidImageError: its type is not supported, or its file cannot be read.
    """
    import numpy as np
    from PIL import Image

    if isinstance(image, bytes):
        return ImageSource.of_bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return ImageSource.of_bytes(Path(image).read_bytes())
        except OSError as error:
            raise InvalidImageError(f"{os.fspath(image)!s}: {error.strerror}", field="image") from None
        except ValueError as error:
            # Such as a path with a null byte.
            raise InvalidImageError(f"{os.fspath(image)!r}: {error}", field="image") from None
    if isinstance(image, np.ndarray):
        return ImageSource.of_pixels(_checked_pixels(image))
    if isinstance(image, Image.Image):
        return ImageSource.of_pixels(_pillow_pixels(image))
    raise InvalidImageError(
        f"expected a path, bytes, a NumPy array or a Pillow image; got {type(image).__name__}", field="image"
    )


def _checked_pixels(pixels: "npt.NDArray[Any]") -> "npt.NDArray[np.uint8]":
    import numpy as np

    if pixels.ndim != PIXEL_AXES or pixels.shape[2] != CHANNELS or pixels.dtype != np.uint8 or not pixels.size:
        raise InvalidImageError(
            f"expected an array of (height, width, 3) uint8 RGB; got {pixels.shape} {pixels.dtype}", field="image"
        )
    return np.ascontiguousarray(pixels)


def _pillow_pixels(image: "Image.Image") -> "npt.NDArray[np.uint8]":
    import numpy as np

    from osamd.pixels.images import to_rgb

    image.load()

    # Its EXIF orientation is not applied: prompts use the coordinates of image.size.
    return np.ascontiguousarray(to_rgb(image))
