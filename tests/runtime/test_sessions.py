import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from graphs import write_family
from onnx import TensorProto, helper, numpy_helper, save
from serving import clean_environment
from waiting import WAIT_S

from osamd.errors import InferenceError, ModelLoadError, OutOfMemoryError, SettingsError
from osamd.runtime import sessions
from osamd.runtime.sessions import CPU, CUDA, Placement, Session, choose_placement, load_both
from osamd.settings import load_settings

REAL = ort.InferenceSession


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small graph that loads."""
    return write_family("sam", tmp_path_factory.mktemp("graphs"))["encoder"]


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> Iterator[None]:
    """The log line about a fallback is written once a process."""
    sessions._tell_fallback.cache_clear()
    yield
    sessions._tell_fallback.cache_clear()


def has_cuda(monkeypatch: pytest.MonkeyPatch, behaviour: str) -> list[Sequence[str]]:
    """Have ONNX Runtime list CUDA, but not get it: it falls back ``silently``, or ``raises``; what was asked for."""
    asked: list[Sequence[str]] = []

    def create(path: Path, options: Any, providers: Sequence[str], provider_options: Sequence[dict[str, str]]) -> Any:
        asked.append(providers)
        told = [sessions.OPTIONS[CUDA] if name == CUDA else {} for name in providers]
        assert told == list(provider_options)
        if CUDA in providers and behaviour == "raises":
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
        return REAL(path, options, providers=[CPU])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", create)
    return asked


@pytest.mark.parametrize("behaviour", ["silently", "raises"])
def test_auto_falls_back_and_says_so_once(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, behaviour: str
) -> None:
    """With ``auto`` a GPU that is listed but not to be had means the CPU: one log line, and the truth about it."""
    asked = has_cuda(monkeypatch, behaviour)
    monkeypatch.setattr(logging.getLogger("osamd"), "propagate", True)
    placement = choose_placement(device="auto", onnx_providers=(), threads=1)
    assert ("cuda", (CUDA, CPU)) == (placement.device, placement.providers)
    with caplog.at_level("WARNING", "osamd"):
        first, second = Session(graph, placement), Session(graph, placement)
    assert ((CPU,), (CPU,)) == (first.providers, second.providers)
    assert [[CUDA, CPU], [CPU]] * 2 == [list(providers) for providers in asked]
    (record,) = caplog.records
    assert "running on the CPU, because CUDAExecutionProvider is not available" in record.getMessage()
    (embedding,) = first.run({"x": np.zeros((1, 3, 1024, 1024), np.float32)})
    assert (1, 256, 64, 64) == embedding.shape


@pytest.mark.parametrize(("behaviour", "reason"), [("silently", "but got CPU"), ("raises", "CUDA failure 100")])
def test_cuda_does_not_fall_back(graph: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, reason: str) -> None:
    """With ``cuda`` a load without it fails and says what is missing."""
    has_cuda(monkeypatch, behaviour)
    placement = choose_placement(device="cuda", onnx_providers=(), threads=1)
    with pytest.raises(ModelLoadError, match=reason) as caught:
        Session(graph, placement)
    if behaviour == "silently":
        # The very library that the loader does not find; this ONNX Runtime is built without CUDA.
        assert "libonnxruntime_providers_cuda.so: cannot open shared object file" in str(caught.value)


def test_named_providers_do_not_fall_back(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers that were named are meant, as ``cuda`` is."""
    has_cuda(monkeypatch, "silently")
    placement = choose_placement(device="auto", onnx_providers=(CUDA, CPU), threads=1)
    with pytest.raises(ModelLoadError, match="but got"):
        Session(graph, placement)


def test_cuda_that_is_not_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime without CUDA says so, and ``auto`` takes the CPU without a word."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(SettingsError, match="OSAMD_DEVICE: cuda was requested, but this ONNX Runtime is built without"):
        choose_placement(device="cuda", onnx_providers=(), threads=1)
    assert Placement((CPU,), 3) == choose_placement(device="auto", onnx_providers=(), threads=3)


def test_cpu_is_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``cpu`` does not try a GPU that is there."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    assert (CPU,) == choose_placement(device="cpu", onnx_providers=(), threads=1).providers


def test_osams_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """``OSAM_ONNX_PROVIDERS`` is read as osam reads it, in its order, and wins over the device."""
    monkeypatch.setenv("OSAM_ONNX_PROVIDERS", f" {CPU} , {CUDA},")
    settings = load_settings(device="cuda")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    placement = choose_placement(device=settings.device, onnx_providers=settings.onnx_providers, threads=1)
    assert ((CPU, CUDA), False) == (placement.providers, placement.may_fall_back)


def test_unknown_provider_is_named() -> None:
    """A provider that this build does not have is an error with its name, and with those there are."""
    with pytest.raises(SettingsError, match=r"OSAM_ONNX_PROVIDERS: this ONNX Runtime has no Tpu.*; it has.*CPU"):
        choose_placement(device="auto", onnx_providers=("TpuExecutionProvider",), threads=1)


