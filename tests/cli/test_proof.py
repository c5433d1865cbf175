from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from osamd.cli import proof
from osamd.cli.proof import Proof, Run, prove
from osamd.library.catalog import DEFAULT_MODEL, load_catalog
from osamd.library.store import Store
from osamd.runtime.sessions import CPU, CUDA, Placement

OUTPUT = np.array([[1.0, -2.0]], np.float32)
ON_CPU = Run((CPU,), {CPU: 90}, 0.3, 0.2, OUTPUT)
ON_GPU = Run((CUDA, CPU), {CUDA: 88, CPU: 2}, 0.9, 0.004, OUTPUT * 1.001)


def test_gpu_that_did_the_work_has_no_problems() -> None:
    """Most nodes on CUDA, quicker than the CPU, the same answer: no problems, and the figures are shown."""
    good = Proof(ON_GPU, ON_CPU)
    assert () == good.problems
    assert (
        "2 nodes on cpu, 88 nodes on cuda; 4.0 ms against 200.0 ms on the CPU (50.0 times as fast); first run 900 ms;"
        " largest difference 0.10%"
    ) == good.sentence()


@pytest.mark.parametrize(
    ("gpu", "problem"),
    [
        (replace(ON_GPU, providers=(CPU,)), "the session runs on CPUExecutionProvider"),
        (replace(ON_GPU, nodes={CUDA: 3, CPU: 87}), "only 3 of 90 nodes ran on CUDA"),
        (replace(ON_GPU, nodes={}), "only 0 of 0 nodes ran on CUDA"),
        (replace(ON_GPU, usual_s=0.2), "it was no faster than the CPU"),
        (replace(ON_GPU, output=OUTPUT + 1), "its output differs from the CPU's by 50%"),
    ],
)
def test_each_reason_to_doubt_is_named(gpu: Run, problem: str) -> None:
    """A promise of the session alone, nodes that ran elsewhere, no gain, another answer."""
    assert (problem,) == Proof(gpu, ON_CPU).problems


def test_profile_of_a_real_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiler's notes give every node's provider; on the CPU they are all its own, and no proof of a GPU."""
    monkeypatch.setattr(proof, "SIDE", 64)
    monkeypatch.setattr(proof, "RUNS", 1)
    graph = Store(Path("unused")).paths(load_catalog().resolve(DEFAULT_MODEL))["encoder"]
    found = prove(graph, Placement((CPU,), 1))
    assert {CPU} == set(found.gpu.nodes)
    assert found.gpu.nodes[CPU] > 50
    assert found.gpu.first_s > 0
    assert 0.0 == found.difference
    assert "the session runs on CPUExecutionProvider" in found.problems
