"""Writes the OpenAPI 3.1 document of routes. Imported by ``make docs`` and tests only: servers ship it as a file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from typing import Any, Final

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from osamd import __version__
from osamd.errors import (
    AccessError,
    BodyTooLargeError,
    ForeignOriginError,
    OsamdError,
    OverloadedError,
    RateLimitedError,
    ServerConfigurationError,
    WrongKeysError,
)
from osamd.server.door import MEDIA_TYPE, STATUSES, Door
from osamd.server.examples import body_documentation
from osamd.server.operations import JSON, Operation, OperationRoute
from osamd.server.problems import Problem

# Errors of authentication and admission, on every guarded route.
GUARDED: Final[tuple[type[OsamdError], ...]] = (
    AccessError,
    ForeignOriginError,
    RateLimitedError,
    WrongKeysError,
    OverloadedError,
    BodyTooLargeError,
    ServerConfigurationError,
)
# Where a key may be; any one of them suffices.
SECURITY: Final[list[dict[str, list[str]]]] = [{"key": []}, {"bearer": []}]
DOOR_SECURITY: Final[list[dict[str, list[str]]]] = [*SECURITY, {"token": []}, {"basic": []}]
SCHEMES: Final = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
DOOR_SCHEMES: Final = {
    "token": {"type": "apiKey", "in": "header", "name": "Token"},
    "basic": {"type": "http", "scheme": "basic"},
}


class ToolProblem(Problem):
    """The format of the errors of doors."""

    message: str = Field(description="The same as `detail`.")


def write_document(routes: Iterable[Any], doors: Sequence[Door]) -> dict[str, Any]:
    """The document of an app.

    Args:
        routes: of the app, those of doors included; all but ``OperationRoute`` are left out.
        doors: its doors.
    """
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, OperationRoute) and route.operation is not None:
            door = next((door for door in doors if door.covers(route.path)), None)
            written = _written(route, route.operation, door, schemas)
            paths.setdefault(route.path_format, {})[route.method.lower()] = written
    schemas.add(Problem)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "osamd", "summary": "Clicks, boxes and words into masks.", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas.found, "securitySchemes": SCHEMES},
        "security": SECURITY,
    }
    if doors:
        schemas.add(ToolProblem)
        document["components"]["securitySchemes"] = SCHEMES | DOOR_SCHEMES
        document["tags"] = [{"name": door.name, "description": door.summary} for door in doors]
    return document


class _Schemas:
    """The schemas of ``#/components/schemas``, collected on the way."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def add(self, model: type[BaseModel], prefix: str = "", mode: JsonSchemaMode = "validation") -> dict[str, str]:
        """Add a model and those it consists of; returns a reference to it."""
        template = f"#/components/schemas/{prefix}{{model}}"
        schema = model.model_json_schema(ref_template=template, mode=mode)
        self.found |= {f"{prefix}{name}": part for name, part in schema.pop("$defs", {}).items()}
        self.found[f"{prefix}{model.__name__}"] = schema
        return {"$ref": template.format(model=model.__name__)}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a reply of any type."""
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return self.add(kind, mode="serialization")
        schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        self.found |= schema.pop("$defs", {})
        return schema


def _written(route: OperationRoute, operation: Operation, door: Door | None, schemas: _Schemas) -> dict[str, Any]:
    name = re.sub(r"\W", "_", f"{route.name}{route.path_format}") + f"_{route.method.lower()}"
    written: dict[str, Any] = {
        "tags": [route.tag if door is None else door.name],
        "summary": operation.summary,
        "description": cleandoc(route.endpoint.__doc__ or ""),
        "operationId": name,
    }
    parameters = [*map(_path_parameter, route.param_convertors), *map(_query_parameter, operation.query)]
    if parameters:
        written["parameters"] = parameters
    if operation.body is not None:
        prefix = "" if door is None else f"{door.name}."
        written["requestBody"] = body_documentation(operation.body, schemas.add(operation.body, prefix))
    success = {"description": operation.success_is, "content": _content(operation.replies, name, schemas)}
    written["responses"] = {
        str(operation.success): success if success["content"] else {"description": operation.success_is},
        **{str(status): {"description": meaning} for status, meaning in operation.statuses.items()},
        **({} if operation.is_public else _refusals(operation.errors, door)),
    }
    if operation.is_public:
        written["security"] = []
    elif door is not None:
        written["security"] = [*DOOR_SECURITY, {}] if door.is_keyless else DOOR_SECURITY
    return written


def _path_parameter(name: str) -> dict[str, Any]:
    return {"in": "path", "name": name, "required": True, "schema": {"type": "string", "title": _titled(name)}}


def _query_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "default": "", "title": _titled(name)}
    return {"in": "query", "name": name, "required": False, "schema": schema}


def _titled(name: str) -> str:
    return name.replace("_", " ").title()


def _content(replies: Mapping[str, Any], name: str, schemas: _Schemas) -> dict[str, Any]:
    content = {}
    for media_type, kind in replies.items():
        schema = {} if kind is None else schemas.of(kind)
        if media_type == JSON and kind is not Any and "$ref" not in schema:
            schema["title"] = _titled(f"response_{name}")
        content[media_type] = {} if kind is None else {"schema": schema}
    return content


def _refusals(errors: Sequence[type[OsamdError]], door: Door | None) -> dict[str, Any]:
    """The errors of a guarded route: one entry per status, with its codes."""
    codes: dict[int, list[str]] = {}
    for error in (*GUARDED, *errors):
        status = error.status if door is None else STATUSES.get(error.code, error.status)
        codes.setdefault(status, []).append(f"`{error.code}`")
    media_type, schema = (MEDIA_TYPE, Problem) if door is None else (JSON, ToolProblem)
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    return {
        str(status): {"description": ", ".join(dict.fromkeys(found)), "content": content}
        for status, found in codes.items()
    }
