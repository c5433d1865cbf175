"""labelme with its AI models answered by an osamd server.

labelme asks the library osam for a model class by name, each time it needs one. ``replace_models`` puts a class in the
place of each that asks the server instead; labelme and osam themselves are unchanged. Tested with labelme 6.3.1 and
7.9.1, and osam 0.8.1.
"""

import functools
import importlib
import importlib.metadata
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from osamd.client import Client, FoundObject
from osamd.errors import EmbeddingExpiredError, InvalidPromptError, OsamdError, SettingsError

if TYPE_CHECKING:
    import osam

PACKAGE: Final = "labelme"
OLDEST: Final = 6
# From this version on, labelme shows errors of its AI models in its status bar. Older ones close on any.
SHOWS_ERRORS: Final = 7
STATUS_MS: Final = 10_000
# labelme asks at every mouse move, from the thread that draws its window.
HOLD_S: Final = 5.0

MOST_PNG_PIXELS: Final = 4_000_000
JPEG_QUALITY: Final = 95
LONGEST_JPEG_SIDE: Final = 65_500
# Greyscale images come with one channel to words.
RGB: Final = 3

ShowError = Callable[[str], None]


def start(client: Client, arguments: Sequence[str]) -> int:
    """Run labelme until its window is closed.

    Args:
        client: of the server; one that gives up early, since labelme's window is frozen while it waits.
        arguments: labelme's own.

    Raises:
        SettingsError: labelme is not installed, or too old.
    """
    show_error = None if _version() >= SHOWS_ERRORS else _show_in_status_bar
    replace_models(client, show_error)
    sys.argv = [PACKAGE, *arguments]
    try:
        importlib.import_module("labelme.__main__").main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def replace_models(client: Client, show_error: ShowError | None = None) -> None:
    """Have every model of osam in this process answered by a server, under the same name.

    Args:
        client: of the server.
        show_error: called with the message when the server cannot answer, and nothing is found; raised if None.
    """
    import osam

    kinds = osam.apis.registered_model_types
    kinds[:] = [_remote(kind, client, show_error) for kind in kinds]


def _version() -> int:
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError(
            f"labelme is not installed in this Python environment ({sys.prefix}): pip install labelme"
        ) from None
    major = int(version.partition(".")[0])
    if major < OLDEST:
        raise SettingsError(f"labelme {version} is too old: expected 6.3 or newer (pip install --upgrade labelme)")
    return major


def _show_in_status_bar(message: str) -> None:
    core, widgets = (importlib.import_module(f"PyQt5.{name}") for name in ("QtCore", "QtWidgets"))
    for window in widgets.QApplication.topLevelWidgets():
        if isinstance(window, widgets.QMainWindow):
            show = functools.partial(window.statusBar().showMessage, f"AI inference failed: {message}", STATUS_MS)
            # Afterwards, or labelme's own message about an answer without objects would replace it.
            core.QTimer.singleShot(0, show)


class _Sent(Protocol):
    """Keeps an image's handle, None until the server has the image."""

    image_id: str | None


class _Asker:
    """Asks the server for one model, with the image only once."""

    def __init__(self, name: str, client: Client) -> None:
        self._name = name
        self._client = client
        self._failed: OsamdError | None = None
        self._held_until = 0.0

    def ask(self, sent: _Sent, image: Any, prompt: Mapping[str, Any]) -> "list[osam.types.Annotation]":
        """The objects that a prompt selects.

        Args:
            sent: where its handle is kept.
            image: (H, W, 3) uint8, RGB.
            prompt: as in the API.

        Raises:
            OsamdError: the server cannot answer. For ``HOLD_S`` afterwards it is not asked again.
        """
        if self._failed is not None and time.monotonic() < self._held_until:
            raise self._failed
        try:
            annotations = self._objects(sent, image, prompt)
        except OsamdError as error:
            if not isinstance(error, InvalidPromptError):
                self._failed, self._held_until = error, time.monotonic() + HOLD_S
            raise
        self._failed = None
        return annotations

    def _objects(self, sent: _Sent, image: Any, prompt: Mapping[str, Any]) -> "list[osam.types.Annotation]":
        ask = functools.partial(
            self._client.segment, model=self._name, prompts=[prompt], mask_layout="crop", mask_format="png"
        )
        reply = None
        if sent.image_id is not None:
            try:
                reply = ask(image_id=sent.image_id)
            except EmbeddingExpiredError:
                sent.image_id = None
        if reply is None:
            reply = ask(_encoded(image))
            sent.image_id = reply.image_id
        return [_annotation(found) for found in reply.annotations]


