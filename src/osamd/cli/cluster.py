"""``osamd cluster``: many Segmenters behind edges, on this machine or described for a real cluster."""

import argparse
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from osamd.errors import InvalidRequestError

if TYPE_CHECKING:
    from osamd.settings import Settings

EXTRA: Final = "ray"
LOCAL_SEGMENTERS: Final = 2
HIGHEST_PORT: Final = 65535


def run(arguments: argparse.Namespace) -> int:
    """Run a cluster here, or print Ray Serve's configuration."""
    _check(arguments)
    if importlib.util.find_spec(EXTRA) is None:
        raise InvalidRequestError("osamd cluster needs Ray: pip install 'osamd[cluster]'")
    return _print_config(arguments) if arguments.action == "config" else _up(arguments)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.port is not None and not 0 < arguments.port <= HIGHEST_PORT:
        raise InvalidRequestError(f"--port: expected a number from 1 to {HIGHEST_PORT}")
    gpus = arguments.gpus
    # Ray shares a GPU out in parts, and several only whole.
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
        raise InvalidRequestError("--gpus: expected a part of a GPU, such as 0.5, or a number of whole ones")


def _print_config(arguments: argparse.Namespace) -> int:
    import yaml

    from osamd.cluster.configuration import EDGE_RESOURCE, SEGMENTER_RESOURCE, Plan, node_environment, serve_config
    from osamd.settings import load_settings

    models = _models(arguments, load_settings())
    edges, segmenters = (f"--resources '{{\"{name}\": 2}}'" for name in (EDGE_RESOURCE, SEGMENTER_RESOURCE))
    print(f"# Up to two edges run where Ray was started with {edges}; only those machines need keys.")
    if not arguments.gpus:
        print(f"# Up to two Segmenters run where Ray was started with {segmenters}; use other machines.")
    print("# Every machine needs osamd's settings, and this environment before Ray starts;")
    print("# RAY_SERVE_HAPROXY_BINARY_PATH is the script that osamd.cluster.haproxy.write_script writes:")
    for name, value in node_environment().items():
        print(f"#   {name}={value}")
    plan = Plan(models=models, segmenters=arguments.segmenters, gpus=arguments.gpus, port=arguments.port or Plan.port)
    sys.stdout.write(yaml.safe_dump(serve_config(plan), sort_keys=False))
    return 0


def _up(arguments: argparse.Namespace) -> int:
    from osamd.cluster.configuration import LOOPBACK, Plan, serve_config
    from osamd.cluster.local import running
    from osamd.settings import load_settings

    settings = load_settings()
    segmenters = arguments.segmenters or LOCAL_SEGMENTERS
    models = _models(arguments, settings)
    port = arguments.port or settings.port
    plan = Plan(models=models, segmenters=segmenters, gpus=arguments.gpus, host=LOOPBACK, port=port)
    _share_machine(segmenters * len(models))
    _bring(models)
    progress = _Progress()
    try:
        with running(serve_config(plan, is_local=True), progress.show) as (address, logs):
            progress.end()
            known = " ".join(f"{name}={value}" for name, value in address.items())
            print(f"osamd: Ray's own commands reach the cluster with {known}", file=sys.stderr)
            print(f"osamd: logs, until the cluster stops, in {logs}", file=sys.stderr)
            print(f"osamd: http://{LOOPBACK}:{port} (Ctrl-C stops the cluster)", file=sys.stderr, flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        progress.end()
    return 0


class _Progress:
    """The state of the start: one line that is rewritten in a terminal, a line for each change elsewhere."""

    def __init__(self) -> None:
        self._is_watched = sys.stderr.isatty()
        self._said = ""

    def show(self, text: str) -> None:
        """Show what is going on."""
        if text == self._said:
            return
        self._said = text
        sys.stderr.write(f"\r\033[K{text}" if self._is_watched else f"osamd: {text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Clear the line."""
        if self._is_watched and self._said:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _models(arguments: argparse.Namespace, settings: "Settings") -> tuple[str, ...]:
    """The full names of the models.

    Raises:
        UnknownModelError: one is not in the catalogue.
        InvalidRequestError: one is a chain, which the Segmenters of its parts answer.
    """
    from osamd.library.catalog import DEFAULT_MODEL, load_catalog

    catalog = load_catalog(settings.user_catalog)
    found = [catalog.resolve(name) for name in arguments.model or [DEFAULT_MODEL]]
    for model in found:
        if model.parts:
            raise InvalidRequestError(f"--model: {model.name} is a chain: give the models it is made of")
    return tuple(dict.fromkeys(model.name for model in found))


def _bring(models: Iterable[str]) -> None:
    """Pull models that are not here: Segmenters would do it silently while they start.

    Raises:
        ModelError: one cannot be pulled.
    """
    from osamd.cli.models import bring_absent, own_library

    library = own_library()
    for model in models:
        bring_absent(library.resolve(model), library)


def _share_machine(segmenters: int) -> None:
    """Give each Segmenter its part of the cores and of half the memory, which would be the default of each."""
    from osamd.engine.loaded_models import half_of_memory
    from osamd.runtime.container import cpu_count

    os.environ.setdefault("OSAMD_THREADS", str(max(1, cpu_count() // segmenters)))
    os.environ.setdefault("OSAMD_MODEL_MEMORY_BYTES", str(half_of_memory() // segmenters))
