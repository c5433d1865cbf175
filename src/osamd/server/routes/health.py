"""Liveness, readiness, and osam's greeting."""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from osamd.server.operations import Operation, Operations
from osamd.server.services import services_of

operations = Operations(tag="health")


@operations.head("/")
@operations.get("/", Operation("osam's greeting", replies={"text/plain": str}))
async def index(_: Request) -> PlainTextResponse:
    """The greeting that osam's clients expect."""
    return PlainTextResponse("osam is running")


@operations.head("/health")
@operations.get(
    "/health",
    Operation(
        "Live",
        success_is="The process answers.",
        statuses={503: "Too many computations are hung; restart the process."},
        is_public=True,
    ),
)
async def health(request: Request) -> JSONResponse:
    """Answers immediately, even before any model is loaded."""
    is_stuck = services_of(request).state == "stuck"
    return JSONResponse({"status": "stuck" if is_stuck else "ok"}, status_code=503 if is_stuck else 200)


@operations.head("/ready")
@operations.get(
    "/ready",
    Operation(
        "Ready",
        success_is="Every model of OSAMD_PRELOAD is loaded and has run once.",
        statuses={503: "Some are not loaded yet or failed to load, or the server is stopping or stuck."},
        is_public=True,
    ),
)
async def ready(request: Request) -> JSONResponse:
    """Whether the configured models are loaded and where they run, and which doors are open.

    `hung` counts hung computations. In a cluster it asks no Segmenter: `/api/ps` lists what they have loaded.
    """
    services = services_of(request)
    status = await services.readiness()
    hung = {lane.name: lane.hung for lane in status.lanes if lane.hung}
    return JSONResponse(
        {
            "status": status.state,
            "models": [resident.model.name for resident in status.residents],
            "devices": {resident.model.name: resident.device for resident in status.residents},
            "doors": [door.name for door in services.doors],
            **({"hung": hung} if hung else {}),
        },
        status_code=200 if status.state == "ready" else 503,
    )
