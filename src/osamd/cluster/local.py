"""A cluster on this machine, on loopback alone, for as long as a block runs."""

import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from osamd.cluster.configuration import APPLICATION, LOOPBACK, has_haproxy, node_environment
from osamd.cluster.haproxy import write_script
from osamd.cluster.private_ray import TOKEN_FILE, private_environment
from osamd.cluster.processes import adopt_orphans, end_descendants
from osamd.errors import SettingsError, UnreachableError

# In the cluster's folder.
LOGS: Final = Path("ray", "session_latest", "logs")
POLL_S: Final = 0.2
START_S: Final = 300.0
STOP_S: Final = 10.0
# Above the ports of Ray's workers and client servers, below those of Serve's replicas and the kernel's ephemeral ports:
# one of these could be taken between its choice and HAProxy's start.
LISTENERS: Final = range(24_000, 30_000)
# Bytes of shared memory for what does not fit into messages; requests do.
OBJECT_STORE_BYTES: Final = 200_000_000
# What another process needs to reach the cluster.
ADDRESS: Final = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")

Report = Callable[[str], None]


@contextlib.contextmanager
def running(config: dict[str, Any], report: Report) -> Iterator[tuple[dict[str, str], Path]]:
    """Start Ray and the application, and stop all of it at the end.

    The logs of all its processes are in a private folder, which is deleted at the end, but kept if the start fails.

    Yields:
        The environment in which Ray's own commands reach this cluster, and the folder with its logs.

    Args:
        config: of Ray Serve.
        report: told how far the start is.

    Raises:
        SettingsError: the port is taken.
        UnreachableError: something did not start.
    """
    options = config["http_options"]
    _check_port(options["host"], options["port"])
    # Short: Ray puts sockets into it, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="osamd-"))
    is_kept = False
    try:
        os.environ |= node_environment() | _environment(folder)
        adopt_orphans()
        stopping_by_exception()
        with _ray(config, folder, report):
            deploy(config)
            wait_until_running(config, report)
            yield {name: os.environ[name] for name in ADDRESS}, folder / LOGS
    except UnreachableError as error:
        is_kept = True
        (folder / TOKEN_FILE).unlink(missing_ok=True)
        raise UnreachableError(f"{error}; its logs are in {folder / LOGS}") from error
    finally:
        end_descendants(os.getpid(), patience_s=STOP_S)
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def stopping_by_exception() -> None:
    """Make SIGTERM raise KeyboardInterrupt, as SIGINT does. Ray installs handlers that end the process at once."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)


def deploy(config: dict[str, Any]) -> None:
    """Apply a configuration, as ``serve deploy`` does: what is as it was before is left alone."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=False)


def wait_until_running(config: dict[str, Any], report: Report) -> None:
    """Return when the application and the proxy answer.

    Raises:
        UnreachableError: the application cannot be started, or not in time.
    """
    from ray import serve

    until = time.monotonic() + START_S
    address = (config["http_options"]["host"], config["http_options"]["port"])
    while time.monotonic() < until:
        application = serve.status().applications.get(APPLICATION)
        if application is not None:
            states = {name: one.replica_states for name, one in application.deployments.items()}
            report(_told(states))
            if application.status == "DEPLOY_FAILED":
                raise UnreachableError(f"the cluster did not start: {application.message}")
            if application.status == "RUNNING" and _answers(address):
                return
        time.sleep(POLL_S)
    raise UnreachableError(f"the cluster did not start within {START_S:g} s")


@contextlib.contextmanager
def _ray(config: dict[str, Any], folder: Path, report: Report) -> Iterator[None]:
    report("starting Ray, which takes half a minute")
    import ray
    from ray import serve

    ray.init(
        address="local",
        include_dashboard=False,
        # Ray starts as many idle workers; nothing here asks for cores.
        num_cpus=1,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(folder / "ray"),
    )
    stopping_by_exception()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        report("starting Ray Serve")
        _start_serve(config)
        yield
    finally:
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()


def _start_serve(config: dict[str, Any]) -> None:
    from ray import serve
    from ray.exceptions import RayActorError, RayTaskError

    try:
        # A proxy that is slow to start is replaced by another one: whether one answers is asked later.
        with contextlib.suppress(RayActorError, TimeoutError):
            serve.start(**{name: config[name] for name in ("proxy_location", "http_options", "logging_config")})
    except RayTaskError as error:
        raise UnreachableError(f"Ray Serve's proxy did not start: {error.cause}") from error


def _environment(folder: Path) -> dict[str, str]:
    """Ray's settings for one machine: reached by this user alone, and no port or file that others use."""
    ports = _free_ports(2)
    found = private_environment(folder) | {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[0]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[1]),
        # Five seconds by default, after which it would be killed; a busy machine needs longer.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # The proxy is on this machine, so an edge that ends is noticed at once.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "OSAMD_TRUSTED_PROXIES": ",".join(filter(None, (os.environ.get("OSAMD_TRUSTED_PROXIES"), LOOPBACK))),
    }
    if has_haproxy():
        script = folder / "haproxy"
        write_script(script)
        found["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(script)
    return found


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(LISTENERS, len(LISTENERS)):
        with contextlib.suppress(OSError):
            socket.create_server((LOOPBACK, port)).close()
            found.append(port)
        if len(found) == count:
            return found
    raise SettingsError(f"no free port from {LISTENERS.start} to {LISTENERS.stop - 1}; the cluster needs {count}")


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}") from None


def _answers(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=1.0):
        return True
    return False


def _told(states: dict[str, dict[str, int]]) -> str:
    """Such as ``Edge 1 of 2, Segmenter-builtin 0 of 2 running``."""
    parts = [
        f"{name} {counts.get('RUNNING', 0)} of {sum(counts.values())}"
        for name, counts in sorted(states.items())
        if counts
    ]
    return f"{', '.join(parts)} running" if parts else "starting edges and Segmenters"
