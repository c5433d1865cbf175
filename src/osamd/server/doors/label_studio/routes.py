"""The routes of Label Studio's door."""

import functools
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from osamd.errors import EmbeddingExpiredError, InvalidPromptError, UnknownModelError
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model
from osamd.server.answering import answered, asked
from osamd.server.answers import Context
from osamd.server.asks import Ask
from osamd.server.bodies import receive_body
from osamd.server.door import Door, json_errors
from osamd.server.doors.label_studio import bodies
from osamd.server.doors.label_studio.bodies import How
from osamd.server.doors.label_studio.replies import write_results
from osamd.server.guard.auth import own_path
from osamd.server.operations import JSON, Operation, Operations
from osamd.server.problems import BODY_ERRORS, IMAGE_ERRORS
from osamd.server.services import caller_of, services_of, timings_of

NAME: Final = "label-studio"
# Nothing to say. An empty result instead would be stored as a prediction.
NOTHING: Final[dict[str, Any]] = {"results": []}
# One answer to several tasks has Label Studio send them one by one.
ONE_BY_ONE: Final[dict[str, Any]] = {"results": [{"result": []}]}
WARM: Final[dict[str, Any]] = {"results": [{"value": {"status": "ok", "cached": [], "pending": [], "frame_count": 1}}]}

operations = Operations("/label-studio/{model}")


@operations.get("/health", Operation("Health", errors=(UnknownModelError,), replies={JSON: dict[str, str]}))
async def health(request: Request) -> JSONResponse:
    """Whether Label Studio reaches the server, its key is right and the model exists."""
    return JSONResponse({"status": "UP", "model_class": _model(request).name})


@operations.post(
    "/setup",
    Operation(
        "Connect a project",
        body=bodies.SetupBody,
        errors=(*BODY_ERRORS, UnknownModelError),
        replies={JSON: dict[str, str]},
    ),
)
async def setup(request: Request) -> JSONResponse:
    """The name under which predictions are kept. Address and token in the body are not read."""
    found, services, timings = _model(request), services_of(request), timings_of(request)
    body = await receive_body(request, services.settings, timings)
    check = functools.partial(bodies.checked_json, body, services.settings)
    await services.pools.parse(check, timings, owner=caller_of(request).name)
    return JSONResponse({"model_version": found.name})


@operations.get("/versions", Operation("Versions", errors=(UnknownModelError,), replies={JSON: dict[str, list[str]]}))
async def versions(request: Request) -> JSONResponse:
    """The only version of a model."""
    return JSONResponse({"versions": [_model(request).name]})


@operations.post("/webhook", Operation("Webhook", replies={JSON: dict[str, str]}, is_public=True))
async def webhook(_: Request) -> JSONResponse:
    """Does nothing. Label Studio calls it, without a key, for each annotation, and to start training."""
    return JSONResponse({"status": "ok"})


@operations.post("/predict", Operation("Predict", body=bodies.PredictBody, errors=(*IMAGE_ERRORS, InvalidPromptError)))
async def predict(request: Request) -> Response:
    """Clicks, boxes and strokes into a mask; without any, the objects that the labels name, if the model takes text."""
    parse = functools.partial(
        bodies.prediction,
        model=_model(request),
        negative=services_of(request).label_studio.negative,
        owner=caller_of(request).name,
    )
    async with asked(request, parse, _find) as (ask, image, context):
        match ask.how.kind:
            case "segment":
                return await answered(request, ask, image, context, write_results)
            case "prewarm":
                await services_of(request).answers.embed(image, ask.model, context)
                return JSONResponse(WARM)
            case "one_by_one":
                return JSONResponse(ONE_BY_ONE)
            case _:
                return JSONResponse(NOTHING)


async def _find(request: Request, ask: Ask[How], context: Context) -> ImageSource:
    """The image of a task: its handle, if it was fetched a moment ago."""
    address, services = ask.image_url, services_of(request)
    if address is None:
        return ImageSource()
    name, answers = context.caller.name, services.answers
    model = services.library.resolve(ask.model)
    await answers.check_may_use(model, context.caller)
    key = (name, model.name, f"{ask.how.task} {address}")
    image_id = services.label_studio.image_id(key)
    if image_id is not None:
        source = ImageSource(image_id=image_id)
        try:
            await answers.embed(source, ask.model, context)
        except EmbeddingExpiredError:
            pass
        else:
            return source
    with context.timings.stage("receive"):
        data = await services.label_studio.fetch(address, task=ask.how.task, owner=name)
    image = await services.pools.parse(lambda: ImageSource.of_bytes(data), context.timings, owner=name)
    handle = await answers.embed(image, ask.model, context)
    services.label_studio.remember(key, handle.image_id)
    return image


def _model(request: Request) -> Model:
    """The model in the path; a dash may stand for the colon.

    Raises:
        UnknownModelError: there is no such model.
    """
    library, name = services_of(request).library, request.path_params["model"]
    try:
        return library.resolve(name)
    except UnknownModelError:
        for model in library.catalog:
            if model.name.replace(":", "-") == name:
                return model
        raise


def _is_webhook(scope: Scope) -> bool:
    return scope["method"] == "POST" and own_path(scope).endswith("/webhook")


DOOR = Door(
    name=NAME,
    summary="Label Studio's ML backend.",
    paths=("/label-studio/",),
    operations=operations,
    write_error=json_errors(
        challenge="Basic",
        key_advice="the API key is missing or wrong: choose Basic Authentication, with the key as the password",
    ),
    is_public=_is_webhook,
)
