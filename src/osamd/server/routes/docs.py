"""Interactive API docs with all assets served locally: no page loads anything from another host.

Swagger UI's files come from the package ``fastapi-offline``; its code is not imported.
"""

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel

from osamd.errors import NotFoundError
from osamd.server.door import Door
from osamd.server.routes.packaged import packaged_file

router = APIRouter(include_in_schema=False)

FOLDER = Path(str(resources.files("osamd.server").joinpath("docs")))
PAGE = "index.html"
ASSETS = frozenset({"swagger-ui-bundle.js", "swagger-ui.css"})
# Swagger UI writes styles into its elements and draws its icons from data URIs.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


# Where a key may be; any one of them suffices.
OWN_SECURITY: Final[list[dict[str, list[str]]]] = [{"key": []}, {"bearer": []}]
DOOR_SECURITY: Final[list[dict[str, list[str]]]] = [{"token": []}, {"basic": []}]


def _swagger_folder() -> Path:
    spec = find_spec("fastapi_offline")
    if spec is None or spec.origin is None:
        raise NotFoundError("the API docs are not installed: fastapi-offline is missing")
    return Path(spec.origin).parent / "static"


@router.head("/docs")
@router.get("/docs")
async def page(request: Request) -> Response:
    """The page itself."""
    return packaged_file(FOLDER, PAGE, request, {"Content-Security-Policy": PAGE_POLICY})


@router.head("/docs/{name:path}")
@router.get("/docs/{name:path}")
async def asset(request: Request, name: str) -> Response:
    """A file of the page."""
    if not name:
        # Links are relative to the page's path without a trailing slash; so is this redirect, to work behind a prefix.
        return RedirectResponse("../docs", status_code=308)
    if name == PAGE:
        raise NotFoundError("no such file")
    return packaged_file(_swagger_folder() if name in ASSETS else FOLDER, name, request)


@router.head("/openapi.json")
@router.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document, with the prefix of a proxy or mount."""
    document = dict(openapi_document(request.app))
    prefix = request.scope.get("root_path", "").rstrip("/")
    if prefix:
        document["servers"] = [{"url": prefix}]
    return JSONResponse(document)


def openapi_document(app: FastAPI) -> dict[str, object]:
    """The app's OpenAPI 3.1 document, created once."""
    if app.openapi_schema is None:
        app.openapi_schema = _build(app)
    return app.openapi_schema


def _add_schema(schemas: dict[str, object], model: type[BaseModel], prefix: str = "") -> None:
    """Add a model and those it consists of."""
    schema = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
    schemas.update({f"{prefix}{name}": part for name, part in schema.pop("$defs", {}).items()})
    schemas[f"{prefix}{model.__name__}"] = schema


def _tags(doors: Sequence[Door]) -> list[dict[str, str]]:
    return [{"name": door.name, "description": door.summary} for door in doors]


def _build(app: FastAPI) -> dict[str, object]:
    from osamd.server.problems import Problem, ToolProblem
    from osamd.wire.everything_lines import EverythingLine
    from osamd.wire.management import ModelBody, PullBody
    from osamd.wire.schemas import EmbedBody, GenerateBody

    doors: Sequence[Door] = app.state.services.doors
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=_tags(doors)
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    own: list[type[BaseModel]] = [GenerateBody, EverythingLine, EmbedBody, ModelBody, PullBody, Problem]
    if doors:
        own.append(ToolProblem)
    for model in own:
        _add_schema(schemas, model)
    for door in doors:
        for model in door.schemas:
            _add_schema(schemas, model, prefix=f"{door.name}.")
    components["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    document["security"] = OWN_SECURITY
    if doors:
        components["securitySchemes"] |= {
            "token": {"type": "apiKey", "in": "header", "name": "Token"},
            "basic": {"type": "http", "scheme": "basic"},
        }
    for path, operations in document["paths"].items():
        for door in (door for door in doors if door.covers(path)):
            for operation in operations.values():
                operation.setdefault("security", [*OWN_SECURITY, *DOOR_SECURITY, *([{}] if door.is_keyless else [])])
    for path in ("/health", "/ready"):
        document["paths"][path]["get"]["security"] = []
    return document
