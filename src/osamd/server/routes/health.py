"""Liveness, readiness, and osam's greeting."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from osamd.server.context import engine_of

router = APIRouter(tags=["health"])


@router.head("/", include_in_schema=False)
@router.get("/", response_class=PlainTextResponse, summary="osam's greeting")
async def index() -> str:
    """What osam's clients look for."""
    return "osam is running"


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="Live", response_description="The process answers.")
async def health() -> dict[str, str]:
    """Answers at once, before any model is loaded."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    summary="Ready",
    response_description="Every model of OSAMD_PRELOAD is loaded.",
    responses={503: {"description": "Some are not loaded yet, or could not be."}},
)
async def ready(request: Request) -> JSONResponse:
    """Whether the configured models are loaded."""
    engine = engine_of(request)
    residents = engine.residents
    return JSONResponse(
        {
            "status": "ready" if engine.ready else "loading",
            "models": [resident.model.name for resident in residents],
            "devices": {resident.model.name: resident.device for resident in residents},
        },
        status_code=200 if engine.ready else 503,
    )
