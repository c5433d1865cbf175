import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from benchmarks import rembg_peer, run
from benchmarks.photos import photo, variant
from onnx import TensorProto, helper

from osamd.pixels.images import decode_image


def test_every_side_is_clicked_and_a_missing_peer_is_named(
    small_blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes; the picture is drawn from these numbers."""
    results = tmp_path / "results"
    command = ["run", "--quick", "--only", "peers", "--blobs", str(small_blobs), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(rembg_peer, "REMBG", tmp_path / "nowhere")

    run.main()

    document = json.loads((results / "peers.json").read_text("utf-8"))
    sides = ["osamd", "osam", "FastAPI + SamOnnxModel"]
    rates = document["raw"]["clicks a second"]
    assert sides == list(rates)
    assert {"1": 1, "2": 1} == {clients: len(values) for clients, values in rates["osam"].items()}
    assert all(document["raw"]["latencies of one client"][side] for side in sides)
    assert "rembg not installed (make bench-rembg)" in (results / "table.md").read_text("utf-8")


def test_rembgs_encoder_sees_what_the_others_do() -> None:
    """Pixels go in as it sends them, scaled and padded planes come out."""
    shape = [1, 3, 1024, 1024]
    taken, given = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", [taken], [given])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pixels = np.random.default_rng(0).integers(0, 256, (684, 1024, 3)).astype(np.float32)

    written = rembg_peer.with_preparation(model)
    onnx.checker.check_model(written)
    session = ort.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels})

    assert np.allclose((pixels[..., 2] - 103.53) / 57.375, found[0, 2, :684], atol=1e-5)
    assert not found[:, :, 684:].any()


def test_variants_are_the_same_picture_in_other_bytes() -> None:
    """So that a server encodes each of them, and nobody has to draw thousands."""
    original = photo(1, width=64, height=40)
    first, second = (variant(original, number) for number in (1, 2))

    assert 3 == len({original, first, second})
    pixels = [decode_image(data, max_pixels=10_000).pixels for data in (original, first, second)]
    assert np.array_equal(pixels[0], pixels[1])
    assert np.array_equal(pixels[0], pixels[2])
