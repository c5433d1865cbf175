"""Interactive API docs with all assets served locally: no page loads anything from another host.

Swagger UI's files are put into the wheel when it is built; a checkout has them in the package ``fastapi-offline``,
whose code is not imported.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from osamd.errors import NotFoundError
from osamd.server.operations import Operations
from osamd.server.routes.packaged import packaged_file
from osamd.server.services import services_of

operations = Operations()

FOLDER = Path(str(resources.files("osamd.server").joinpath("docs")))
# Of all doors; written by `make docs`.
DOCUMENT: Final = FOLDER.with_name("openapi.json")
PAGE = "index.html"
ASSETS = frozenset({"swagger-ui-bundle.js", "swagger-ui.css"})
# Swagger UI writes styles into its elements and draws its icons from data URIs.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def _swagger_folder() -> Path:
    if (FOLDER / "swagger-ui.css").exists():
        return FOLDER
    spec = find_spec("fastapi_offline")
    if spec is None or spec.origin is None:
        raise NotFoundError("the API docs are not installed: fastapi-offline is missing")
    return Path(spec.origin).parent / "static"


@operations.head("/docs")
@operations.get("/docs")
async def page(request: Request) -> Response:
    """The page itself."""
    return packaged_file(FOLDER, PAGE, request, {"Content-Security-Policy": PAGE_POLICY})


@operations.head("/docs/{name:path}")
@operations.get("/docs/{name:path}")
async def asset(request: Request) -> Response:
    """A file of the page."""
    name = request.path_params["name"]
    if not name:
        # Links are relative to the page's path without a trailing slash; so is this redirect, to work behind a prefix.
        return RedirectResponse("../docs", status_code=308)
    if name == PAGE:
        raise NotFoundError("no such file")
    return packaged_file(_swagger_folder() if name in ASSETS else FOLDER, name, request)


@operations.head("/openapi.json")
@operations.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document, with the prefix of a proxy or mount."""
    document = openapi_document(tuple(door.name for door in services_of(request).doors))
    prefix = request.scope.get("root_path", "").rstrip("/")
    return JSONResponse({**document, "servers": [{"url": prefix}]} if prefix else document)


@cache
def openapi_document(doors: tuple[str, ...]) -> Mapping[str, Any]:
    """The shipped document, reduced to osamd's own API and some doors.

    Args:
        doors: names of doors. Those that are not osamd's own are not in the document.
    """
    document: dict[str, Any] = json.loads(DOCUMENT.read_text("utf-8"))
    tags = {tag["name"]: tag for tag in document.pop("tags")}
    paths: dict[str | None, dict[str, Any]] = {}
    for path, methods in document["paths"].items():
        tag = next(iter(methods.values()))["tags"][0]
        paths.setdefault(tag if tag in tags else None, {})[path] = methods
    document["paths"] = {path: methods for name in (None, *doors) for path, methods in paths.get(name, {}).items()}
    closed = (tags.keys() - set(doors)) if doors else {*tags, "ToolProblem"}
    components = document["components"]
    components["schemas"] = {
        name: schema for name, schema in components["schemas"].items() if name.split(".")[0] not in closed
    }
    if not doors:
        components["securitySchemes"] = {name: components["securitySchemes"][name] for name in ("key", "bearer")}
    elif listed := [tags[name] for name in doors if name in tags]:
        document["tags"] = listed
    return document
