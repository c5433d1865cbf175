"""The only importer of ONNX Runtime: providers, threads, loading and running graphs."""

import contextlib
import ctypes
import functools
import gc
import io
import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

# Recent releases of ONNX Runtime report every session to Microsoft, and keep an id in the home directory. They read
# this variable when they are loaded; disable_telemetry_events() would be too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from osamd.daemon_thread import on_daemon_thread
from osamd.errors import InferenceError, ModelLoadError, OutOfMemoryError, OverloadedError, SettingsError
from osamd.plurals import counted
from osamd.runtime import heap
from osamd.runtime.background import Background
from osamd.runtime.container import cpu_count
from osamd.runtime.graphs import GraphCache
from osamd.runtime.out_of_memory import is_out_of_memory
from osamd.settings import Device

logger = logging.getLogger("osamd")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
# By default cuDNN tries every algorithm at each new input size, for seconds; with fixed sizes, at the first run only.
# Also, memory grows by what is needed instead of doubling.
OPTIONS = {CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}}
# ``kSameAsRequested`` of ONNX Runtime's arenas.
AS_REQUESTED = 1
# A minimal graph: y = x, of one float.
IDENTITY = bytes.fromhex(
    "08083a370a100a01781201792208 4964656e74697479120167 5a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a020801 42040a001011".replace(" ", "")
)
PROVIDERS_VARIABLE = "OSAM_ONNX_PROVIDERS"
WARNINGS_OFF = 3

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how sessions run.

    Attributes:
        providers: ONNX Runtime providers in the order they are tried.
        threads: threads of one inference.
        may_fall_back: whether a model that cannot use the first provider runs on the CPU instead of failing.
        graphs: the cache of optimised graphs, or None. Only used for the CPU.
    """

    providers: tuple[str, ...]
    threads: int
    may_fall_back: bool = False
    graphs: GraphCache | None = None

    @property
    def device(self) -> str:
        """``cuda`` or ``cpu``, from the first provider."""
        return device_of(self.providers)


@functools.cache
def _share_arena() -> None:
    """Let CPU sessions share one arena, which grows by what is requested and can be shrunk when idle."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": AS_REQUESTED}))


def _use_shared_arena(options: ort.SessionOptions) -> None:
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Otherwise a graph's plan holds buffers for later values of the same size while others are computed: SAM's encoder
    # took 3.3 GB and takes 2.2 GB without. The arena hands the same pages out again, so that it costs nothing.
    options.enable_mem_reuse = False
    # Keep weights out of the arena, which could not shrink around them.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")


@functools.cache
def _shrinking_session() -> ort.InferenceSession:
    options = _options(1, None)
    _use_shared_arena(options)
    return ort.InferenceSession(IDENTITY, options, providers=[CPU])


def release_memory() -> None:
    """Return unused memory of sessions and of glibc's heap to the system.

    The next run pays for it in page faults, a tenth more for an encoder, so call it only when idle.
    """
    gc.collect()
    # The arena shrinks at the end of a run that requests it, of any graph.
    shrinking = ort.RunOptions()
    shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _shrinking_session().run(None, {"x": np.zeros(1, np.float32)}, shrinking)
    heap.trim()


def built_for_cuda() -> tuple[int, int] | None:
    """The CUDA version that this ONNX Runtime was built with, such as (13, 0); None for a CPU build."""
    parts = str(getattr(ort, "cuda_version", "")).split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and all(part.isdigit() for part in parts[:2]) else None


def graph_cache(folder: Path) -> GraphCache:
    """The cache of optimised graphs in a folder, for this version of ONNX Runtime."""
    return GraphCache(folder, ort.__version__)


def available_providers() -> tuple[str, ...]:
    """The providers of this build of ONNX Runtime."""
    return tuple(ort.get_available_providers())


