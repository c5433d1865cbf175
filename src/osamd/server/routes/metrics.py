"""``GET /metrics``: counts and gauges for Prometheus. For admins only."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from osamd.errors import AdminOnlyError
from osamd.runtime.nvidia import device_memory
from osamd.server.operations import Operation, Operations
from osamd.server.services import services_of
from osamd.server.telemetry.metrics import CONTENT_TYPE

operations = Operations(tag="health")


@operations.get("/metrics", Operation("Metrics", errors=(AdminOnlyError,), replies={"text/plain": str}))
async def metrics(request: Request) -> Response:
    """Counters and gauges of this process in Prometheus' text format. Needs an admin key."""
    services = services_of(request)
    status = await services.status()
    content = await asyncio.to_thread(lambda: services.metrics.render(status, device_memory()))
    return Response(content, media_type=CONTENT_TYPE)
