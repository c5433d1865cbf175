"""``osamd cluster`` as far as it goes without Ray, and the end of all that a process has started."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

from osamd.cli.main import main
from osamd.errors import PullError
from osamd.library.catalog import Model

# Starts a shell that starts two processes and ends; the first argument is how to stop.
PARENT: Final = """
import os, subprocess, sys
from osamd.cluster.processes import adopt_orphans, descendants, end_descendants
adopt_orphans()
subprocess.run(["sh", "-c", "sleep 1000 & sleep 1000 &"], check=True)
started = descendants(os.getpid())
killed = end_descendants(os.getpid(), patience_s=0.3)
print(len(started), len(killed), len(descendants(os.getpid())))
"""


def test_without_ray_it_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that needs the extra names it."""
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    assert 2 == main(["cluster", "up"])
    assert "pip install 'osamd[cluster]'" in capsys.readouterr().err


@pytest.fixture
def as_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printing a configuration does not import Ray."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.usefixtures("as_if_installed")
def test_models_are_pulled_before_the_cluster_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Segmenters would download them silently while the start waits for no longer than five minutes."""
    asked: list[str] = []

    def fail(model: Model, _: object) -> None:
        asked.append(model.name)
        raise PullError("no source answered")

    monkeypatch.setattr("osamd.cli.models.bring", fail)
    monkeypatch.setenv("OSAMD_CACHE", str(tmp_path))
    monkeypatch.setenv("OSAMD_PULL", "auto")
    monkeypatch.setenv("OSAMD_THREADS", "1")
    monkeypatch.setenv("OSAMD_MODEL_MEMORY_BYTES", "1000000000")
    assert 5 == main(["cluster", "up", "--model", "builtin", "--model", "sam2:tiny"])
    assert (["sam2:tiny"], "osamd: no source answered\n") == (asked, capsys.readouterr().err)


@pytest.mark.usefixtures("as_if_installed")
def test_the_configuration_has_segmenters_of_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    """By load without a number, else as many as asked for; GPUs as given."""
    assert 0 == main(["cluster", "config", "--model", "sam2:tiny", "--model", "builtin", "--gpus", "0.5"])
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    _, *segmenters = application["deployments"]
    assert ["Segmenter-sam2-tiny", "Segmenter-builtin"] == [one["name"] for one in segmenters]
    assert {"models": ["sam2:tiny", "builtin:latest"]} == application["args"]
    for one in segmenters:
        assert 0 == one["autoscaling_config"]["min_replicas"]
        assert 0.5 == one["ray_actor_options"]["num_gpus"]
    assert 0 == main(["cluster", "config", "--segmenters", "3"])
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    assert 3 == application["deployments"][1]["num_replicas"]


@pytest.mark.usefixtures("as_if_installed")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "nothing"], "nothing"),
        (["--model", "yoloworld+sam2:tiny"], "is a chain"),
        (["--gpus", "-1"], "--gpus"),
        (["--gpus", "1.5"], "--gpus"),
        (["--port", "70000"], "--port"),
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    """Each is named before anything starts."""
    assert 2 == main(["cluster", "config", *arguments])
    assert told in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_was_started_ends() -> None:
    """Processes whose own parent is gone, too."""
    ended = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    assert "2 2 0" == ended.stdout.strip(), ended.stderr
