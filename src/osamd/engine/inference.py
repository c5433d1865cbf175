"""Jobs run by the lanes: load a model, encode an image, decode prompts. Stateless functions."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from osamd.errors import (
    InferenceError,
    InvalidImageError,
    InvalidPromptError,
    ModelLoadError,
    RequestError,
    SettingsError,
)
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model
from osamd.library.store import Store
from osamd.models.base import Adapter, Stepwise, encode_pixels
from osamd.runtime.graphs import graph_folder
from osamd.settings import Settings
from osamd.timings import Timings
from osamd.types import (
    Annotation,
    Box,
    ByteArray,
    Candidate,
    Decode,
    Embedding,
    Mask,
    MaskLogits,
    Picture,
    Prepared,
    Prompt,
    WantedSize,
)

# Side of the test image for a GPU; models resize it.
FIRST_SIDE = 256
# Maximum number of candidates per prompt.
MOST_CANDIDATES = 3
# A mask at the model's resolution; 288 x 288 float32 is the largest of all families.
LOGITS_BYTES = 288 * 288 * 4


def load_model(model: Model, *, store: Store, settings: Settings) -> Adapter:
    """Load a model whose files are here; on a GPU, also run it once.

    Raises:
        ModelError: a file is missing or does not load, or the configured device is not available.
    """
    # Imported here since ONNX Runtime takes a tenth of a second to import, for which /health must not wait.
    from osamd.models import build_model
    from osamd.runtime.sessions import choose_placement, graph_cache

    paths = store.paths(model)
    try:
        placement = choose_placement(
            device=settings.device, onnx_providers=settings.onnx_providers, threads=settings.threads
        )
    except SettingsError as error:
        raise ModelLoadError(str(error)) from error
    if not any(blob.attachments for blob in model.blobs.values()):
        placement = replace(placement, graphs=graph_cache(graph_folder(settings.cache)))
    adapter = build_model(model, paths, placement)
    if adapter.device == "cuda":
        run_once(adapter, model)
    return adapter


def run_once(adapter: Adapter, model: Model) -> None:
    """Encode and decode once: the first run is the slowest, and reveals missing libraries.

    Raises:
        ModelLoadError: the model does not run.
    """
    import numpy as np

    try:
        embedding = encode_pixels(adapter, np.zeros((FIRST_SIDE, FIRST_SIDE, 3), np.uint8))
        prompt = adapter.default_prompt(height=FIRST_SIDE, width=FIRST_SIDE)
        adapter.decode(embedding, prompt, mask_input=None, multimask=False)
    except InferenceError as error:
        raise ModelLoadError(f"{model.name} loads but does not run on {adapter.device}: {error}") from error


def prepare_image(
    adapter: Adapter, source: ImageSource, max_pixels: int, timings: Timings, *, decode: Decode | None = None
) -> Prepared:
    """Turn an encoded image into the model's encoder input; adds the stages ``decode_image`` and ``encode``.

    Args:
        adapter: the model.
        source: an encoded image, or pixels.
        max_pixels: limit on the image's pixels.
        timings: the request's stopwatch.
        decode: decodes the image; None decodes in this process.

    Raises:
        InvalidImageError: it cannot be decoded.
        ImageTooLargeError: it has more than ``max_pixels`` pixels.
    """
    with timings.stage("decode_image"):
        picture = _picture(source) or (decode or _decode_here)(
            source.data or b"", max_pixels=max_pixels, wanted=adapter.input_size
        )
    with timings.stage("encode"):
        prepared = adapter.prepare(picture.pixels, size=(picture.height, picture.width))
        return replace(prepared, notes=picture.notes)


def decode_whole(source: ImageSource, max_pixels: int, timings: Timings, *, decode: Decode | None) -> ByteArray:
    """The pixels of an image at full size; arguments and errors as for ``prepare_image``."""
    with timings.stage("decode_image"):
        picture = _picture(source) or (decode or _decode_here)(source.data or b"", max_pixels=max_pixels)
    return picture.pixels


def read_mask(
    adapter: Adapter, data: bytes, embedding: Embedding, timings: Timings, *, field: str, decode: Decode | None
) -> MaskLogits:
    """The logits of a mask that a caller sends as a picture of the image's size; adds the stage ``decode_image``.

    Args:
        adapter: the model.
        data: a greyscale PNG.
        embedding: the encoded image.
        timings: the request's stopwatch.
        field: the field it is in, for messages.
        decode: decodes pictures; None decodes in this process.

    Raises:
        InvalidPromptError: it is not a mask of this image, or empty.
    """
    from osamd.pixels.mask_pictures import check_header, logits_of_picture

    height, width = embedding.height, embedding.width
    frame = adapter.mask_frame(height=height, width=width)
    if frame is None:
        raise RuntimeError("a model that takes masks has a frame for them")
    try:
        check_header(data, height=height, width=width)
        with timings.stage("decode_image"):
            picture = (decode or _decode_here)(data, max_pixels=height * width)
            if picture.pixels.shape[:2] != (height, width):
                # Turned by its EXIF orientation.
                raise InvalidPromptError("expected a mask without an orientation tag")
            return logits_of_picture(picture.pixels[:, :, 0], frame)
    except InvalidImageError:
        # Its header was right; the decoder's message speaks of images, and of other formats.
        raise InvalidPromptError("the mask is truncated or corrupt: expected a whole PNG", field=field) from None
    except RequestError as error:
        raise InvalidPromptError(str(error), field=field) from None


def _picture(source: ImageSource) -> Picture | None:
    """Pixels that need no decoding."""
    if source.pixels is None:
        return None
    return Picture(source.pixels, height=source.pixels.shape[0], width=source.pixels.shape[1])


def _decode_here(data: bytes, *, max_pixels: int, wanted: WantedSize | None = None) -> Picture:
    from osamd.pixels.images import decode_image

    return decode_image(data, max_pixels=max_pixels, wanted=wanted)


def mask_bytes(
    adapter: Adapter, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool, most_pixels: int
) -> int:
    """Upper bound on the bytes of all prompts' masks, at the model's resolution and at image size.

    Args:
        adapter: the model the embedding is from.
        embedding: the encoded image.
        prompts: what to segment.
        multimask: whether to return several candidates for each prompt.
        most_pixels: limit on the total area of the masks' boxes in pixels, one byte each.
    """
    can = adapter.capabilities
    if not can.masks:
        return 0
    each = MOST_CANDIDATES if multimask and can.multimask else 1
    count = sum(prompt.max_annotations if can.texts else each for prompt in prompts)
    return count * LOGITS_BYTES + min(count * embedding.height * embedding.width, most_pixels)


class MaskPixels:
    """Counts the pixels of a request's masks, or rather of their boxes. Thread-safe.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def counting(self) -> Iterator[Callable[[int, str], None]]:
        """Count the masks of a job, with the field of each one's prompt.

        If the job fails, what it counted is taken back, so that it can run again.

        Raises:
            InvalidPromptError: there are too many, with those of other jobs; names the field.
        """
        own = 0

        def take(pixels: int, field: str) -> None:
            nonlocal own
            with self._lock:
                own += pixels
                self._count += pixels
                is_over = self._count > self._most
            if is_over:
                message = f"the masks of this request have more than the {self._most:,} pixels that are allowed"
                raise InvalidPromptError(f"{message}: ask for fewer at once", field=field)

        try:
            yield take
        except BaseException:
            with self._lock:
                self._count -= own
            raise


