"""Fields as other tools send them: unknown ones are ignored, and prompts need not be tidy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from pydantic import ConfigDict

from osamd.errors import InvalidPromptError
from osamd.settings import Settings
from osamd.types import Prompt
from osamd.wire.fields import WireModel
from osamd.wire.prompt_schema import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PromptSchema

Numbers = Sequence[float]

CORNERS: Final = (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT)
# A part of a prompt in an error's field.
PART: Final = re.compile(r"\.(\w+)(?:\[(\d+)\])?")


class ToolModel(WireModel):
    """Base class of a tool's objects. Newer versions of the tool may add fields, so unknown ones are ignored."""

    # Built on first use: it takes milliseconds, for which /health must not wait.
    model_config = ConfigDict(extra="ignore", defer_build=True)


def prompt_of(
    settings: Settings,
    *,
    field: str,
    points: Sequence[Numbers] = (),
    labels: Sequence[int] = (),
    boxes: Sequence[Numbers] = (),
    texts: Sequence[str] = (),
    iou_threshold: float | None = None,
    score_threshold: float | None = None,
    max_annotations: int | None = None,
    parts: Mapping[str, str | Sequence[str]] | None = None,
) -> Prompt:
    """The engine's prompt, with sorted boxes; segment it with ``clip``.

    Args:
        settings: the limits.
        field: path of the prompt in the tool's request, for messages.
        points: x and y of each, in pixels.
        labels: 1 foreground or 0 background, one per point.
        boxes: two opposite corners of each, in any order: x1, y1, x2, y2.
        texts: text prompts.
        iou_threshold: as in ``Prompt``, like the following; None for its default.
        score_threshold: 0..1.
        max_annotations: maximum number of objects.
        parts: as in ``Prompt``: where the tool sends points, boxes and texts, if not below ``field``.

    Raises:
        InvalidPromptError: it is empty, or a limit is exceeded.
    """
    if not (points or boxes or texts):
        raise InvalidPromptError("the prompt is empty: expected points, a box or text", field=field)
    named = Prompt(field=field, parts=parts or {})
    schema = PromptSchema.model_construct(
        points=[*map(list, points), *(list(corner) for box in boxes for corner in (box[:2], box[2:]))],
        point_labels=[*labels, *(CORNERS * len(boxes))],
        texts=list(texts),
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_annotations=max_annotations,
    )
    try:
        return replace(schema.to_prompt(settings, field), parts=named.parts)
    except InvalidPromptError as error:
        part = PART.fullmatch((error.field or "").removeprefix(field))
        if part is None:
            raise
        where = named.path(part[1], None if part[2] is None else int(part[2]))
        raise InvalidPromptError(str(error), field=where) from None
