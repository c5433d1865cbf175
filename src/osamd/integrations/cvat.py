"""osamd as a function of CVAT's own command line, ``cvat-cli --function-module osamd.integrations.cvat``.

Without ``texts`` it is an interactor, for ``function create-native`` and ``run-agent`` (CVAT Online and Enterprise).
With ``texts`` it is a detector, also for ``task auto-annotate``, which works with every CVAT. Needs ``cvat-cli``
(cvat_sdk 2.80), Pillow and NumPy, but nothing of osamd's server.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cvat_sdk.auto_annotation as cvat
import numpy as np
from cvat_sdk import models
from cvat_sdk.masks import encode_mask
from PIL import Image

from osamd.client import DEFAULT_URL, Client, FoundObject, Handle
from osamd.errors import EmbeddingExpiredError, OsamdError

# Photos above this size are sent as JPEG: as PNG, one of 12 megapixels has 20 MB.
MOST_PNG_PIXELS: Final = 4_000_000
JPEG_QUALITY: Final = 95
# Deviation of polygons from the mask, in pixels: exact ones have thousands of vertices.
SIMPLIFY_PX: Final = 1.0
# Points of CVAT's smallest polygon.
TRIANGLE: Final = 3


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image that the server has encoded; the agent keeps it for ten minutes.

    Attributes:
        handle: the server's handle.
        data: the image, for when the server has forgotten the handle.
    """

    handle: Handle
    data: bytes


class Clicks:
    """An interactor: points and a box into a mask.

    Args:
        client: of the server.
        model: a model's name; None for the built-in one.
    """

    spec = cvat.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, client: Client, model: str | None) -> None:
        self._client = client
        self._model = model

    def preprocess_image(self, _: cvat.InteractionFunctionContext, image: Image.Image) -> EncodedImage:
        """Send an image ahead of the first click.

        Raises:
            BadFunctionError: the server refused it, or cannot be reached.
        """
        data = _encoded(image)
        try:
            return EncodedImage(self._client.embed(data, model=self._model), data)
        except OsamdError as error:
            raise _shown(error) from None

    def detect(
        self, _: cvat.InteractionFunctionContext, pp_image: EncodedImage, prompts: cvat.InteractionPrompts
    ) -> list[cvat.InteractionResultShape]:
        """Masks for a prompt, best first.

        Raises:
            BadFunctionError: the server refused the prompt, or cannot be reached.
        """
        prompt = _prompt(prompts, pp_image.handle.width, pp_image.handle.height)
        arguments: Any = {"model": self._model, "prompts": prompt, "mask_layout": "crop"}
        try:
            try:
                found = self._client.segment(image_id=pp_image.handle.image_id, **arguments)
            except EmbeddingExpiredError:
                found = self._client.segment(pp_image.data, **arguments)
        except OsamdError as error:
            raise _shown(error) from None
        return [
            cvat.InteractionResultShape(type="mask", points=_mask_points(item), attributes=_confidence(item))
            for item in found.annotations
            if item.mask is not None
        ]


