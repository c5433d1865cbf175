"""``GET /metrics``: counts and gauges for Prometheus. For admins only."""

import asyncio

from fastapi import APIRouter, Request, Response

from osamd.errors import AdminOnlyError
from osamd.runtime.device_memory import device_memory
from osamd.server.context import engine_of, metrics_of
from osamd.server.problems import documented
from osamd.server.telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Metrics",
    response_class=Response,
    responses={
        **documented(AdminOnlyError),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
async def metrics(request: Request) -> Response:
    """What this process has counted and how it is now, in Prometheus' text form. The key must be an admin's."""
    status = engine_of(request).status()
    counted = metrics_of(request)
    content = await asyncio.to_thread(lambda: counted.render(status, device_memory()))
    return Response(content, media_type=CONTENT_TYPE)