def decode_prompts(
    adapter: Adapter,
    embedding: Embedding,
    prompts: Sequence[Prompt],
    refined: Sequence[MaskLogits | None],
    *,
    turn: Callable[[], contextlib.AbstractContextManager[Callable[[], int | None]]],
    multimask: bool,
    mask_pixels: MaskPixels,
    timings: Timings,
) -> Generator[None, None, list[Annotation]]:
    """The objects of the prompts that the job takes, as masks at image size; adds the stages ``decode`` and ``mask``.

    Yields before each further prompt, each mask, and each further run of a ``Stepwise`` adapter, so that other jobs can
    run in between.

    Args:
        adapter: the model the embedding is from.
        embedding: the encoded image.
        prompts: what to segment.
        refined: the earlier mask of each prompt, or None.
        turn: gives a function that returns the number of the next prompt to decode, or None at the end.
        multimask: whether to return several candidates for each prompt.
        mask_pixels: the request's count of mask pixels, shared by its jobs.
        timings: the request's stopwatch.

    Raises:
        InvalidPromptError: a text is too long, or the masks exceed the limit.
        InferenceError: the model failed.
    """
    found: list[Annotation] = []
    with turn() as take, mask_pixels.counting() as count:
        is_first = True
        while (index := take()) is not None:
            if not is_first:
                yield
            is_first = False
            prompt, mask_input = prompts[index], refined[index]
            if isinstance(adapter, Stepwise):
                steps = adapter.decode_in_steps(embedding, prompt, mask_input=mask_input, multimask=multimask)
                candidates = yield from timings.stage_in_steps("decode", steps)
            else:
                with timings.stage("decode"):
                    candidates = adapter.decode(embedding, prompt, mask_input=mask_input, multimask=multimask)
            for mask_index, candidate in enumerate(candidates):
                yield
                with timings.stage("mask"):
                    placed = _place(candidate, embedding)
                if placed is None:
                    continue
                box, mask = placed
                count(0 if mask is None else mask.inside.size, prompt.field)
                found.append(
                    Annotation(box, mask, candidate.score, candidate.text, index, mask_index, logits=candidate.logits)
                )
    return found


def _place(candidate: Candidate, embedding: Embedding) -> tuple[Box, Mask | None] | None:
    """The candidate in integer image pixels; None if its mask is empty."""
    from osamd.pixels.masks import mask_from_logits

    height, width = embedding.height, embedding.width
    if candidate.logits is not None:
        mask = mask_from_logits(candidate.logits, height=height, width=width)
        return None if mask is None else (mask.box, mask)
    if candidate.box is None:
        raise RuntimeError("a candidate needs logits or a box")
    x1, y1, x2, y2 = candidate.box
    box = Box(
        xmin=min(width - 1, max(0, round(x1))),
        ymin=min(height - 1, max(0, round(y1))),
        xmax=min(width - 1, max(0, round(x2))),
        ymax=min(height - 1, max(0, round(y2))),
    )
    return box, None
