"""What the client of X-AnyLabeling's Remote Server calls, at ``/x-anylabeling``; version 4.2."""

import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Final, TypeVar

from pydantic import Field, StrictStr
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from osamd.errors import InvalidPromptError, InvalidRequestError, UnknownModelError, shown
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model
from osamd.library.families import is_detector, is_segmenter
from osamd.library.library import Library
from osamd.segment_requests import SegmentResult
from osamd.server.answering import answer
from osamd.server.asks import Ask, Content
from osamd.server.bodies import RawBody
from osamd.server.door import Door, json_errors
from osamd.server.operations import Operation, Operations
from osamd.server.problems import IMAGE_ERRORS
from osamd.server.services import caller_of, services_of, timings_of
from osamd.settings import Settings
from osamd.types import Annotation, Capabilities, Prompt
from osamd.wire.base64_text import Base64Text, decode_base64
from osamd.wire.fields import LONGEST_LIST, Fraction, Number
from osamd.wire.json_bodies import from_json
from osamd.wire.json_pieces import ReplyPieces, Room, pairs
from osamd.wire.mask_values import crossings
from osamd.wire.replies import BYTES_PER_CROSSING
from osamd.wire.tool_fields import ToolModel, prompt_of

NAME: Final = "x-anylabeling"
# The client asks for the name of an object with this label; others it keeps.
UNNAMED: Final = "AUTOLABEL_OBJECT"
POINT, RECTANGLE = "point", "rectangle"
COORDINATES: Final = {POINT: 2, RECTANGLE: 4}
MOST_OBJECTS: Final = 1000
# The client picks the first model by itself: one for clicks, the most accurate family first.
FAMILIES: Final = ("sam2", "sam", "efficientsam", "builtin", "sam3", "yoloworld")
# Values the client's fields begin with: scores of SAM 3 and YOLO-World differ.
SCORE, DETECTOR_SCORE, OVERLAP = 0.5, 0.1, 0.5
# Of the client's slider, from 1 to 100; 10 is an epsilon_factor of 0.001.
FINENESS: Final = 10

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Click:
    """A point, and its path in the request."""

    place: list[float]
    label: int
    path: str


@dataclass(slots=True)
class _Object:
    """What is marked of an object: rectangles and points, and the rectangles' paths."""

    boxes: list[list[float]] = dataclass_field(default_factory=list)
    paths: list[str] = dataclass_field(default_factory=list)
    clicks: list[_Click] = dataclass_field(default_factory=list)

    def to_prompt(self, settings: Settings, **more: Any) -> Prompt:
        """The engine's prompt, with more of it."""
        return prompt_of(
            settings,
            field="params.marks" if self.boxes or self.clicks else "params.text_prompt",
            points=[click.place for click in self.clicks],
            labels=[click.label for click in self.clicks],
            boxes=self.boxes,
            parts={
                "points": [click.path for click in self.clicks] or "params.marks",
                "boxes": self.paths or "params.marks",
                "texts": "params.text_prompt",
            },
            **more,
        )


operations = Operations("/x-anylabeling/v1")


class Mark(ToolModel):
    """A click or a rectangle."""

    type: StrictStr = Field(description="`point` or `rectangle`.")
    data: list[Number] = Field(max_length=4, fail_fast=True, description="x, y, or x1, y1, x2, y2 in any order.")
    label: Fraction = 1.0


class Params(ToolModel):
    """What the client's fields are set to."""

    marks: list[Mark] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    text_prompt: StrictStr | None = Field(default=None, description="Words, separated by commas, else by full stops.")
    conf_threshold: Fraction = 0.0
    iou_threshold: Fraction = 0.0
    epsilon_factor: Fraction = 0.001

    def texts(self) -> list[str]:
        """The words to look for."""
        given = self.text_prompt or ""
        return [text.strip() for text in given.split("," if "," in given else ".") if text.strip()]


class PredictBody(ToolModel):
    """Body of ``/v1/predict``."""

    model: StrictStr
    image: Base64Text
    params: Params = Field(default_factory=Params)


@dataclass(frozen=True, slots=True)
class How:
    """What the reply depends on.

    Attributes:
        epsilon_factor: tolerance of outlines, as a share of their lengths.
        has_texts: whether objects are named by the words that found them.
    """

    epsilon_factor: float
    has_texts: bool


@operations.get("/models", Operation("Models"))
async def models(request: Request) -> JSONResponse:
    """The models that this key may use, with the widgets of each: those on this server first, the best ahead.

    No model is loaded for it. The client asks again at every change of model or widget, and waits.
    """
    found = await _listed(request)
    return _success({model.name: _described(model, is_here=is_here) for model, is_here in found})