def choose_placement(*, device: Device, onnx_providers: Sequence[str], threads: int) -> Placement:
    """Choose where models run.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        onnx_providers: explicit providers, which override ``device``.
        threads: threads of one inference; 0 means one for each core that this process may use, within a container's
            CPU quota.

    Raises:
        SettingsError: a requested provider is not in this build of ONNX Runtime.
    """
    available = available_providers()
    count = threads or cpu_count()
    if onnx_providers:
        missing = [name for name in onnx_providers if name not in available]
        if missing:
            raise SettingsError(
                f"{PROVIDERS_VARIABLE}: this ONNX Runtime has no {', '.join(missing)}; it has {', '.join(available)}"
            )
        return Placement(tuple(onnx_providers), count)
    if device == "cuda" and CUDA not in available:
        raise SettingsError("OSAMD_DEVICE: cuda was requested, but this ONNX Runtime is built without it")
    if device != "cpu" and CUDA in available:
        return Placement((CUDA, CPU), count, may_fall_back=device == "auto")
    return Placement((CPU,), count)


def device_of(providers: Sequence[str]) -> str:
    """The short name of the first provider: ``CUDAExecutionProvider`` is ``cuda``."""
    return providers[0].removesuffix("ExecutionProvider").lower()


@functools.cache
def load_cuda_libraries() -> None:
    """Load CUDA's libraries from their Python packages, where the loader would not look."""
    # It prints what it does not find, but stdout is for data. A missing library is reported again when it is needed.
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.debug("%s", line)


def _load(path: Path, providers: Sequence[str], placement: Placement, profile: Path | None) -> ort.InferenceSession:
    graphs = placement.graphs
    kept = graphs.place(path, provider=CPU) if graphs is not None and tuple(providers) == (CPU,) else None
    if graphs is None or kept is None:
        return _open(path, providers, _options(placement.threads, profile))
    if os.path.exists(kept):  # noqa: PTH110 - Path.exists raises where a folder may not be entered
        options = _options(placement.threads, profile)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return _open(kept, providers, options)
        except ModelLoadError as error:
            logger.warning("an optimised graph failed to load; building it again: %s", error)
    with graphs.making(kept) as written:
        options = _options(placement.threads, profile)
        if written is not None:
            options.optimized_model_filepath = str(written)
        try:
            return _open(path, providers, options)
        except ModelLoadError:
            # Possibly only the optimised graph could not be written.
            return _open(path, providers, _options(placement.threads, profile))


