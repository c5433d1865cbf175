"""pydantic's errors as one of osamd's, with the path of the field."""

from collections.abc import Sequence
from typing import Any

from osamd.errors import InvalidRequestError, shown
from osamd.wire.embedding_schema import BASE64, LISTS
from osamd.wire.everything import PARAMETERS, SWITCH


def invalid_request(problems: Sequence[Any]) -> InvalidRequestError:
    """The first of pydantic's errors, with the field as a path such as ``prompt.points[0][1]``."""
    problem = problems[0]
    path = ""
    for step in problem["loc"]:
        if step in {LISTS, BASE64, SWITCH, PARAMETERS}:
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown field"
    elif problem["type"] == "model_type":
        # pydantic's message names our class.
        message = "expected true, false or an object" if PARAMETERS in problem["loc"] else "expected an object"
    elif problem["type"] == "json_invalid":
        message = f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}"
    return InvalidRequestError(f"{shown(path)}: {message}" if path else message, field=path or None)