class Words:
    """A detector: the objects that match words, as masks, polygons, or rectangles if the model has no masks.

    Args:
        client: of the server.
        model: a model's name; None for the built-in one.
        texts: the words, which are also the names of CVAT's labels.
    """

    def __init__(self, client: Client, model: str | None, texts: Sequence[str]) -> None:
        self._client = client
        self._model = model
        self._texts = tuple(texts)
        self.spec = cvat.DetectionFunctionSpec(
            labels=[cvat.label_spec(text, index) for index, text in enumerate(self._texts)]
        )

    def detect(self, context: cvat.DetectionFunctionContext, image: Image.Image) -> list[models.LabeledShapeRequest]:
        """The objects in an image.

        Raises:
            BadFunctionError: the server refused the words, or cannot be reached.
        """
        prompt: dict[str, Any] = {"texts": self._texts}
        if context.conf_threshold is not None:
            prompt["score_threshold"] = context.conf_threshold
        try:
            found = self._client.segment(
                _encoded(image),
                model=self._model,
                prompts=prompt,
                mask_layout="crop",
                mask_format="polygon" if context.conv_mask_to_poly else "png",
                simplify=SIMPLIFY_PX if context.conv_mask_to_poly else None,
            )
        except OsamdError as error:
            raise _shown(error) from None
        return [shape for item in found.annotations for shape in self._shapes(item)]

    def _shapes(self, item: FoundObject) -> Iterator[models.LabeledShapeRequest]:
        # A model that returns no text has answered the only one.
        label = self._texts.index(item.text) if item.text in self._texts else 0
        if item.mask is None:
            x1, y1, x2, y2 = item.box
            # CVAT's rectangles end where the last pixel ends.
            yield cvat.rectangle(label, [x1, y1, x2 + 1, y2 + 1])
        elif isinstance(item.mask, str):
            yield cvat.mask(label, _mask_points(item))
        else:
            for part in item.mask:
                if len(part["exterior"]) >= TRIANGLE:
                    yield cvat.polygon(label, [number for point in part["exterior"] for number in point])


def create(url: str = "", key: str = "", model: str = "", texts: str = "") -> Clicks | Words:
    """What ``cvat-cli`` calls, with the parameters given as ``-p NAME=str:VALUE``.

    Args:
        url: the osamd server; by default the environment variable ``OSAMD_URL``, or this machine.
        key: by default the environment variable ``OSAMD_API_KEY``, which no list of processes shows.
        model: a model's name; the built-in one by default.
        texts: words, separated by commas, for a detector; without them it is an interactor.

    Raises:
        InvalidRequestError: the URL or the key cannot be used.
    """
    client = Client(
        url or os.environ.get("OSAMD_URL") or DEFAULT_URL, api_key=key or os.environ.get("OSAMD_API_KEY") or None
    )
    words = [text.strip() for text in texts.split(",") if text.strip()]
    return Words(client, model or None, words) if words else Clicks(client, model or None)


def _encoded(image: Image.Image) -> bytes:
    """The image as PNG, or as JPEG if it is large."""
    written = io.BytesIO()
    plain = image.convert("RGB")
    if image.width * image.height <= MOST_PNG_PIXELS:
        plain.save(written, "PNG", compress_level=1)
    else:
        plain.save(written, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return written.getvalue()


def _prompt(prompts: cvat.InteractionPrompts, width: int, height: int) -> dict[str, Any]:
    """CVAT's prompt in the API's format, within the image: a box may be drawn beyond it."""

    def inside(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)

    prompt: dict[str, Any] = {}
    points = [inside(point) for point in (*prompts.pos_points, *prompts.neg_points)]
    if points:
        prompt["points"] = points
        prompt["point_labels"] = [1] * len(prompts.pos_points) + [0] * len(prompts.neg_points)
    if prompts.bounding_box is not None:
        first, second = map(inside, prompts.bounding_box)
        (x1, x2), (y1, y2) = (sorted(pair) for pair in zip(first, second, strict=True))
        prompt["box"] = [x1, y1, x2, y2]
    return prompt


def _mask_points(item: FoundObject) -> list[float]:
    """A cropped PNG mask as CVAT's run lengths, which end with the bounding box."""
    inside = np.asarray(Image.open(io.BytesIO(item.mask_png))) > 0
    *runs, x1, y1, x2, y2 = encode_mask(inside, [0, 0, inside.shape[1], inside.shape[0]])
    left, top, _, _ = item.box
    return [*runs, x1 + left, y1 + top, x2 + left, y2 + top]


def _confidence(item: FoundObject) -> list[models.AttributeValRequest]:
    if item.score is None:
        return []
    kind = cvat.InteractionResultAttributes.CONFIDENCE
    return [models.AttributeValRequest(spec_id=int(kind), value=f"{item.score:.4f}")]


def _shown(error: OsamdError) -> cvat.BadFunctionError:
    """The only exception whose text reaches the user; all others become "Unknown error"."""
    return cvat.BadFunctionError(f"osamd: {error}")
