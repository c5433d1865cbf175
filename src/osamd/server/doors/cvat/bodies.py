"""Requests of CVAT's server: bytes in, what to segment out."""

from pydantic import Field

from osamd.errors import InvalidPromptError
from osamd.image_sources import ImageSource
from osamd.server.asks import Ask
from osamd.server.bodies import RawBody
from osamd.server.doors.cvat.functions import FUNCTION_HEADER, Function
from osamd.settings import Settings
from osamd.types import Prompt
from osamd.wire.base64_text import Base64Text, decode_base64
from osamd.wire.fields import LONGEST_LIST, Fraction
from osamd.wire.json_bodies import from_json
from osamd.wire.prompt_schema import Point
from osamd.wire.tool_fields import ToolModel, prompt_of

CORNERS = 2


class InvokeBody(ToolModel):
    """Body of ``/api/function_invocations``."""

    image: Base64Text = Field(description="An encoded image in base64.")
    pos_points: list[Point] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    neg_points: list[Point] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    obj_bbox: list[Point] | None = Field(
        default=None, max_length=CORNERS, fail_fast=True, description="Two opposite corners, or empty."
    )
    threshold: Fraction | None = Field(default=None, description="Detectors: objects with a lower score are left out.")

    def to_prompt(self, function: Function, settings: Settings) -> Prompt:
        """The engine's prompt.

        Raises:
            InvalidPromptError: it is empty, or a limit is exceeded.
        """
        if function.texts:
            # The operator's words.
            field = FUNCTION_HEADER
            return prompt_of(
                settings, field=field, texts=function.texts, score_threshold=self.threshold, parts={"texts": field}
            )
        inside, outside, corners = self.pos_points or [], self.neg_points or [], self.obj_bbox or []
        if len(corners) not in {0, CORNERS}:
            raise InvalidPromptError("expected two corners", field="obj_bbox")
        return prompt_of(
            settings,
            field="pos_points",
            parts={
                "points": [
                    *(f"pos_points[{index}]" for index in range(len(inside))),
                    *(f"neg_points[{index}]" for index in range(len(outside))),
                ],
                "boxes": "obj_bbox",
            },
            points=[*inside, *outside],
            labels=[1] * len(inside) + [0] * len(outside),
            boxes=[[*corners[0], *corners[1]]] if corners else [],
        )


def invocation(body: RawBody, settings: Settings, *, function: Function) -> Ask[None]:
    """What a call of a function asks for.

    Raises:
        InvalidRequestError: the body has the wrong form; the message names the field.
        InvalidPromptError: the prompt is empty, or a limit is exceeded.
    """
    raw = b"".join(body.chunks)
    # Otherwise the body would be in memory twice while it is parsed.
    body.chunks.clear()
    fields = from_json(raw, InvokeBody)
    return Ask(
        image=ImageSource.of_bytes(decode_base64(fields.image, field="image")),
        how=None,
        model=function.model.name,
        prompts=(fields.to_prompt(function, settings),),
        needs_masks=not function.texts,
        refinable=False,
        clip=True,
        fields={"model": FUNCTION_HEADER},
    )
