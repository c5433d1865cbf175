"""Model management: list, show, pull and delete models, in Ollama's format."""

import logging
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from osamd import __version__
from osamd.errors import (
    AdminOnlyError,
    BlobDigestError,
    InsufficientStorageError,
    OsamdError,
    PullError,
    PullForbiddenError,
    ShuttingDownError,
    StorageError,
    UnknownModelError,
)
from osamd.library.catalog import Model
from osamd.library.library import Library
from osamd.server.bodies import read_json
from osamd.server.examples import json_documentation
from osamd.server.problems import BODY_ERRORS, INTERNAL_CODE, INTERNAL_DETAIL, documented
from osamd.server.services import caller_of, services_of, timings_of
from osamd.wire.management import (
    CatalogReply,
    ModelBody,
    PullBody,
    PullLine,
    RunningReply,
    ShowReply,
    TagsReply,
    VersionReply,
    pull_line,
    running,
    show,
    tag,
)
from osamd.wire.replies import license_header

logger = logging.getLogger("osamd")

Result = TypeVar("Result")

router = APIRouter(tags=["models"])

NDJSON = "application/x-ndjson"


@router.get("/api/version", summary="Version", responses=documented())
async def version() -> VersionReply:
    """The server's version."""
    return VersionReply(version=__version__)


@router.get("/api/tags", summary="Downloaded models", responses=documented())
async def tags(request: Request) -> TagsReply:
    """The models whose files are on this server."""
    library = services_of(request).library
    return await _on_thread(
        request,
        lambda: TagsReply(
            models=[tag(model, library.store) for model in library.catalog if library.store.is_present(model)]
        ),
    )


@router.get("/api/catalog", summary="All models", responses=documented())
async def catalog(request: Request) -> CatalogReply:
    """Every model of the catalogue, downloaded or not, each as in `/api/show`."""
    show_one = _show(request)
    library = services_of(request).library
    return await _on_thread(request, lambda: CatalogReply(models=[show_one(model) for model in library.catalog]))


@router.get("/api/ps", summary="Loaded models", responses=documented())
async def ps(request: Request) -> RunningReply:
    """The models in memory, their device, and when they are unloaded."""
    library, residents = services_of(request).library, services_of(request).engine.residents
    return await _on_thread(
        request, lambda: RunningReply(models=[running(resident, library.store) for resident in residents])
    )


@router.post(
    "/api/show",
    summary="About a model",
    responses=documented(*BODY_ERRORS, UnknownModelError),
    openapi_extra=json_documentation(ModelBody),
)
async def show_model(request: Request) -> ShowReply:
    """A model of the catalogue: licence, capabilities, files."""
    body = await read_json(request, ModelBody)
    show_one, model = _show(request), services_of(request).library.resolve(body.model)
    return await _on_thread(request, lambda: show_one(model))


@router.post(
    "/api/pull",
    summary="Pull a model",
    response_model=PullLine,
    responses={
        **documented(
            *BODY_ERRORS,
            AdminOnlyError,
            PullForbiddenError,
            UnknownModelError,
            PullError,
            BlobDigestError,
            StorageError,
            InsufficientStorageError,
            ShuttingDownError,
        ),
        200: {"content": {NDJSON: {}}},
    },
    openapi_extra=json_documentation(PullBody),
)
async def pull(request: Request) -> Response:
    """Download a model's files; with `stream` one JSON line per update, the last with `success` or an error.

    A request for a model that is already being pulled joins that pull, which continues if the caller disconnects.
    """
    library, body = services_of(request).library, await read_json(request, PullBody)
    model = library.resolve(body.model)
    library.pulls.check_may_pull(model)
    headers = license_header(model.license)
    if body.stream:
        return StreamingResponse(_lines(library, model), media_type=NDJSON, headers=headers)
    async for _ in library.pulls.follow(model):
        pass
    return Response(_line(PullLine(status="success")), media_type="application/json", headers=headers)


@router.delete(
    "/api/delete",
    summary="Delete a model",
    response_class=Response,
    responses=documented(*BODY_ERRORS, AdminOnlyError, UnknownModelError, StorageError),
    openapi_extra=json_documentation(ModelBody),
)
async def delete(request: Request) -> Response:
    """Unload a model and delete its files; 404 if they are not on this server."""
    body = await read_json(request, ModelBody)
    await services_of(request).engine.remove(services_of(request).library.resolve(body.model))
    return Response(status_code=200)


async def _on_thread(request: Request, work: Callable[[], Result]) -> Result:
    """Run disk access for a caller on a thread, queued fairly between keys."""
    pools, timings = services_of(request).pools, timings_of(request)
    return await pools.parse(work, timings, owner=caller_of(request).name)


def _show(request: Request) -> Callable[[Model], ShowReply]:
    """Describes models to this caller; accesses the disk, so do not call it on the loop."""
    services, is_admin = services_of(request), caller_of(request).is_admin
    library = services.library
    loaded = {resident.model.name for resident in services.engine.residents}

    def show_one(model: Model) -> ShowReply:
        return show(
            model,
            library.store,
            is_loaded=all(member.name in loaded for member in model.members),
            may_pull=is_admin and library.pulls.may_pull(model),
            is_admin=is_admin,
        )

    return show_one


async def _lines(library: Library, model: Model) -> AsyncIterator[str]:
    yield _line(PullLine(status=f"pulling manifest of {model.name}, licence {model.license or 'unknown'}"))
    try:
        async for progress in library.pulls.follow(model):
            yield _line(pull_line(progress))
    except OsamdError as error:
        yield _line(PullLine(error=error.public_message, code=error.code))
    # The status 200 has been sent: without a last line the caller would take the truncated stream for a success.
    except Exception:
        logger.exception("unexpected error in a pull of %s", model.name)
        yield _line(PullLine(error=INTERNAL_DETAIL, code=INTERNAL_CODE))
    else:
        yield _line(PullLine(status="success"))


def _line(line: PullLine) -> str:
    return line.model_dump_json(exclude_none=True) + "\n"
