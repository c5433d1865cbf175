from pathlib import Path

import pytest
from fake_model import FakeModel

from osamd import models
from osamd.engine.inference import FIRST_SIDE, load_model
from osamd.errors import InferenceError, ModelLoadError
from osamd.library.catalog import DEFAULT_MODEL, load_catalog
from osamd.library.store import Store
from osamd.models.base import Adapter
from osamd.settings import load_settings


def load(monkeypatch: pytest.MonkeyPatch, model: FakeModel) -> Adapter:
    """What loading gives where the family's adapter is this one."""
    monkeypatch.setattr(models, "build_model", lambda *_: model)
    row = load_catalog().resolve(DEFAULT_MODEL)
    return load_model(row, store=Store(Path("unused")), settings=load_settings(device="cpu"))


def test_a_model_on_a_gpu_is_loaded_when_it_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first, slow run is part of loading; on the CPU there is none."""
    on_gpu, on_cpu = FakeModel(device="cuda"), FakeModel(device="cpu")
    assert load(monkeypatch, on_gpu) is on_gpu
    assert load(monkeypatch, on_cpu) is on_cpu
    assert ([(FIRST_SIDE, FIRST_SIDE)], 1) == (on_gpu.encoded, len(on_gpu.decoded))
    assert [] == on_cpu.encoded


def test_a_gpu_that_loads_and_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that only the first run misses fails the load, so the server is not ready."""

    def fail(_: object) -> None:
        raise InferenceError("inference failed: libcudnn_cnn.so.9: cannot open shared object file")

    with pytest.raises(ModelLoadError, match=r"loads but does not run on cuda.*libcudnn_cnn"):
        load(monkeypatch, FakeModel(device="cuda", on_encode=fail))
