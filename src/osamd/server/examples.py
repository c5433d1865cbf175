"""Examples for the interactive API docs; they work unchanged, with the built-in model. Not imported by servers."""

import base64
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel

from osamd.server.operations import JSON
from osamd.wire.management import ModelBody
from osamd.wire.schemas import EmbedBody, GenerateBody


@cache
def example_image() -> str:
    """A photo of a cat, 150 x 100 pixels, JPEG in base64.

    By Stefan van der Walt, CC0, from the samples of scikit-image.
    """
    photo = resources.files("osamd.server").joinpath("docs", "cat-small.jpg").read_bytes()
    return base64.b64encode(photo).decode("ascii")


def body_documentation(body: type[BaseModel], reference: dict[str, str]) -> dict[str, Any]:
    """The ``requestBody`` of a route.

    Args:
        body: what it takes.
        reference: to the schema of that.
    """
    content: dict[str, Any] = {JSON: {"schema": reference}}
    if issubclass(body, ModelBody):
        content[JSON]["example"] = {"model": "efficientsam:10m"}
    elif body in {EmbedBody, GenerateBody}:
        content = _with_image(body, reference)
    return {"required": True, "content": content}


def _with_image(body: type[BaseModel], reference: dict[str, str]) -> dict[str, Any]:
    """The forms of a body that may also be multipart or a bare image."""
    image = {"image": example_image()}
    examples: dict[str, Any] = {"a photo": {"value": image}}
    fields: dict[str, Any] = {"image": {"type": "string", "format": "binary"}, "model": {"type": "string"}}
    if body is GenerateBody:
        examples = {
            "a click": {"value": {"prompt": {"points": [[75, 50]], "point_labels": [1]}, **image}},
            "a box": {"value": {"prompt": {"box": [1, 1, 130, 99]}, "mask_format": "polygon", **image}},
            "the seed document's spelling": {
                "value": {
                    "model_id": "builtin",
                    "prompt": {"points": [[75, 50]], "labels": [1]},
                    "image_base64": example_image(),
                }
            },
        }
        texts = {"type": "array", "items": {"type": "string"}}
        fields |= {
            "request": {"type": "string", "description": "The JSON body, instead of the plain fields below."},
            "point": texts | {"description": "x,y"},
            "background": texts | {"description": "x,y"},
            "box": {"type": "string", "description": "x1,y1,x2,y2"},
            "text": texts,
        }
    return {
        JSON: {"schema": reference, "examples": examples},
        "multipart/form-data": {"schema": {"type": "object", "properties": fields}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    }