def _encoded(image: Any) -> Any:
    """The image itself, which is sent as PNG, or as JPEG if it is large: a PNG might exceed the server's limit."""
    height, width, *channels = image.shape
    if height * width <= MOST_PNG_PIXELS or channels != [RGB] or max(height, width) > LONGEST_JPEG_SIDE:
        return image
    import PIL.Image

    written = io.BytesIO()
    PIL.Image.fromarray(image).save(written, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return written.getvalue()


def _annotation(found: FoundObject) -> "osam.types.Annotation":
    import numpy as np
    import osam
    import PIL.Image

    mask = None
    if found.mask is not None:
        with PIL.Image.open(io.BytesIO(found.mask_png), formats=["PNG"]) as picture:
            mask = np.asarray(picture) > 0
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), found.box, strict=True))
    return osam.types.Annotation(
        bounding_box=osam.types.BoundingBox(**box), text=found.text, score=found.score, mask=mask
    )


def _prompt(prompt: "osam.types.Prompt", height: int, width: int) -> dict[str, Any]:
    """A prompt as in the API. labelme can be configured to draw outside the image, which the server refuses."""
    if prompt.points is None:
        return {
            "texts": prompt.texts,
            "iou_threshold": prompt.iou_threshold,
            "score_threshold": prompt.score_threshold,
            "max_annotations": prompt.max_annotations,
        }
    return {"points": prompt.points.clip(0, (width, height)), "point_labels": prompt.point_labels}


def _without_traceback(error: Exception) -> Exception:
    """The error without its frames: labelme logs the values of their variables, and some hold the key."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _remote(kind: "type[osam.types.Model]", client: Client, show_error: ShowError | None) -> "type[osam.types.Model]":
    import numpy as np
    import osam

    class SentImage(osam.types.ImageEmbedding):
        """Stands for the embedding, which stays on the server."""

        image_id: str | None = None

    class Remote(osam.types.Model):
        """A model on the server. It has no files, so osam finds that they are all there and downloads nothing."""

        name = kind.name
        metadata = kind.metadata
        _blobs: dict[str, Any] = {}  # noqa: RUF012 - as in the base class

        def __init__(self) -> None:
            self._asker = _Asker(self.name, client)

        @classmethod
        def remove(cls) -> None:
            """What labelme's button Delete calls."""
            raise OSError(f"{cls.name} is a model on {client.url}; there are no files of it on this computer")

        def encode_image(self, image: Any) -> SentImage:
            """Only make room for the handle: the image is sent with the first prompt."""
            height, width = image.shape[:2]
            nothing = np.zeros((1, 1, 1), np.float32)
            return SentImage(original_height=height, original_width=width, embedding=nothing)

        def generate(self, request: "osam.types.GenerateRequest") -> "osam.types.GenerateResponse":
            """Ask the server."""
            sent = request.image_embedding
            if not isinstance(sent, SentImage):
                sent = self.encode_image(request.image)
            prompt = _prompt(request.prompt, sent.original_height, sent.original_width)
            try:
                annotations = self._asker.ask(sent, request.image, prompt)
            except Exception as error:  # noqa: BLE001 - labelme decides
                problem = _without_traceback(error)
            else:
                return osam.types.GenerateResponse(model=self.name, annotations=annotations)
            if show_error is None:
                raise problem
            show_error(f"{type(problem).__name__}: {problem}")
            return osam.types.GenerateResponse(model=self.name, annotations=[])

    Remote.__name__ = f"Remote{kind.__name__}"
    return Remote
