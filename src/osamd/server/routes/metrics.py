"""``GET /metrics``: counts and gauges for Prometheus. For admins only."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from osamd.errors import AdminOnlyError
from osamd.runtime.nvidia import device_memory
from osamd.server.operations import Operation, Operations
from osamd.server.services import services_of
from osamd.server.telemetry.merged_metrics import merged
from osamd.server.telemetry.metrics import CONTENT_TYPE

operations = Operations(tag="health")


@operations.get("/metrics", Operation("Metrics", errors=(AdminOnlyError,), replies={"text/plain": str}))
async def metrics(request: Request) -> Response:
    """Counters and gauges in Prometheus' text format; in a cluster, with the label `segmenter` or `edge`.

    Needs an admin key.
    """
    services = services_of(request)
    status = await services.readiness()
    others = await services.answers.metrics()

    def render() -> bytes:
        own = services.metrics.render(status, device_memory())
        label = services.answers.label
        return merged(own, others, label=label) if label else own

    content = await asyncio.to_thread(render)
    return Response(content, media_type=CONTENT_TYPE)