def _options(threads: int, profile: Path | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = WARNINGS_OFF
    # Memory planning doubles the memory: SAM's encoder took 6.4 GB with it and 3.3 GB without, at the same speed.
    options.enable_mem_pattern = False
    # Spinning threads would use CPU while the server is idle.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(path: Path, providers: Sequence[str], options: ort.SessionOptions) -> ort.InferenceSession:
    if CUDA in providers:
        load_cuda_libraries()
    else:
        _use_shared_arena(options)
    try:
        session = ort.InferenceSession(
            path, options, providers=list(providers), provider_options=[OPTIONS.get(name, {}) for name in providers]
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"{path} does not fit into {device_of(providers)} memory: {error}") from error
        raise ModelLoadError(f"{path} failed to load on {device_of(providers)}: {error}") from error
    active = session.get_providers()
    if active[0] != providers[0]:
        # ONNX Runtime falls back to the CPU with just a log line; a GPU that is paid for must be used.
        raise ModelLoadError(
            f"{path} should run on {providers[0]}, but got {active[0]}{_what_is_missing(providers[0])}"
        )
    return session


def _what_is_missing(provider: str) -> str:
    """Why a provider is unavailable, according to the loader, such as a missing libcudnn."""
    folder = Path(ort.__file__).parent / "capi"
    name = provider.removesuffix("ExecutionProvider").lower()
    try:
        for library in (f"libonnxruntime_providers_{part}.so" for part in ("shared", name)):
            ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f": {error}"
    return ": its libraries are installed; check the driver and the device"


@functools.cache
def _tell_fallback(provider: str, reason: str) -> None:
    """Log each reason once; every reply and ``/ready`` name the device in use."""
    logger.warning("running on the CPU, because %s is not available: %s", provider, reason)


def _run_here(work: Callable[[], Result]) -> Result:
    return work()


class Session:
    """A loaded graph; ``run`` is thread-safe.

    Args:
        path: an ONNX file.
        placement: where it runs.
        in_background: for encoders: its threads get a lower priority than those of other sessions.
        profile: path prefix of ONNX Runtime's profile, which records the provider of each node; see ``end_profile``.

    Raises:
        ModelLoadError: the file is not a valid graph, or it did not load on the requested device.
    """

    def __init__(
        self, path: Path, placement: Placement, *, in_background: bool = False, profile: Path | None = None
    ) -> None:
        self._run = _run_here
        if in_background:
            behind = Background(f"osamd-{path.stem}")
            weakref.finalize(self, behind.close)
            self._run = behind.run

        def load(providers: Sequence[str]) -> ort.InferenceSession:
            # The session's threads inherit the priority of the thread that creates them.
            return self._run(lambda: _load(path, providers, placement, profile))

        try:
            self._session = load(placement.providers)
        except ModelLoadError as error:
            if not placement.may_fall_back:
                raise
            _tell_fallback(placement.providers[0], str(error))
            self._session = load((CPU,))
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())
        # Dynamic sizes are names or None. An unknown shape is empty, like a scalar's.
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.input_shapes: dict[str, tuple[int | str | None, ...]] = {node.name: tuple(node.shape) for node in inputs}
        self.output_shapes: dict[str, tuple[int | str | None, ...]] = {
            node.name: tuple(node.shape or ()) for node in outputs
        }
        # Such as float for float32.
        self.input_types: dict[str, str] = {
            node.name: node.type.removeprefix("tensor(").removesuffix(")") for node in inputs
        }
        self.path = path
        # The full-size masks are an output that we never request, so they are not computed.
        self._options = ort.RunOptions()
        self._options.only_execute_path_to_fetches = True

    def outputs_at(self, *positions: int) -> tuple[str, ...]:
        """Names of outputs by position, for exports whose names differ.

        Raises:
            ModelLoadError: the graph has fewer outputs.
        """
        if max(positions) >= len(self.outputs):
            raise ModelLoadError(
                f"{self.path} has {counted(len(self.outputs), 'output')}; expected {max(positions) + 1}"
            )
        return tuple(self.outputs[position] for position in positions)

    def end_profile(self) -> Path:
        """Write the profile and return the path of its JSON file."""
        return Path(self._session.end_profiling())

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Run the graph.

        Args:
            feeds: every input by name.
            outputs: names of the outputs to compute; None means all, in the graph's order.

        Raises:
            InferenceError: ONNX Runtime rejected the input or failed, or an output has NaN values.
            OverloadedError: the process may start no more threads.
        """
        try:
            results: list[npt.NDArray[np.float32]] = self._run(
                lambda: self._session.run(outputs, dict(feeds), self._options)
            )
        except OverloadedError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"inference ran out of memory: {error}") from error
            raise InferenceError(f"inference failed: {error}") from error
        for name, values in zip(outputs or self.outputs, results, strict=True):
            # The minimum is NaN if any value is; a single pass, 0.3 ms for a SAM feature map.
            if values.size and np.issubdtype(values.dtype, np.floating) and np.isnan(values.min()):
                raise InferenceError(f"{self.path}: the output {name} has NaN values")
        return results

    def run_to_keep(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Like ``run``, for results that outlive the request.

        ``run`` returns views of the arena's blocks. A block may be almost twice as large as what is asked for, and the
        arena cannot give back the region around it. Copies take no more than their size, and leave the arena free.
        """
        return [values.copy() for values in self.run(feeds, outputs)]


def load_both(encoder: Path, decoder: Path, placement: Placement) -> tuple[Session, Session]:
    """Load two graphs at the same time on a CPU: each load keeps one core busy, without the interpreter lock.

    Raises:
        ModelLoadError: see ``Session``.
    """
    if placement.device != "cpu":
        return Session(encoder, placement, in_background=True), Session(decoder, placement)
    # Before there are two threads: only one may do this.
    _share_arena()
    # A load that hangs must not keep the process alive.
    loading = on_daemon_thread(lambda: Session(decoder, placement), "osamd-load-decoder")
    try:
        return Session(encoder, placement, in_background=True), loading.result()
    finally:
        # Also if the encoder failed: nothing goes on behind a caller who may try again.
        wait([loading])
