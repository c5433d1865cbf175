"""Prove where inference runs: run a real graph, read each node's provider from ONNX Runtime's profile, and time it.

A session that lists CUDA may still run on the CPU. What counts is where the nodes ran and whether it was faster.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from osamd.plurals import counted
from osamd.runtime.sessions import CPU, CUDA, Placement, Session, device_of
from osamd.types import FloatArray

# Large enough that computation dominates kernel launches.
SIDE = 1344
RUNS = 5
# TF32 and a different summation order stay below this; a wrong kernel does not.
LARGEST_DIFFERENCE = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """How a graph ran on a placement.

    Attributes:
        providers: the session's providers, in order.
        nodes: number of nodes by provider.
        first_s: seconds of the first run.
        usual_s: median seconds of later runs.
        output: of the graph, for comparison.
    """

    providers: tuple[str, ...]
    nodes: Mapping[str, int]
    first_s: float
    usual_s: float
    output: FloatArray


@dataclass(frozen=True, slots=True)
class Proof:
    """The same graph on the GPU and on the CPU."""

    gpu: Run
    cpu: Run

    @property
    def difference(self) -> float:
        """The largest difference between the outputs, relative to the CPU's largest value."""
        return float(np.abs(self.gpu.output - self.cpu.output).max() / max(float(np.abs(self.cpu.output).max()), 1e-6))

    @property
    def problems(self) -> tuple[str, ...]:
        """Reasons to doubt that the GPU did the work."""
        found = []
        if self.gpu.providers[0] != CUDA:
            found.append(f"the session runs on {self.gpu.providers[0]}")
        if self.gpu.nodes.get(CUDA, 0) <= self.gpu.nodes.get(CPU, 0):
            found.append(f"only {self.gpu.nodes.get(CUDA, 0)} of {sum(self.gpu.nodes.values())} nodes ran on CUDA")
        if self.gpu.usual_s >= self.cpu.usual_s:
            found.append("it was no faster than the CPU")
        if self.difference > LARGEST_DIFFERENCE:
            found.append(f"its output differs from the CPU's by {self.difference:.0%}")
        return tuple(found)

    def sentence(self) -> str:
        """The figures in one line."""
        nodes = ", ".join(
            f"{counted(count, 'node')} on {device_of([name])}" for name, count in sorted(self.gpu.nodes.items())
        )
        return (
            f"{nodes}; {self.gpu.usual_s * 1000:.1f} ms against {self.cpu.usual_s * 1000:.1f} ms on the CPU"
            f" ({self.cpu.usual_s / self.gpu.usual_s:.1f} times as fast); first run {self.gpu.first_s * 1000:.0f} ms;"
            f" largest difference {self.difference:.2%}"
        )


def prove(graph: Path, placement: Placement) -> Proof:
    """Run the graph as placed and on the CPU.

    Args:
        graph: takes ``x``, (1, 3, H, W) float32, H and W open.
        placement: where it should run.

    Raises:
        ModelLoadError: the session could not use the device.
        InferenceError: it failed there.
        OSError: there is no folder for the profile, which is a temporary file.
    """
    gpu = _run(graph, placement)
    return Proof(gpu, _run(graph, Placement((CPU,), placement.threads)))


def _run(graph: Path, placement: Placement) -> Run:
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
    session = Session(graph, placement)
    seconds = []
    for _ in range(1 + RUNS):
        start = time.perf_counter()
        output = session.run({"x": image})[0]
        seconds.append(time.perf_counter() - start)
    return Run(session.providers, _nodes(graph, placement, image), seconds[0], median(seconds[1:]), output)


def _nodes(graph: Path, placement: Placement, image: FloatArray) -> Counter[str]:
    """The number of nodes run by each provider."""
    with tempfile.TemporaryDirectory(prefix="osamd-profile-") as folder:
        session = Session(graph, placement, profile=Path(folder) / "profile")
        session.run({"x": image})
        events = json.loads(session.end_profile().read_bytes())
    ran = {event["name"]: event["args"]["provider"] for event in events if "provider" in event.get("args", {})}
    return Counter(ran.values())
