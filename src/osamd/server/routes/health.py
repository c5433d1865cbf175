"""Liveness, readiness, and osam's greeting."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from osamd.server.problems import documented
from osamd.server.services import services_of

router = APIRouter(tags=["health"])


@router.head("/", include_in_schema=False)
@router.get("/", response_class=PlainTextResponse, summary="osam's greeting", responses=documented())
async def index() -> str:
    """The greeting that osam's clients expect."""
    return "osam is running"


@router.head("/health", include_in_schema=False)
@router.get(
    "/health",
    summary="Live",
    response_description="The process answers.",
    responses={503: {"description": "Too many computations are hung; restart the process."}},
)
async def health(request: Request) -> JSONResponse:
    """Answers immediately, even before any model is loaded."""
    is_stuck = services_of(request).state == "stuck"
    return JSONResponse({"status": "stuck" if is_stuck else "ok"}, status_code=503 if is_stuck else 200)


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    summary="Ready",
    response_description="Every model of OSAMD_PRELOAD is loaded and has run once.",
    responses={503: {"description": "Some are not loaded yet or failed to load, or the server is stopping or stuck."}},
)
async def ready(request: Request) -> JSONResponse:
    """Whether the configured models are loaded and where they run, and which doors are open.

    `hung` counts hung computations.
    """
    services = services_of(request)
    status = await services.status()
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
