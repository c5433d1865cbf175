"""Examples for the interactive API docs; they work unchanged, with the built-in model."""

import base64
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel

from osamd.wire.schemas import GenerateBody

JSON = "application/json"


@cache
def example_image() -> str:
    """A photo of a cat, 150 x 100 pixels, JPEG in base64.

    By Stefan van der Walt, CC0, from the samples of scikit-image.
    """
    photo = resources.files("osamd.server").joinpath("docs", "cat-small.jpg").read_bytes()
    return base64.b64encode(photo).decode("ascii")


def body_documentation(schema: type[BaseModel]) -> dict[str, Any]:
    """The ``requestBody`` of a route that takes JSON, multipart and bare images."""
    image = {"image": example_image()}
    examples: dict[str, Any] = {"a photo": {"value": image}}
    fields: dict[str, Any] = {"image": {"type": "string", "format": "binary"}, "model": {"type": "string"}}
    if schema is GenerateBody:
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
    reference = f"#/components/schemas/{schema.__name__}"
    return {
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"$ref": reference}, "examples": examples},
                "multipart/form-data": {"schema": {"type": "object", "properties": fields}},
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


def json_documentation(schema: type[BaseModel]) -> dict[str, Any]:
    """The ``requestBody`` of a route that names a model."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": reference, "example": {"model": "efficientsam:10m"}}},
        }
    }
