"""Python and pydantic take True for 1. A request that has a boolean where a number belongs is wrong, and is refused."""

import base64
import importlib
import json
import pkgutil
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

import osamd.server.doors
import osamd.wire
from osamd.batch.prompts import everything_of
from osamd.errors import InvalidPromptError, InvalidRequestError
from osamd.wire.fields import WireModel
from osamd.wire.json_bodies import from_json
from osamd.wire.nested_lists import respell
from osamd.wire.plain_fields import body_from_pairs
from osamd.wire.schemas import GenerateBody

# As in osam: true is foreground.
ALLOWED: Final = {("PromptSchema", "point_labels")}


def bodies() -> list[type[BaseModel]]:
    """The schemas of all requests, those of other tools too."""
    for package in (osamd.wire, osamd.server.doors):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, waiting = [], [WireModel]
    while waiting:
        schema = waiting.pop()
        found.append(schema)
        waiting += schema.__subclasses__()
    return sorted(found, key=lambda schema: schema.__qualname__)


def with_true(schema: Mapping[str, Any]) -> Any:
    """A value with True in the place of each number, or None if the field has no numbers."""
    if schema.get("type") in {"integer", "number"}:
        return True
    if schema.get("type") == "array":
        inner = with_true(schema.get("items", {}))
        return None if inner is None else [inner] * schema.get("minItems", 1)
    options = [with_true(option) for option in schema.get("anyOf", schema.get("oneOf", ()))]
    return next((option for option in options if option is not None), None)


def test_every_field_of_every_request() -> None:
    """The error is the field's own."""
    accepted, checked = [], 0
    for body in bodies():
        for name, field in body.model_json_schema().get("properties", {}).items():
            value = with_true(field)
            options = [field, *field.get("anyOf", ())]
            takes_booleans = any(option.get("type") == "boolean" for option in options)
            if value is None or takes_booleans or (body.__name__, name) in ALLOWED:
                continue
            checked += 1
            try:
                body.model_validate({name: value})
            except ValidationError as error:
                if name in {problem["loc"][0] for problem in error.errors()}:
                    continue
            accepted.append(f"{body.__module__}.{body.__qualname__}.{name}")
    assert not accepted
    assert checked > 40


def test_limits_are_json_schemas_own() -> None:
    """Behind a validator, pydantic writes its own words for them, which no client of OpenAPI knows."""
    for body in bodies():
        assert not re.findall(r'"(?:ge|gt|le|lt)":', json.dumps(body.model_json_schema())), body


def test_the_message_says_what_was_expected() -> None:
    """In JSON, in plain fields and in Segmenter's prompts."""
    with pytest.raises(InvalidRequestError, match=r"everything\.max_masks: expected a whole number"):
        from_json(b'{"prompt": {"everything": {"max_masks": true}}}', GenerateBody)
    with pytest.raises(InvalidRequestError, match=r"everything\.max_masks: expected a whole number"):
        body_from_pairs([("everything", '{"max_masks": true}')])
    with pytest.raises(InvalidPromptError, match=r"everything\.points_per_side: expected a whole number"):
        everything_of({"everything": {"points_per_side": 1.5}})


@pytest.mark.parametrize(("value", "number"), [(7, 7), (7.0, 7), ("7", 7), (" 7 ", 7)])
def test_whole_numbers_in_other_spellings_stay_allowed(value: object, number: int) -> None:
    """As before."""
    everything = everything_of({"everything": {"max_masks": value}})
    assert everything is not None
    assert everything.max_masks == number


def test_booleans_in_an_embedding_are_refused() -> None:
    """Embeddings as nested lists are read by a parser of their own first."""
    lists = [[[0.5, True]]]
    assert respell(json.dumps(lists).encode(), 0) is None
    embedding = {"original_height": 1, "original_width": 2, "embedding": lists}
    with pytest.raises(InvalidRequestError, match=r"image_embedding\.embedding\[0\]\[0\]\[1\]"):
        from_json(json.dumps({"image_embedding": embedding}).encode(), GenerateBody)
    whole = respell(b"[[[1, 2.5e-1, -3]]]", 0)
    assert whole is not None
    assert np.frombuffer(base64.b64decode(whole.base64), np.float32).tolist() == [1, 0.25, -3]