@operations.get("/models/{model_id}/info", Operation("A model", errors=(UnknownModelError,)))
async def model_info(request: Request) -> JSONResponse:
    """What `/v1/models` has of one model."""
    library = services_of(request).library
    model = library.resolve(request.path_params["model_id"])
    shelf = await services_of(request).answers.shelf()
    is_here = await _on_thread(request, functools.partial(shelf.is_present, model))
    return _success({"model_id": model.name, **_described(model, is_here=is_here)})


@operations.post(
    "/predict", Operation("Clicks, rectangles, words", body=PredictBody, errors=(*IMAGE_ERRORS, InvalidPromptError))
)
async def predict(request: Request) -> Response:
    """The shapes that marks or words select: polygons, or rectangles of models that only find boxes.

    Without either, the image is encoded ahead of its first click, and there are no shapes.
    """
    return await answer(request, functools.partial(_ask, services_of(request).library), _write)


async def _listed(request: Request) -> list[tuple[Model, bool]]:
    """Models, and whether they are on this server; the others may be pulled by this caller."""
    library, is_admin = services_of(request).library, caller_of(request).is_admin
    shelf = await services_of(request).answers.shelf()

    def look() -> list[tuple[Model, bool]]:
        sizes = {model.name: shelf.size(model) for model in library.catalog}
        ranked = sorted(library.catalog, key=lambda model: (_rank(model), -(sizes[model.name] or 0)))
        here = [model for model in ranked if sizes[model.name] is not None]
        absent = [model for model in ranked if sizes[model.name] is None and is_admin and library.pulls.may_pull(model)]
        return [*((model, True) for model in [*here, *_chain(library, here)]), *((model, False) for model in absent)]

    return await _on_thread(request, look)


def _rank(model: Model) -> int:
    return len(FAMILIES) if model.parts else FAMILIES.index(model.family)


def _chain(library: Library, ranked: Sequence[Model]) -> list[Model]:
    """The best detector and the best segmenter as one model, which makes masks of words; none if one is listed."""
    if any(model.parts for model in ranked):
        return []
    detector = next((model.name for model in ranked if is_detector(model.family)), None)
    segmenter = next((model.name for model in ranked if is_segmenter(model.family)), None)
    return [] if detector is None or segmenter is None else [library.resolve(f"{detector}+{segmenter}")]


async def _on_thread(request: Request, work: Callable[[], Result]) -> Result:
    pools, timings = services_of(request).pools, timings_of(request)
    return await pools.parse(work, timings, owner=caller_of(request).name)


def _success(data: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"success": True, "data": data})


def _described(model: Model, *, is_here: bool) -> dict[str, Any]:
    can = model.capabilities
    return {
        "display_name": model.name if is_here else f"{model.name} (downloaded at first use)",
        # None: the client runs a click on one image only, not on all.
        "batch_processing_mode": "text_prompt" if can.texts else None,
        "capabilities": {},
        "params": {},
        "widgets": [*_widgets(can)],
    }


def _widgets(can: Capabilities) -> Iterator[dict[str, Any]]:
    """The client's widgets for what a model takes."""
    plain = []
    if can.points:
        plain += ["button_add_point", "button_remove_point", "button_add_rect"]
    elif can.boxes:
        plain += ["add_pos_rect", "button_run_rect"]
    if can.points or can.boxes:
        plain += ["button_clear", "button_finish_object"]
    yield from ({"name": name, "value": None} for name in plain)
    if can.texts:
        yield {"name": "edit_text", "value": None, "placeholder": "cat, dog"}
        yield {"name": "button_send", "value": None}
        yield {"name": "input_conf", "value": None}
        # SAM 3 finds its objects itself; detectors need a lower score, and drop boxes that overlap.
        is_detecting = can.points or not can.masks
        yield {"name": "edit_conf", "value": DETECTOR_SCORE if is_detecting else SCORE}
        if is_detecting:
            yield {"name": "input_iou", "value": None}
            yield {"name": "edit_iou", "value": OVERLAP}
        yield {"name": "toggle_preserve_existing_annotations", "value": True}
    if can.masks:
        yield {"name": "mask_fineness_slider", "value": FINENESS}
        yield {"name": "mask_fineness_value_label", "value": None}


def _ask(library: Library, body: RawBody, settings: Settings) -> Ask[How]:
    raw = b"".join(body.chunks)
    body.chunks.clear()
    fields = from_json(raw, PredictBody)
    texts = fields.params.texts()
    can = library.resolve(fields.model).capabilities
    prompts = tuple(_prompts(fields.params, texts, can, settings))
    if len(prompts) > settings.max_prompts:
        raise InvalidPromptError(f"expected at most {settings.max_prompts}, got {len(prompts)}", field="params.marks")
    return Ask(
        image=ImageSource.of_bytes(decode_base64(fields.image, field="image")),
        how=How(fields.params.epsilon_factor, has_texts=bool(texts)),
        model=fields.model,
        prompts=prompts,
        refinable=False,
        clip=True,
    )


