"""Ray for ``osamd batch``: started on this machine for one run, or a cluster that is there."""

import contextlib
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osamd.cluster.private_ray import NORMAL_PRIORITY, private_environment
from osamd.dataset.local import MOST_PARALLEL, Machine
from osamd.errors import InvalidRequestError, UnreachableError
from osamd.plurals import counted
from osamd.runtime.container import cpu_count

HERE: Final = "ray"
SCHEME: Final = "ray://"
ADDRESS: Final = "RAY_ADDRESS"
# Shared memory for large messages, of which there are none.
OBJECT_STORE_BYTES: Final = 100_000_000
# Nobody can read them: there is no dashboard. Collecting them doubles the work of Ray's agent.
NO_METRICS: Final = {"RAY_enable_metrics_collection": "0"}
# Ray's own handlers for these end the process at once.
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Placement:
    """The actors of a run.

    Attributes:
        count: how many.
        threads: cores of each.
        gpus: of each.
    """

    count: int
    threads: int
    gpus: int


def check_address(address: str) -> None:
    """Refuse anything that is not an address.

    Raises:
        InvalidRequestError: it is not, or Ray is not installed.
    """
    if address != HERE and not (address.startswith(SCHEME) and address != SCHEME):
        raise InvalidRequestError(f"--on {address}: expected ray, or the address of a cluster such as ray://host:10001")
    if importlib.util.find_spec("ray") is None:
        raise InvalidRequestError("--on ray needs Ray: pip install 'osamd[cluster]'")


def is_this_machine(address: str) -> bool:
    """Whether Ray is started on this machine for the run."""
    return address == HERE and not os.environ.get(ADDRESS)


@contextlib.contextmanager
def connected(address: str, *, count: int | None, threads: int | None, tell: Callable[[str], None]) -> Iterator[Any]:
    """Ray, for as long as the block runs.

    Args:
        address: ``ray`` or ``ray://HOST:PORT``.
        count: actors that will be started, if known.
        threads: cores of each, if known.
        tell: told that it takes a while.

    Yields:
        Ray's module.

    Raises:
        UnreachableError: it did not start, cannot be reached, or the connection was lost.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as opened:
        if is_this_machine(address):
            options = opened.enter_context(_alone(max(cpu_count(), (count or 1) * (threads or 1))))
            tell("starting Ray on this machine")
        else:
            options = {"address": os.environ[ADDRESS] if address == HERE else address}
            tell("connecting to Ray")
        import ray
        from ray.exceptions import RayError, RayTaskError

        with _own_handlers():
            try:
                ray.init(log_to_driver=False, logging_level="ERROR", **options)
            except Exception as error:  # noqa: BLE001 - a start that takes too long is a bare one
                raise UnreachableError(f"Ray did not answer: {error}") from None
        opened.callback(ray.shutdown)
        try:
            yield ray
        except RayTaskError:
            # A bug of ours, with its traceback.
            raise
        except RayError as error:
            raise UnreachableError(f"the connection to Ray was lost: {error}") from None


def placement_for(ray: Any, *, count: int | None, machine: Machine) -> Placement:
    """How many actors, and what each needs.

    Args:
        ray: the module, connected.
        count: actors that the user asked for, or None.
        machine: what the user asked for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = 0 if machine.device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU")] or [1]
    number = count or gpus
    most = max(1, sum(cores) // number) if number else MOST_PARALLEL
    threads = machine.threads or min(most, MOST_PARALLEL, *cores)
    by_cores = max(1, sum(one // threads for one in cores))
    needs_gpu = gpus > 0 or machine.device == "cuda"
    return Placement(number or by_cores, threads, int(needs_gpu))


def check_room(ray: Any, place: Placement, *, is_here: bool, tell: Callable[[str], None]) -> None:
    """Say that no machine is large enough for a worker: Ray itself waits for one without a word.

    Args:
        ray: the module, connected.
        place: what each worker needs.
        is_here: whether Ray runs on this machine alone, to which nothing is added.
        tell: told what a cluster, which may grow, is waiting for.

    Raises:
        InvalidRequestError: this machine has no GPU, and workers need one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= place.threads and node.get("GPU", 0) >= place.gpus for node in nodes):
        return
    if is_here:
        raise InvalidRequestError(
            "--device cuda: this machine has no GPU that Ray sees: use --device cpu, or a cluster"
        )
    needs = counted(place.threads, "core") + (" and a GPU" if place.gpus else "")
    tell(f"no machine of the cluster has the {needs} that a worker needs; waiting for one to join")


@contextlib.contextmanager
def _alone(cores: int) -> Iterator[dict[str, Any]]:
    """Arguments for a Ray on loopback alone, with a token that only this user can read."""
    # Short: Ray puts sockets into it, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="osamd-"))
    try:
        os.environ |= private_environment(folder) | NORMAL_PRIORITY | NO_METRICS
        yield {
            "address": "local",
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(folder / "ray"),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep the handlers of signals that were set before the block."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
