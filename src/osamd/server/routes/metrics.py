"""``GET /metrics``: counts and gauges for Prometheus. For admins only."""

import asyncio

from fastapi import APIRouter, Request, Response

from osamd.errors import AdminOnlyError
from osamd.runtime.nvidia import device_memory
from osamd.server.problems import documented
from osamd.server.services import services_of
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
    """Counters and gauges of this process in Prometheus' text format. Needs an admin key."""
    services = services_of(request)
    status = await services.status()
    content = await asyncio.to_thread(lambda: services.metrics.render(status, device_memory()))
    return Response(content, media_type=CONTENT_TYPE)