def test_threads() -> None:
    """0 means the cores this process may use; a number is taken as it is."""
    assert choose_placement(device="cpu", onnx_providers=(), threads=0).threads >= 1
    assert 7 == choose_placement(device="cpu", onnx_providers=(), threads=7).threads


def test_no_graph(tmp_path: Path) -> None:
    """A file that is no graph fails the load, and names the file for the log."""
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"broken")
    with pytest.raises(ModelLoadError, match=r"broken\.onnx failed to load on cpu"):
        Session(file, Placement((CPU,), 1))


def test_failing_inference(graph: Path) -> None:
    """What ONNX Runtime refuses is one error of the tree, and the session goes on working."""
    session = Session(graph, Placement((CPU,), 1))
    with pytest.raises(InferenceError):
        session.run({"x": np.zeros((1, 3, 8, 8), np.float32)})
    assert session.run({"x": np.zeros((1, 3, 1024, 1024), np.float32)})


def test_telemetry_is_off(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, on unless turned off before it is loaded, leaves no id in the home."""
    code = "from osamd.cli.doctor import examine; print(examine().text())"
    env = clean_environment({"HOME": str(tmp_path)})
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "loads, on cpu" in ended.stdout
    assert [] == list(tmp_path.rglob("*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_buffers_are_not_held_for_later_values(tmp_path: Path) -> None:
    """Values whose lifetimes do not overlap share memory, even if a later one has the size of an earlier one."""
    rows = {"first": 1000, "second": 960, "third": 1000}
    nodes, initializers, given = [], [], "x"
    for name, count in rows.items():
        initializers.append(numpy_helper.from_array(np.array([count, 16_384], np.int64), f"{name}_shape"))
        nodes.append(helper.make_node("Expand", [given, f"{name}_shape"], [name]))
        nodes.append(helper.make_node("ReduceMax", [name], [f"{name}_most"], axes=[0, 1]))
        given = f"{name}_most"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])]
    outputs = [helper.make_tensor_value_info(given, TensorProto.FLOAT, [1, 1])]
    graph = helper.make_graph(nodes, "peaks", inputs, outputs, initializers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "peaks.onnx")
    session = Session(tmp_path / "peaks.onnx", Placement((CPU,), 1))
    sessions.release_memory()

    before = resident_bytes()
    assert 1.0 == session.run({"x": np.ones((1, 1), np.float32)})[0].item()

    largest = 4 * 16_384 * max(rows.values())
    try:
        assert 0.9 * largest < resident_bytes() - before < 1.5 * largest
    finally:
        sessions.release_memory()


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_encoder_and_its_decoder_load_at_the_same_time(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each load keeps one core busy. Neither ends before the other has begun."""
    both_begun = threading.Barrier(2, timeout=WAIT_S)

    def create(*args: Any, **keywords: Any) -> ort.InferenceSession:
        both_begun.wait()
        return REAL(*args, **keywords)

    monkeypatch.setattr(ort, "InferenceSession", create)
    encoder, decoder = load_both(graph, graph, Placement((CPU,), 1))

    assert encoder.outputs == decoder.outputs


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_a_broken_encoder_or_decoder_fails_the_load(graph: Path, tmp_path: Path, role: str) -> None:
    """With the message of the file that is broken."""
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    paths = {"encoder": graph, "decoder": graph, role: tmp_path / "broken.onnx"}

    with pytest.raises(ModelLoadError, match=r"broken\.onnx failed to load on cpu"):
        load_both(paths["encoder"], paths["decoder"], Placement((CPU,), 1))


HANGING_LOAD = """
import threading
from pathlib import Path
import onnxruntime
from osamd.runtime.sessions import CPU, Placement, load_both

begun = threading.Barrier(3)

def hang(*_, **__):
    begun.wait()
    threading.Event().wait()

onnxruntime.InferenceSession = hang
paths = Path("encoder.onnx"), Path("decoder.onnx")
threading.Thread(target=load_both, args=(*paths, Placement((CPU,), 1)), daemon=True).start()
begun.wait()
"""


def test_a_load_that_hangs_does_not_keep_the_process_alive() -> None:
    """Such as from a network share that is gone, when the process is told to stop."""
    subprocess.run([sys.executable, "-c", HANGING_LOAD], env=clean_environment({}), check=True, timeout=WAIT_S)


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_memory_that_runs_out_for_one_is_reported_once_the_other_has_ended(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """So that a second try has all the memory."""
    paths = {"encoder": graph, "decoder": graph, role: tmp_path / "large.onnx"}
    has_failed = threading.Event()
    ended: list[str] = []

    def create(path: Path, *args: Any, **keywords: Any) -> ort.InferenceSession:
        if path == paths[role]:
            has_failed.set()
            raise RuntimeError("std::bad_alloc")
        assert has_failed.wait(WAIT_S)
        session = REAL(path, *args, **keywords)
        ended.append(path.name)
        return session

    monkeypatch.setattr(ort, "InferenceSession", create)
    with pytest.raises(OutOfMemoryError, match=r"large\.onnx does not fit"):
        load_both(paths["encoder"], paths["decoder"], Placement((CPU,), 1))
    assert ended == [graph.name]
