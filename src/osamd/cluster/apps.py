"""The application of Ray Serve: ``import_path: "osamd.cluster.apps:build"``.

``build`` fixes what correct answers depend on; numbers of replicas, GPUs and limits are in the configuration, which
may override the limits here.
"""

from typing import Any, Final

import ray
from ray import serve
from ray.serve._private import replica as ray_replica
from ray.serve.config import BackpressureConfig, RequestRouterConfig

from osamd.cluster.configuration import EDGE, LOOPBACK, SEGMENTER_CALLS, deployment_of
from osamd.cluster.ray_handle import RayHandle
from osamd.cluster.remote_answers import RemoteAnswers
from osamd.cluster.request_ids import OneRequestId
from osamd.cluster.segmenter import SegmenterService
from osamd.events import log_event
from osamd.library.catalog import DEFAULT_MODEL, load_catalog
from osamd.server.process import prepare_process
from osamd.settings import load_settings

# An edge keeps connections of requests that wait; its own limits refuse what is too much.
EDGE_REQUESTS: Final = 512
# Calls with the same key reach the same Segmenter, so that a click finds the embedding of its image.
ROUTER: Final = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# Segmenters that are tried after the first one refuses.
FALLBACKS: Final = 1
WAITING_CALLS: Final = 256
RETRY_AFTER_S: Final = 2.0
HEALTH_PERIOD_S: Final = 5.0
HEALTH_TIMEOUT_S: Final = 15.0


@serve.ingress()
class Edge:
    """osamd's HTTP API: keys, limits, parsing, playground and doors. Any number of these; what they hold may be lost.

    Args:
        handles: of the Segmenters, by model.
    """

    def __init__(self, handles: dict[str, Any]) -> None:
        _stay_on_loopback()
        self._handles = handles
        self._app: Any = None

    def __serve_build_asgi_app__(self) -> Any:
        """The app, built in the process that serves it: none of it is pickled."""
        from osamd.server.app import create_app

        settings = load_settings()
        prepare_process(settings)
        label = serve.get_replica_context().replica_id.unique_id
        answers = RemoteAnswers(settings, RayHandle(self._handles), label=label, sinks=(log_event,))
        self._app = create_app(settings, answers=answers)
        return OneRequestId(self._app)

    async def check_health(self) -> None:
        """Called by Ray, which replaces an edge that is stuck."""
        if self._app is not None and self._app.state.services.state == "stuck":
            raise RuntimeError("too many threads of this edge hang")


class Segmenter(SegmenterService):
    """An engine with its models and embeddings.

    Args:
        model: loaded before anything is routed here.
    """

    async def __init__(self, model: str) -> None:  # type: ignore[misc]  # Ray awaits it
        _stay_on_loopback()
        settings = load_settings(preload=(model,))
        prepare_process(settings)
        super().__init__(settings)
        self._label = serve.get_replica_context().replica_id.unique_id
        await self.start()

    async def labelled(self, method: str, *args: Any) -> tuple[str, Any]:
        """A method's result, with a label of this Segmenter."""
        return self._label, await getattr(self, method)(*args)

    async def __del__(self) -> None:
        """Called by Ray once no request is left."""
        await self.close()


def build(args: dict[str, Any]) -> Any:
    """The application: edges before the Segmenters of each model.

    Args:
        args: ``models``, names; the first answers for models that have no Segmenters of their own.
    """
    catalog = load_catalog(load_settings().user_catalog)
    models = [catalog.resolve(name).name for name in args.get("models") or [DEFAULT_MODEL]]
    handles = {model: _segmenters(model) for model in models}
    return serve.deployment(Edge, name=EDGE, max_ongoing_requests=EDGE_REQUESTS).bind(handles)


def _segmenters(model: str) -> Any:
    return serve.deployment(
        Segmenter,
        name=deployment_of(model),
        max_ongoing_requests=SEGMENTER_CALLS,
        max_queued_requests=WAITING_CALLS,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_S),
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": FALLBACKS}
        ),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
    ).bind(model)


def _stay_on_loopback() -> None:
    """On a node that has only loopback, start the replica's gRPC server there too, and not on all addresses.

    Ray starts it after the replica's own code, and offers no setting.
    """
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    add_port = ray_replica.add_port_to_grpc_server
    ray_replica.add_port_to_grpc_server = lambda server, _address: add_port(server, f"{LOOPBACK}:0")
