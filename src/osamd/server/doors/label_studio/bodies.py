"""Requests of Label Studio: bytes in, what to segment out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from osamd.errors import InvalidPromptError, InvalidRequestError
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model
from osamd.server.asks import Ask
from osamd.server.bodies import RawBody
from osamd.server.doors.label_studio.config import IMAGE, Config, Output, read_config
from osamd.server.doors.label_studio.kept import negative_in
from osamd.server.guard.label_studio import FIELD as IMAGES
from osamd.server.guard.negative_regions import NegativeRegions
from osamd.settings import Settings
from osamd.wire.base64_text import decode_base64
from osamd.wire.fields import LONGEST_LIST, LONGEST_SIDE, number
from osamd.wire.json_bodies import MOST_BYTES, from_json
from osamd.wire.pieces import as_utf8
from osamd.wire.schemas import LONGEST_URL
from osamd.wire.skipping import without_values
from osamd.wire.tool_fields import ToolModel, prompt_of

# Lists of all that is finished on a task, which grow with every mask.
UNREAD: Final = ("annotations", "drafts", "predictions")
# Addresses are short: no string is read as base64.
NO_BASE64: Final = re.compile(rb"(?!)")
POINTS_OF_A_STROKE: Final = 5
PERCENT: Final = 100.0
BYTE: Final = 255
DATA_URI: Final = "data:"
# Of tasks and regions; Label Studio's have ten characters.
LONGEST_ID: Final = 256

Kind = Literal["segment", "prewarm", "nothing", "one_by_one"]


class Region(ToolModel):
    """Something that the user has drawn."""

    id: StrictStr = Field(default="", max_length=LONGEST_ID)
    type: StrictStr = ""
    value: dict[str, Any] = Field(default_factory=dict)
    is_positive: StrictBool | None = None
    to_name: StrictStr | None = None
    original_width: StrictInt | None = Field(default=None, ge=1, le=LONGEST_SIDE)
    original_height: StrictInt | None = Field(default=None, ge=1, le=LONGEST_SIDE)


class Context(ToolModel):
    """What the user has drawn, or an event."""

    result: list[Region] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    event: StrictStr | None = None


class Params(ToolModel):
    """Of an interactive call."""

    context: Context | None = None


class Task(ToolModel):
    """A task: its image's address is in the field of ``data`` that the labelling configuration names."""

    id: StrictInt | Annotated[StrictStr, Field(max_length=LONGEST_ID)] | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class PredictBody(ToolModel):
    """Body of ``predict``."""

    tasks: list[Task] = Field(max_length=LONGEST_LIST, fail_fast=True)
    label_config: StrictStr | None = None
    params: Params | None = None


class SetupBody(ToolModel):
    """Body of ``setup``. Its address and token of Label Studio are not read."""


@dataclass(frozen=True, slots=True)
class How:
    """What the reply needs to know.

    Attributes:
        kind: what to do: segment, encode the image, or answer without either.
        task: the task's id.
        output: where results are put; None if nothing is segmented.
        label: the label of results; None if it depends on their text.
    """

    kind: Kind
    task: str = ""
    output: Output | None = None
    label: str | None = None


def prediction(body: RawBody, settings: Settings, *, model: Model, negative: NegativeRegions, owner: str) -> Ask[How]:
    """What a request asks for.

    Args:
        body: the body; it is emptied.
        settings: the limits.
        model: the model in the path.
        negative: which regions were negative before a reload.
        owner: the key's name.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
        InvalidPromptError: the prompt is empty, or a limit is exceeded.
    """
    raw = b"".join(body.chunks)
    # Otherwise the body would be in memory twice while it is parsed.
    body.chunks.clear()
    fields = from_json(_without_finished(raw), PredictBody, base64_key=NO_BASE64, longest_string=MOST_BYTES)
    context = (fields.params or Params()).context or Context()
    texts = model.capabilities.texts
    if context.event == "prewarm" and fields.tasks:
        config = read_config(fields.label_config or "")
        return _on_image(fields.tasks[0], next(iter(config.images.values())), How("prewarm"), model)
    if context.result and fields.tasks:
        task, config = fields.tasks[0], read_config(fields.label_config or "")
        signs = _signs(raw, task, context.result, negative, owner)
        return _interactive(task, list(zip(context.result, signs, strict=True)), config, model, settings)
    if not fields.tasks or not texts:
        return Ask(image=None, how=How("nothing"))
    if len(fields.tasks) > 1:
        # Label Studio then sends one after the other, each with its own deadline.
        return Ask(image=None, how=How("one_by_one"))
    return _words(fields.tasks[0], read_config(fields.label_config or ""), model, settings)


def checked_json(body: RawBody, _: Settings) -> None:
    """Refuse a body that is not a JSON object.

    Raises:
        InvalidRequestError: it is not.
    """
    raw = b"".join(body.chunks)
    body.chunks.clear()
    from_json(raw, SetupBody, base64_key=NO_BASE64, longest_string=MOST_BYTES)


def _without_finished(raw: bytes) -> bytes:
    try:
        raw, start = as_utf8(raw)
    except UnicodeDecodeError:
        # Refused by the parser.
        return raw
    return without_values(raw[start:], UNREAD)


def _signs(raw: bytes, task: Task, regions: Sequence[Region], negative: NegativeRegions, owner: str) -> list[bool]:
    """Whether each region includes or excludes; after a reload, those drawn before no longer say so."""
    name = _name_of(task)
    signs = [_sign(region) for region in regions]
    unsigned = {region.id for region, sign in zip(regions, signs, strict=True) if sign is None}
    known = negative.among(owner, name, unsigned)
    if unsigned - known:
        known |= unsigned & negative_in(raw)
    signs = [region.id not in known if sign is None else sign for region, sign in zip(regions, signs, strict=True)]
    negative.remember(owner, name, [region.id for region, sign in zip(regions, signs, strict=True) if not sign])
    return [bool(sign) for sign in signs]