def _prompts(params: Params, texts: Sequence[str], can: Capabilities, settings: Settings) -> Iterator[Prompt]:
    """One prompt for the words, or for each object that is marked."""
    marked = _sorted_marks(params.marks or ())
    if texts or (marked.boxes and can.boxes > 1):
        # Boxes are examples of what to find. A client without fields for the thresholds sends 0.
        yield marked.to_prompt(
            settings,
            texts=texts,
            score_threshold=params.conf_threshold or None,
            iou_threshold=params.iou_threshold or None,
            max_annotations=MOST_OBJECTS,
        )
        return
    objects = [_Object([box], [path]) for box, path in zip(marked.boxes, marked.paths, strict=True)]
    # Of several rectangles, each is an object of its own: a click belongs to those it is in, or else to another object.
    single = len(objects) == 1
    apart = _Object()
    for click in marked.clicks:
        own = [found for found in objects if single or _is_inside(click.place, found.boxes[0])]
        for found in own or [apart]:
            found.clicks.append(click)
    if any(click.label for click in apart.clicks) or not objects:
        objects.append(apart)
    for found in objects:
        if found.boxes or found.clicks:
            yield found.to_prompt(settings)


def _sorted_marks(marks: Sequence[Mark]) -> _Object:
    """Clicks, and rectangles as x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, all as one object."""
    found = _Object()
    for index, mark in enumerate(marks):
        field = f"params.marks[{index}]"
        if mark.type not in COORDINATES:
            raise InvalidRequestError(f"expected point or rectangle, got {shown(mark.type)}", field=f"{field}.type")
        if len(mark.data) != COORDINATES[mark.type]:
            raise InvalidRequestError(
                f"expected {COORDINATES[mark.type]} numbers for a {mark.type}, got {len(mark.data)}",
                field=f"{field}.data",
            )
        if mark.type == POINT:
            found.clicks.append(_Click(mark.data, int(mark.label), field))
        elif not mark.label:
            raise InvalidPromptError(
                "rectangles that exclude are not supported: remove this one, or exclude with a point",
                field=f"{field}.label",
            )
        else:
            x1, y1, x2, y2 = mark.data
            found.boxes.append([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])
            found.paths.append(field)
    return found


def _is_inside(place: Sequence[float], box: Sequence[float]) -> bool:
    return box[0] <= place[0] <= box[2] and box[1] <= place[1] <= box[3]


def _write(result: SegmentResult, ask: Ask[How], _: Settings, room: Room) -> Generator[None, None, Content]:
    pieces = ReplyPieces(room)
    pieces.add(b'{"success":true,"data":{"shapes":[')
    separators = itertools.chain([b""], itertools.repeat(b","))
    for found in result.annotations:
        yield
        if found.mask is not None:
            pieces.expect(BYTES_PER_CROSSING * crossings(found.mask))
        yield from pieces.add_all(_shapes(found, ask.how, separators))
    # Without a value the client's own switch decides whether existing shapes are kept. Clicks never remove any.
    replace = None if ask.how.has_texts else False
    pieces.add(b'],"description":"","replace":' + to_json(replace) + b"}}")
    return Content(pieces.all())


def _shapes(found: Annotation, how: How, separators: Iterator[bytes]) -> Iterator[bytes]:
    import numpy as np

    from osamd.pixels.outlines import outlines

    label = found.text if how.has_texts and found.text else UNNAMED
    if found.mask is None:
        box = found.box
        xs, ys = [box.xmin, box.xmax, box.xmax, box.xmin], [box.ymin, box.ymin, box.ymax, box.ymax]
        rings, kind = [np.stack([xs, ys], axis=1)], RECTANGLE
    else:
        # The client takes a repeated first vertex for the end of a polygon.
        rings, kind = (
            [np.concatenate([outline, outline[:1]]) for outline in outlines(found.mask, factor=how.epsilon_factor)],
            "polygon",
        )
    for ring in rings:
        yield (
            next(separators) + to_json({"label": label, "shape_type": kind, "score": found.score})[:-1] + b',"points":'
        )
        yield from pairs(ring)
        yield b"}"


DOOR = Door(
    name=NAME,
    summary="What X-AnyLabeling's Remote Server model calls.",
    paths=("/x-anylabeling/",),
    operations=operations,
    write_error=json_errors(
        key_advice="the API key is missing or wrong: set api_key of remote_server_settings in X-AnyLabeling"
    ),
)
