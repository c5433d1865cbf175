"""Model management: list, show, pull and delete models, in Ollama's format."""

import logging
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

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
from osamd.server.answers import Answers
from osamd.server.bodies import read_json
from osamd.server.operations import JSON, Operation, Operations
from osamd.server.problems import BODY_ERRORS, INTERNAL_CODE, INTERNAL_DETAIL
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

operations = Operations(tag="models")

NDJSON = "application/x-ndjson"


@operations.get("/api/version", Operation("Version", replies={JSON: VersionReply}))
async def version(_: Request) -> Response:
    """The server's version."""
    return _reply(VersionReply(version=__version__))


@operations.get("/api/tags", Operation("Downloaded models", replies={JSON: TagsReply}))
async def tags(request: Request) -> Response:
    """The models whose files are on this server."""
    catalog, shelf = services_of(request).library.catalog, await services_of(request).answers.shelf()
    return await _on_thread(
        request, lambda: _reply(TagsReply(models=[tag(model, shelf) for model in catalog if shelf.is_present(model)]))
    )


@operations.get("/api/catalog", Operation("All models", replies={JSON: CatalogReply}))
async def catalog(request: Request) -> Response:
    """Every model of the catalogue, downloaded or not, each as in `/api/show`."""
    show_one, models = await _show(request), services_of(request).library.catalog
    return await _on_thread(request, lambda: _reply(CatalogReply(models=[show_one(model) for model in models])))


@operations.get("/api/ps", Operation("Loaded models", replies={JSON: RunningReply}))
async def ps(request: Request) -> Response:
    """The models in memory, their device, and when they are unloaded."""
    answers = services_of(request).answers
    status, shelf = await answers.status(), await answers.shelf()
    return await _on_thread(
        request, lambda: _reply(RunningReply(models=[running(resident, shelf) for resident in status.residents]))
    )


@operations.post(
    "/api/show",
    Operation("About a model", body=ModelBody, errors=(*BODY_ERRORS, UnknownModelError), replies={JSON: ShowReply}),
)
async def show_model(request: Request) -> Response:
    """A model of the catalogue: licence, capabilities, files."""
    body = await read_json(request, ModelBody)
    model = services_of(request).library.resolve(body.model)
    show_one = await _show(request)
    return await _on_thread(request, lambda: _reply(show_one(model)))


@operations.post(
    "/api/pull",
    Operation(
        "Pull a model",
        body=PullBody,
        errors=(
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
        replies={JSON: PullLine, NDJSON: None},
    ),
)
async def pull(request: Request) -> Response:
    """Download a model's files; with `stream` one JSON line per update, the last with `success` or an error.

    A request for a model that is already being pulled joins that pull, which continues if the caller disconnects.
    """
    answers, body = services_of(request).answers, await read_json(request, PullBody)
    model = answers.library.resolve(body.model)
    answers.library.pulls.check_may_pull(model)
    headers = license_header(model.license)
    if body.stream:
        return StreamingResponse(_lines(answers, model), media_type=NDJSON, headers=headers)
    async for _ in answers.pull(model):
        pass
    return Response(_line(PullLine(status="success")), media_type=JSON, headers=headers)


@operations.delete(
    "/api/delete",
    Operation(
        "Delete a model",
        body=ModelBody,
        errors=(*BODY_ERRORS, AdminOnlyError, UnknownModelError, StorageError),
        replies={},
    ),
)
async def delete(request: Request) -> Response:
    """Unload a model and delete its files; 404 if they are not on this server."""
    body = await read_json(request, ModelBody)
    answers = services_of(request).answers
    await answers.remove(answers.library.resolve(body.model))
    return Response(status_code=200)


def _reply(content: BaseModel) -> Response:
    return Response(content.model_dump_json(), media_type=JSON)


async def _on_thread(request: Request, work: Callable[[], Result]) -> Result:
    """Run disk access for a caller on a thread, queued fairly between keys."""
    pools, timings = services_of(request).pools, timings_of(request)
    return await pools.parse(work, timings, owner=caller_of(request).name)


async def _show(request: Request) -> Callable[[Model], ShowReply]:
    """Describes models to this caller; accesses the disk, so do not call it on the loop."""
    services, is_admin = services_of(request), caller_of(request).is_admin
    pulls, shelf = services.library.pulls, await services.answers.shelf()
    loaded = {resident.model.name for resident in (await services.answers.status()).residents}

    def show_one(model: Model) -> ShowReply:
        return show(
            model,
            shelf,
            is_loaded=all(member.name in loaded for member in model.members),
            may_pull=is_admin and pulls.may_pull(model),
            is_admin=is_admin,
        )

    return show_one


async def _lines(answers: Answers, model: Model) -> AsyncIterator[str]:
    yield _line(PullLine(status=f"pulling manifest of {model.name}, licence {model.license or 'unknown'}"))
    try:
        async for progress in answers.pull(model):
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