def _name_of(task: Task) -> str:
    return "" if task.id is None else str(task.id)


def _on_image(task: Task, name: str, how: How, model: Model, **more: Any) -> Ask[How]:
    address = task.data.get(name)
    if not isinstance(address, str) or not address:
        raise InvalidRequestError("expected the address of an image", field=f"{IMAGES}.{name or IMAGE}")
    found = How(how.kind, _name_of(task), how.output, how.label)
    field = f"{IMAGES}.{name}"
    if address.startswith(DATA_URI):
        image = ImageSource.of_bytes(decode_base64(address, field=field))
        return Ask(image=image, how=found, model=model.name, **more)
    if len(address) > LONGEST_URL:
        raise InvalidRequestError(f"expected an address of at most {LONGEST_URL:,} characters", field=field)
    fields = {"image_url": field, IMAGES: field}
    return Ask(image=None, image_url=address, how=found, model=model.name, fields=fields, **more)


def _words(task: Task, config: Config, model: Model, settings: Settings) -> Ask[How]:
    output = config.output_for(None, has_masks=model.capabilities.masks)
    prompt = prompt_of(settings, field="label_config", texts=list(output.texts), parts={"texts": "label_config"})
    how = How("segment", output=output)
    return _on_image(task, config.images[output.to_name], how, model, prompts=(prompt,), refinable=False)


def _interactive(
    task: Task, regions: Sequence[tuple[Region, bool]], config: Config, model: Model, settings: Settings
) -> Ask[How]:
    # Regions of the same kind and label, the newest last.
    label = _label_of(regions[-1][0])
    output = config.output_for(label, has_masks=model.capabilities.masks)
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    paths: dict[str, list[str]] = {"points": [], "boxes": []}
    for index, (region, sign) in enumerate(regions):
        path = f"params.context.result[{index}]"
        drawn = _drawn(region, path, settings)
        points += drawn.points
        paths["points"] += [path] * len(drawn.points)
        paths["boxes"] = [path] if drawn.box is not None else paths["boxes"]
        labels += [int(sign)] * len(drawn.points)
        boxes = [drawn.box] if drawn.box is not None else boxes
    prompt = prompt_of(settings, field="params.context.result", points=points, labels=labels, boxes=boxes, parts=paths)
    how = How("segment", output=output, label=label)
    return _on_image(
        task,
        config.images[output.to_name],
        how,
        model,
        prompts=(prompt,),
        needs_masks=model.capabilities.masks,
        refinable=False,
        clip=True,
    )


def _label_of(region: Region) -> str | None:
    for name in (region.type, "labels"):
        found = region.value.get(name)
        if isinstance(found, list) and found and isinstance(found[0], str):
            return found[0]
    return None


def _sign(region: Region) -> bool | None:
    """Whether a region includes; None if it does not say so."""
    if region.is_positive is not None:
        return region.is_positive
    given = region.value.get("positive")
    return given if isinstance(given, bool) else None


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A region as a prompt, in pixels: points, or a box."""

    points: list[tuple[float, float]]
    box: tuple[float, float, float, float] | None = None


def _drawn(region: Region, field: str, settings: Settings) -> _Drawn:
    width, height, value = region.original_width, region.original_height, region.value
    if width is None or height is None:
        raise InvalidRequestError("expected original_width and original_height", field=field)

    def pixels(x: Any, y: Any) -> tuple[float, float]:
        try:
            return number(x) * width / PERCENT, number(y) * height / PERCENT
        except ValueError:
            raise InvalidPromptError("expected x and y in percent", field=f"{field}.value") from None

    if "rle" in value:
        return _Drawn(_points_of_stroke(value["rle"], width, height, f"{field}.value.rle", settings))
    if isinstance(corners := value.get("points"), list) and corners:
        # A polygon: the box around it.
        found = [pixels(*pair) for pair in corners if isinstance(pair, list) and len(pair) == 2]  # noqa: PLR2004
        if not found:
            raise InvalidPromptError("expected points", field=f"{field}.value.points")
        (xs, ys) = zip(*found, strict=True)
        return _Drawn([], (min(xs), min(ys), max(xs), max(ys)))
    if "x" not in value or "y" not in value:
        raise InvalidPromptError(
            "expected key points, boxes, ellipses, polygons or brush strokes", field=f"{field}.value"
        )
    x, y = pixels(value["x"], value["y"])
    if "radiusX" in value:
        across, down = pixels(value["radiusX"], value.get("radiusY"))
        return _Drawn([], (x - across, y - down, x + across, y + down))
    if "height" in value:
        across, down = pixels(value.get("width"), value["height"])
        return _Drawn([], (x, y, x + across, y + down))
    return _Drawn([(x, y)])


def _points_of_stroke(runs: Any, width: int, height: int, field: str, settings: Settings) -> list[tuple[float, float]]:
    """Points along a brush stroke: as a mask to refine, it would itself be taken for the object."""
    from osamd.pixels.brush import decode_brush, points_in

    if width * height > settings.max_image_pixels:
        raise InvalidRequestError("the image has more pixels than the server takes", field=field)
    if not isinstance(runs, list) or not all(type(byte) is int and 0 <= byte <= BYTE for byte in runs):
        raise InvalidRequestError("expected a list of bytes", field=field)
    stroke = decode_brush(bytes(runs), height=height, width=width)
    if stroke is None:
        raise InvalidPromptError("the brush stroke is empty", field=field)
    return [(float(x), float(y)) for x, y in points_in(stroke, most=POINTS_OF_A_STROKE)]
