import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from graphs import sam_decoder
from onnx_graph import FLOAT, Graph

# Weights of the big encoder.
ROWS, COLUMNS = 4_000, 8_192
WEIGHTS = 4 * ROWS * COLUMNS
WAIT_S = 600


def big_encoder(path: Path) -> Path:
    """SAM's encoder with 131 MB of weights in front of it, every one of which is used."""
    graph = Graph()
    mean = graph.op("Reshape", graph.op("ReduceMean", "x", axes=[1, 2, 3], keepdims=1), [1, 1])
    weights = np.random.default_rng(0).random((ROWS, COLUMNS), np.float32)
    row = graph.op("MatMul", graph.op("Mul", mean, np.ones((1, ROWS), np.float32)), weights)
    shift = graph.op("Mul", graph.op("Reshape", graph.op("ReduceMean", row, keepdims=1), [1, 1, 1, 1]), np.float32(0))
    graph.op("Add", graph.channels(graph.pool("x", 16), 256), shift, name="features")
    return graph.save(path, {"x": (FLOAT, (1, 3, 1024, 1024))}, {"features": (FLOAT, (1, 256, 64, 64))})


def test_unloading_returns_the_memory(tmp_path: Path) -> None:
    """A model of 130 MB that is unloaded leaves less than a tenth of what it took, however often it comes and goes."""
    paths = {"encoder": big_encoder(tmp_path / "encoder.onnx"), "decoder": sam_decoder(tmp_path / "decoder.onnx")}
    rows = '[[model]]\nname = "big"\nfamily = "sam"\n' + "".join(
        f'[model.blobs.{role}]\nurl = "{path.as_uri()}"\n' for role, path in paths.items()
    )
    catalog = tmp_path / "models.toml"
    catalog.write_text(rows, "utf-8")
    script = Path(__file__).parents[1] / "memory_process.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script), str(catalog), str(tmp_path / "cache"), "big"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    steps = [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
    assert 3 == len(steps)
    for before, loaded, after in steps:
        assert loaded - before > 0.9 * WEIGHTS
        assert after - before < (loaded - before) / 10
