"""The routes of CVAT's door."""

import functools
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from osamd.errors import InvalidPromptError, UnknownModelError
from osamd.server.accept import takes_gzip
from osamd.server.answering import answer
from osamd.server.door import Door, json_errors
from osamd.server.doors.cvat import bodies, replies
from osamd.server.doors.cvat.functions import FUNCTION_HEADER, function_named, functions
from osamd.server.operations import JSON, Operation, Operations
from osamd.server.problems import IMAGE_ERRORS
from osamd.server.services import caller_of, services_of, timings_of

NAME: Final = "cvat"

operations = Operations("/api")


@operations.get("/functions", Operation("List functions", replies={JSON: dict[str, Any]}))
async def list_functions(request: Request) -> JSONResponse:
    """The models on this server as CVAT's functions, by their ids."""
    services = services_of(request)
    catalog, shelf = services.library.catalog, await services.answers.shelf()

    def described() -> dict[str, Any]:
        here = (model for model in catalog if shelf.is_present(model))
        return {name: function.described() for name, function in functions(here, services.settings).items()}

    return JSONResponse(await services.pools.parse(described, timings_of(request), owner=caller_of(request).name))


@operations.get(
    "/functions/{name}",
    Operation("About a function", errors=(UnknownModelError,), replies={JSON: dict[str, Any]}),
)
async def describe_function(request: Request) -> JSONResponse:
    """One of them."""
    services = services_of(request)
    function = function_named(request.path_params["name"], services.library.catalog, services.settings)
    return JSONResponse(function.described())


@operations.post(
    "/function_invocations",
    Operation("Call a function", body=bodies.InvokeBody, errors=(*IMAGE_ERRORS, InvalidPromptError)),
)
async def invoke(request: Request) -> Response:
    """Call the function named by the header `x-nuclio-function-name`: a mask for an interactor, objects for a detector.

    Masks are lists of 0 and 1 within `bounds`. With `Accept-Encoding: gzip` they take a hundredth of their size.
    """
    services = services_of(request)
    function = function_named(request.headers.get(FUNCTION_HEADER, ""), services.library.catalog, services.settings)
    write = replies.write_objects if function.texts else replies.write_mask
    return await answer(
        request,
        functools.partial(bodies.invocation, function=function),
        functools.partial(write, is_compressed=takes_gzip(request.headers.get("accept-encoding", ""))),
    )


DOOR = Door(
    name=NAME,
    summary="CVAT's serverless functions, as nuclio's dashboard has them.",
    paths=("/api/functions", "/api/functions/", "/api/function_invocations"),
    operations=operations,
    write_error=json_errors(
        challenge="Basic",
        key_advice="the API key is missing or wrong: give it to CVAT's containers as a password in a netrc file",
    ),
)
